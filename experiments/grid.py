"""Plan `grid`: training users x model sizes, each cell tuned over learning rates and epochs, for each seed.

The cells' tuned runs are chosen by their validation objective (report.json says so to `sessionrec fit` and `report`);
the test sessions are the same for all and choose nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from experiments.base import sized
from experiments.comparison import Layout
from sessionrec_jax.config import Config
from sessionrec_jax.config_rules import check
from sessionrec_jax.config_values import replace
from sessionrec_jax.data.sessionlog import ROLES
from sessionrec_jax.data.store import Prepared

REPORT = {
    "n": "params_body",
    "d": "sessions_unique",
    "loss": "loss_nats_per_item",
    "baseline": "loss_baseline_nats_per_item",
    "floor_column": "loss_floor_nats_per_item",
    "select_by": "validation_objective",
    "select_within": ["sessions_unique", "params_body", "seed"],
    "law": "power_floor",
}
"""Which columns of the rows a fit or a report of this plan reads, unless told otherwise."""


@dataclass(frozen=True)
class Plan:
    """Training users x sizes x learning rates x epochs x seeds."""

    users: tuple[int, ...] = ()
    """Numbers of training users, nested subsets. Left out: all, and four more, each a third of the one before."""
    sizes: tuple[str, ...] = ("s",)
    """Names of the size ladder (experiments/base.py)."""
    learning_rates: tuple[float, ...] = (3e-3,)
    """Peak learning rates to choose from by validation in each cell."""
    epochs: tuple[float, ...] = (8.0,)
    """Passes over the training sessions to choose from by validation in each cell."""
    user_epochs_max: float = float("inf")
    """Leave out candidates of more users x epochs than this (the fewest epochs of a cell always stay): the larger the
    data, the fewer passes it wants."""
    seeds: tuple[int, ...] = (0,)

    SETS: ClassVar[dict[str, str]] = {
        "data.users": "--users",
        "model.width": "--sizes",
        "model.layers": "--sizes",
        "model.heads": "--sizes",
        "optim.learning_rate_peak": "--learning-rates",
        "train.epochs": "--epochs",
        "train.seed": "--seeds",
    }
    """Settings that the plan decides, and the flag that they are decided by."""

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        from sessionrec_jax.train import resolve  # starts jax, which --help need not wait for

        training_users = len(prepared.users_of(ROLES.index("train")))
        configs = [resolve(config, prepared) for config in self.configs(base, training_users)]
        return Layout(configs, {"report.json": REPORT})

    def configs(self, base: Config, training_users: int) -> list[Config]:
        """Every run, each once. `training_users`: how many the log has. Raises InputError for what cannot run."""
        users = self.users or tuple(max(1, training_users // 3**k) for k in reversed(range(5)))
        cells = itertools.product(users, self.sizes, self.learning_rates, self.epochs, self.seeds)
        return [
            check(
                replace(
                    sized(base, size),
                    {
                        "data.users": count,
                        "optim.learning_rate_peak": rate,
                        "train.epochs": epochs,
                        "train.seed": seed,
                    },
                )
            )
            for count, size, rate, epochs, seed in cells
            if epochs == min(self.epochs) or count * epochs <= self.user_epochs_max
        ]
