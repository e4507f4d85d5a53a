"""The choices of a fit that do not depend on the law, and the values that each may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import InputError, near_miss
from scaling.options import LEAST_DRAWS

OBJECTIVES = ("huber", "ls", "lad", "ls_loss")
LARGEST_SEED = 2**32 - 1
"""The largest seed of numpy's legacy generator, see `problem.resamplings`."""


@dataclass(frozen=True)
class Options:
    """The arguments that `scaling.fit` and `compare` share. Raises InputError for a value that neither can take."""

    objective: str
    delta: float | str
    bootstrap: int
    seed: int
    profiles: bool = False
    """Walk the profile likelihood of each parameter too."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown objective {self.objective!r}; {near_miss(self.objective, OBJECTIVES)}")
        is_number = isinstance(self.delta, int | float) and np.isfinite(self.delta) and self.delta > 0
        if self.delta != "auto" and not is_number:
            raise InputError(f"delta is {self.delta!r}; wanted 'auto' or a number above 0, in nats of log loss")
        check_draws(self.bootstrap)
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"seed is {self.seed}; wanted a whole number from 0 to {LARGEST_SEED}")


def check_draws(bootstrap: int) -> None:
    """Raises InputError for a number of resamplings that gives no 95 % interval."""
    if bootstrap != 0 and bootstrap < LEAST_DRAWS:
        raise InputError(
            f"bootstrap is {bootstrap}; wanted {LEAST_DRAWS} draws or more for a 95 % interval, or 0 for no interval"
        )
