"""Marks most of a parametrization as slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], quick: Collection[Any], *, several: bool = False) -> list[Any]:
    """Returns `values` as parameters of a test, all of them slow but those in `quick`.

    `several`: the test has several parameters, and each value is a tuple with one for each.
    """
    values = list(values)
    assert all(one in values for one in quick)
    slow = pytest.mark.slow
    return [
        value if value in quick else pytest.param(*(value if several else (value,)), marks=slow) for value in values
    ]
