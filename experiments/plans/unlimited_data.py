"""Plan `unlimited_data`: model sizes on sessions that are each seen once, so that the size alone holds the loss up.

A step never sees a session again: at most one pass over the log. The log must be much larger than what the largest size
can learn from; `sessionrec prepare synthetic --users N` makes a known-truth one of any size (about 6 bytes of memory an
exposure). On the known truth the excess over the floor then falls as N^-alpha, with digits only: --model.id-width 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.plans.scaling_plan import COLUMNS, Scaled, lay_out
from experiments.plans.sizes import around
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Plan(Scaled):
    """Sizes x seeds on fresh data."""

    sizes: tuple[str, ...] = ("xxs", "xs", "s", "m", "l", "xl")
    epochs: float = 1.0
    """Part of the log's training sessions that a run sees, each once: at most 1."""
    law: Literal["power_floor", "power", "none"] = "power_floor"
    """What is to be fitted, of N where its formula has D; a plan that cannot carry it is refused. none: nothing."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS | {
        "data.users": "nothing, since data are not to be short",
        "train.epochs": "--epochs",
    }

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        if not 0 < self.epochs <= 1:
            raise InputError(f"--epochs is {self.epochs:g}; wanted at most 1, so that no session is seen twice")
        columns = COLUMNS | {"d": "params_body", "n": None, "flops": None}
        report = self.report(columns, None if self.law == "none" else self.law)
        return lay_out(self.each(base, [{"train.epochs": self.epochs}]), prepared, report)

    def wider(self, base: Config, prepared: Prepared) -> Plan:
        """More sizes: where runs may be added."""
        return dataclasses.replace(self.untuned(), sizes=around(self.sizes))
