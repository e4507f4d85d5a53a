"""The defaults of a fit, for `scaling.fit` and the command line. This file imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitDefaults:
    """The defaults of the arguments of `scaling.fit`."""

    objective: str = "huber"
    delta: str = "auto"
    floor: None = None
    bootstrap: int = 1000
    seed: int = 0


DEFAULTS = FitDefaults()
