"""The flags that name the points of a prediction: `sessionrec predict` and `forecast` share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from doors.bounds import Between
from scaling.errors import InputError

SIZE = Between(0, 1e60, above=True)


@dataclass(frozen=True, kw_only=True)
class PointFlags:
    n: Annotated[tuple[float, ...], SIZE] = ()
    """The size N, or several."""
    d: Annotated[tuple[float, ...], SIZE] = ()
    """The data D, or several. The first N belongs to the first D; a single number holds for all."""
    unique: Annotated[tuple[float, ...], SIZE] = ()
    """The distinct data within D, for a law of repeated data."""
    upstream_loss: Annotated[tuple[float, ...], SIZE] = ()
    """The loss, for a law of a metric against the loss."""
    density: Annotated[tuple[float, ...], Between(0, 1, above=True)] = ()
    """The part of the parameters that are active, for a sparse law."""


def points_of(flags: PointFlags) -> list[dict[str, float]]:
    """Returns the points {axis: value}. Raises InputError where none is given or the numbers do not pair up."""
    given = {"n": flags.n, "d": flags.d, "u": flags.unique, "l": flags.upstream_loss, "s": flags.density}
    given = {axis: values for axis, values in given.items() if values}
    if not given:
        raise InputError("no point is given; name one with the axes of the law, such as --n 3e8 --d 6e9")
    counts = {len(values) for values in given.values()} - {1}
    if len(counts) > 1:
        says = " and ".join(f"{len(values)} of {axis.upper()}" for axis, values in given.items())
        raise InputError(f"{says} came; give as many of each, or one that holds for all")
    points = counts.pop() if counts else 1
    return [{axis: values[min(i, len(values) - 1)] for axis, values in given.items()} for i in range(points)]
