"""Plan `epochs`: what repeated data are worth. Training users x passes over them x model sizes, each a run of its own.

In the law, repeated data count less and less (2305.16264): R_D says after how many repetitions more are worth little.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.scaling_plan import ScalingPlan, around_values, thirds
from experiments.plans.sizes import around
from sessionrec_jax.config.settings import Config
from sessionrec_jax.row_columns import FIT, PARAMS, SESSIONS, SESSIONS_SEEN


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Training users x epochs x sizes x seeds."""

    sizes: tuple[str, ...] = ("xs", "s", "m")
    users: tuple[int, ...] = ()
    """Numbers of training users, nested subsets. Left out: all, and two more, each a third of the one before."""
    epochs: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Passes over the training sessions."""
    law: Literal["repeated", "none"] = "repeated"
    """The law to fit; a plan that cannot identify it is refused. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {"data.users": "--users", "train.epochs": "--epochs"}
    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"d": SESSIONS_SEEN}

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        for count, epochs in itertools.product(self._users(users), self.epochs):
            yield {"data.users": count, "train.epochs": epochs}

    def report(self) -> dict[str, Any]:
        return super().report() | {"select_within": [SESSIONS, PARAMS, "seed", "epochs_planned"]}

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """More users, epochs and sizes."""
        return {
            "users": around_values(self._users(users), 1, users),
            "epochs": tuple(map(float, around_values(self.epochs, 1, 4 * max(self.epochs)))),
            "sizes": around(self.sizes),
        }

    def _users(self, most: int) -> tuple[int, ...]:
        return self.users or thirds(most, 3)
