"""Marks most of a parametrization as slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Returns `values` as parameters of a test, all of them slow but those in `quick`."""
    values = list(values)
    assert all(one in values for one in quick)
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
