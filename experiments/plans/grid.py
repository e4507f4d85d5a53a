"""Plan `grid`: training users x model sizes, each cell tuned over learning rates and epochs, for each seed.

The cells' tuned runs are chosen by their validation objective (report.json says so to `sessionrec fit` and `report`);
the test sessions are the same for all and choose nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.plans.scaling_plan import COLUMNS, Scaled, lay_out, thirds, training_users, wider
from experiments.plans.sizes import around
from experiments.sweep.layout import Layout
from scaling.laws import registry
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared


@dataclass(frozen=True)
class Plan(Scaled):
    """Training users x sizes x learning rates x epochs x seeds."""

    users: tuple[int, ...] = ()
    """Numbers of training users, nested subsets. Left out: all, and five more, each a third of the one before."""
    epochs: tuple[float, ...] = (8.0,)
    """Passes over the training sessions to choose from by validation in each cell."""
    user_epochs_max: float = float("inf")
    """Leave out candidates of more users x epochs than this (the fewest epochs of a cell always stay): the larger the
    data, the fewer passes it wants."""
    law: Literal["power_floor", "power", "chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = (
        "power_floor"
    )
    """What is to be fitted; a plan that cannot carry it is refused. The first two are of D alone. none: nothing."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS | {"data.users": "--users", "train.epochs": "--epochs"}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        configs = self.configs(base, training_users(prepared))
        return lay_out(configs, prepared, self.report(COLUMNS, None if self.law == "none" else self.law))

    def wider(self, base: Config, prepared: Prepared) -> Plan:
        """More users and sizes, as far as the log and the ladder reach: where runs may be added."""
        most = training_users(prepared)
        return dataclasses.replace(
            self.untuned(),
            users=wider(self.users or thirds(most, 6), 1, most),
            sizes=around(self.sizes) if "n" in registry.by_name(self.law).axes else self.sizes,
            epochs=(min(self.epochs),),
        )

    def configs(self, base: Config, most_users: int) -> list[Config]:
        """Every run, each once. `most_users`: training users of the log. Raises InputError for what cannot run."""
        cells = itertools.product(self.users or thirds(most_users, 6), self.epochs)
        changes = (
            {"data.users": count, "train.epochs": epochs}
            for count, epochs in cells
            if epochs == min(self.epochs) or count * epochs <= self.user_epochs_max
        )
        return self.each(base, changes)
