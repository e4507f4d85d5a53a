"""Plan `grid`: training users x model sizes, each cell tuned over learning rates and epochs, for each seed.

The best run of each cell is chosen by its validation objective: report.json says so to `sessionrec fit` and `report`.
The test sessions are the same for all runs and choose nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.scaling_plan import ScalingPlan, around_values, thirds
from experiments.plans.sizes import around
from scaling.laws import registry
from sessionrec_jax.config.settings import Config


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Training users x sizes x learning rates x epochs x seeds."""

    users: tuple[int, ...] = ()
    """Numbers of training users, nested subsets. Left out: all, and five more, each a third of the one before."""
    epochs: tuple[float, ...] = (8.0,)
    """Passes over the training sessions, to choose from by validation in each cell."""
    user_epochs_max: float = float("inf")
    """Leave out runs of more users x epochs than this, because large data want fewer passes. The fewest epochs of a
    cell always stay."""
    law: Literal["power_floor", "power", "chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = (
        "power_floor"
    )
    """The law to fit; a plan that cannot identify it is refused. The first two are laws of D alone. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {"data.users": "--users", "train.epochs": "--epochs"}

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        for count, epochs in itertools.product(self._users(users), self.epochs):
            if epochs == min(self.epochs) or count * epochs <= self.user_epochs_max:
                yield {"data.users": count, "train.epochs": epochs}

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """More users and sizes, as far as the log and the ladder reach."""
        has_n = "n" in registry.by_name(self.law).axes
        return {
            "users": around_values(self._users(users), 1, users),
            "sizes": around(self.sizes) if has_n else self.sizes,
            "epochs": (min(self.epochs),),
        }

    def _users(self, most: int) -> tuple[int, ...]:
        return self.users or thirds(most, 6)
