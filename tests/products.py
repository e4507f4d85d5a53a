"""Counts the matrix products of a traced program one by one. count.py must give the same in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def multiplications(jaxpr: Any) -> int:
    """Returns the multiply-adds of every dot_general of `jaxpr` and of the programs inside it, a scan's once a turn.

    XLA's own cost analysis counts the body of a loop once, and includes elementwise work.
    """
    return sum(count for _, count in products(jaxpr))


def products(jaxpr: Any, turns: int = 1) -> Iterator[tuple[tuple[Any, Any], int]]:
    """Yields ((type of one side, type of the other), multiply-adds) for each dot_general."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sides = tuple(side.aval for side in equation.invars)
            summed = math.prod(sides[0].shape[i] for i in contracted)
            yield (sides[0].dtype, sides[1].dtype), turns * equation.outvars[0].aval.size * summed
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params.values()):
            yield from products(inner, turns * times)


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner(value)  # the branches of a condition: at most one runs, all are counted
        elif hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
            yield inner
