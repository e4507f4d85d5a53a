"""The defaults of a fit, for `scaling.fit` and the command line. This file imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_DRAWS = 40
"""The smallest number of resamplings: with fewer the 2.5 % point of an interval has no draw of its own."""


@dataclass(frozen=True)
class FitDefaults:
    """The defaults of the arguments of `scaling.fit`."""

    objective: str = "huber"
    delta: str = "auto"
    floor: None = None
    bootstrap: int = 1000
    seed: int = 0


DEFAULTS = FitDefaults()
