"""Fits that compare their law with few forms: most of the time of a fit goes into its slow rivals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scaling.fitting import forms

QUICK = ("power", "power_floor", "chinchilla", "chinchilla_no_floor", "tied")


@contextmanager
def few_forms(*more: str) -> Iterator[None]:
    """Leaves of every family the law that is fitted, the quick forms, and `more`."""
    family = forms.family

    def few(law, known_floor):
        return tuple(form for form in family(law, known_floor) if form.name in (law.name, *QUICK, *more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "family", few)
        yield
