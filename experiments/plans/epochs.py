"""Plan `epochs`: what repeating data is worth. Training users x passes over them x model sizes, each a run of its own.

The law counts repeated data less and less (2305.16264): R_D tells after how many repetitions more are worth little.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.plans.scaling_plan import COLUMNS, SELECT_BY, Scaled, lay_out, thirds, training_users, wider
from experiments.plans.sizes import around
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared


@dataclass(frozen=True)
class Plan(Scaled):
    """Training users x epochs x sizes x seeds."""

    sizes: tuple[str, ...] = ("xs", "s", "m")
    users: tuple[int, ...] = ()
    """Numbers of training users, nested subsets. Left out: all, and two more, each a third of the one before."""
    epochs: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Passes over the training sessions."""
    law: Literal["repeated", "none"] = "repeated"
    """What is to be fitted; a plan that cannot carry it is refused. none: nothing."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS | {"data.users": "--users", "train.epochs": "--epochs"}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        cells = itertools.product(self.users or thirds(training_users(prepared), 3), self.epochs)
        changes = [{"data.users": count, "train.epochs": epochs} for count, epochs in cells]
        report = self.report(COLUMNS | {"d": "sessions_seen"}, None if self.law == "none" else self.law)
        within = ["sessions_unique", "params_body", "seed", "epochs_planned"]  # runs of one cell see as many sessions
        return lay_out(self.each(base, changes), prepared, report | {"select_by": SELECT_BY, "select_within": within})

    def wider(self, base: Config, prepared: Prepared) -> Plan:
        """More users, epochs and sizes: where runs may be added."""
        most = training_users(prepared)
        return dataclasses.replace(
            self.untuned(),
            users=wider(self.users or thirds(most, 3), 1, most),
            epochs=tuple(float(epochs) for epochs in wider(self.epochs, 1, 4 * max(self.epochs))),
            sizes=around(self.sizes),
        )
