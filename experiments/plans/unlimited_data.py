"""Plan `unlimited_data`: model sizes on sessions that are each seen once, so that only the size limits the loss.

A run makes at most one pass over the log, so that no session is seen twice. The log must be much larger than what the
largest size can learn from; `sessionrec prepare synthetic --users N` makes a known-truth one of any size (about 6 bytes
of memory an exposure). On the known truth the excess over the floor then falls as N^-alpha, with digits only:
--model.id-width 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.scaling_plan import ScalingPlan
from experiments.plans.sizes import around
from sessionrec_jax.config.settings import Config
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, PARAMS


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Sizes x seeds on fresh data."""

    sizes: tuple[str, ...] = ("xxs", "xs", "s", "m", "l", "xl")
    epochs: float = 1.0
    """Part of the log's training sessions that a run sees, each once: at most 1."""
    law: Literal["power_floor", "power", "none"] = "power_floor"
    """The law to fit, with N in the place of D; a plan that cannot identify it is refused. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {
        "data.users": "nothing, because the data must not be short",
        "train.epochs": "--epochs",
    }
    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"d": PARAMS, "n": None, "flops": None}

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """Raises InputError for more than one epoch."""
        if not 0 < self.epochs <= 1:
            raise InputError(f"--epochs is {self.epochs:g}; wanted at most 1, so that no session is seen twice")
        return [{"train.epochs": self.epochs}]

    def more(self, base: Config, users: int) -> dict[str, Any]:
        return {"sizes": around(self.sizes)}
