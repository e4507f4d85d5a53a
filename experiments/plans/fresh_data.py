"""Plan `fresh_data`: numbers of sessions x model sizes, on sessions that the step draws and that are each seen once.

The process that made the log draws the sessions, so the data may be of any size, and nothing is stored or read. A
session is its anchor, and exposures are scored by category, so the loss is exact. The ID table stores what is known of
each interest, and the loss is a law of the sessions. With --model.id-width 0 the body stores it, and N counts the
digits' tables, whose width is half of the model's: several sizes then show the joint law.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.fresh_settings import digits_width, fresh_settings
from experiments.plans.scaling_plan import ScalingPlan, around_values
from experiments.plans.sizes import around
from scaling.laws import registry
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Fresh sessions x sizes x learning rates x seeds."""

    sizes: tuple[str, ...] = ("xs",)
    sessions: tuple[int, ...] = (20_000, 50_000, 130_000, 330_000, 850_000, 2_000_000)
    """Sessions of a run. A run of more begins with those of a run of fewer."""
    law: Literal["power_floor", "power", "chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = (
        "power_floor"
    )
    """The law to fit; a plan that cannot identify it is refused. The first two are laws of D alone. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {
        "data.users": "nothing, because no session of the log is read",
        "train.epochs": "--sessions",
        "data.fresh_sessions": "--sessions",
    }

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        settings = fresh_settings(base, {"data.fresh": "sampled"})
        for sessions in self.sessions:
            yield settings | {"data.fresh_sessions": sessions}

    def configs(self, base: Config, users: int) -> list[Config]:
        found = super().configs(base, users)
        if base.model.id_width:
            return found
        return [check(replace(config, digits_width(base, config.model.width))) for config in found]

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """More sessions and sizes."""
        has_n = "n" in registry.by_name(self.law).axes
        return {
            "sessions": around_values(self.sessions, 1_000, 1e12),
            "sizes": around(self.sizes) if has_n else self.sizes,
        }
