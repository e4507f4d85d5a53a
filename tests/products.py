"""The matrix products of a traced program, counted one by one: what count.py must give in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def multiplications(jaxpr: Any) -> int:
    """Multiply-adds of every dot_general of `jaxpr` and of the programs inside it, a scan's as often as it turns.

    XLA's own cost analysis counts the body of a loop once, and elementwise work beside the products.
    """
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    turns = equation.params["length"] if equation.primitive.name == "scan" else 1
    return turns * sum(multiplications(inner) for inner in _inner(equation.params.values()))


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner(value)  # the branches of a condition: at most one runs, all are counted
        elif hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
            yield inner
