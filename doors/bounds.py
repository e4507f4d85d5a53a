"""The range of every number in a group of settings: its field states it, and one function holds all of them to it.

    @dataclass(frozen=True)
    class Model:
        width: Annotated[int, Between(1, 65_536)] = 64

    check(settings)        # InputError: --width is 0; wanted 1 to 65,536

A bound from above is where a run could no longer end, or a number no longer be computed with. It is far above what
anybody has reason to ask for.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from doors.errors import InputError


class Between(NamedTuple):
    """The lowest and the highest value of a field; `above` and `below` leave the end itself out."""

    lowest: float
    highest: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        low = value > self.lowest if self.above else value >= self.lowest
        high = value < self.highest if self.below else value <= self.highest
        return low and high  # neither holds for a value that is not a number

    def __str__(self) -> str:
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.lowest, self.highest))
        return f"{'above ' if self.above else ''}{low} to {'below ' if self.below else ''}{high}"


SEED = Between(0, 2**32 - 1)
"""A seed; jax and numpy take 32 bits of it."""


def out_of_bounds(settings: Any, within: str = "") -> Iterator[str]:
    """Yields a sentence for each number of a dataclass, and of the dataclasses in it, that its field does not allow.

    None passes, as does a word where a number may stand, and each number of a tuple is held to the range. `within` is
    a prefix of the fields' names.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{within}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from out_of_bounds(value, f"{name}.")
        elif (bounds := bounds_of(hints[field.name])) is not None:
            for each in value if isinstance(value, tuple) else (value,):
                if not (each is None or isinstance(each, str) or bounds.holds(each)):
                    yield f"--{name.replace('_', '-')} is {_short(each)}; wanted {bounds}"


def bounds_of(hint: Any) -> Between | None:
    """Returns the range that a type hint states."""
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((each for each in hint.__metadata__ if isinstance(each, Between)), None)


def check(settings: Any) -> None:
    """Raises InputError that names every number outside its range."""
    if wrong := list(out_of_bounds(settings)):
        raise InputError("; ".join(wrong))


def _short(value: float) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:6]}... ({len(text)} digits)"
