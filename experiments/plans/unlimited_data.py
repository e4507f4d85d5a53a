"""Plan `unlimited_data`: model sizes on sessions that are each seen once, so that only the size limits the loss.

With --data.fresh and --sessions the training sessions are drawn in the step, by the process that made the log: any
number of them, without a log to store and to read. The plan then gives each setting that such a run needs, unless you
set it: a session is its anchor, described by its digits, and the rank loss alone is trained, on exposures that are
scored by category. N counts the digits' tables, whose width is half of the model's. `expected` labels are the limit of
endless data: the excess over the floor then falls as N^-alpha.

Otherwise a run makes at most one pass over the log, so that no session is seen twice. The log must be much larger than
what the largest size can learn from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.fresh_settings import digits_width, fresh_settings
from experiments.plans.scaling_plan import ScalingPlan
from experiments.plans.sizes import around, size_of, sized
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, PARAMS


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Sizes x seeds on fresh data."""

    sizes: tuple[str, ...] = ("xxs", "xs", "s", "m", "l", "xl")
    epochs: float = 1.0
    """Part of the log's training sessions that a run sees, each once: at most 1."""
    sessions: tuple[int, ...] = ()
    """With --data.fresh: sessions of a run, drawn in the step. One number for all sizes, or one for each size: a larger
    model takes longer to learn what it can hold."""
    law: Literal["power_floor", "power", "none"] = "power_floor"
    """The law to fit, with N in the place of D; a plan that cannot identify it is refused. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {
        "data.users": "nothing, because the data must not be short",
        "train.epochs": "--epochs",
        "data.fresh_sessions": "--sessions",
    }
    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"d": PARAMS, "n": None, "flops": None}

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """Raises InputError for more than one epoch, and for a number of sessions without --data.fresh or the other way
        round."""
        if base.data.fresh != "no":
            if len(self.sessions) not in (1, len(self.sizes)):
                raise InputError(
                    f"--data.fresh {base.data.fresh} needs --sessions: one number for all sizes, or one for each of "
                    f"the {len(self.sizes)} sizes; {len(self.sessions)} came"
                )
            return [{"data.fresh_sessions": self.sessions[0]} | fresh_settings(base, {"model.id_width": 0})]
        if self.sessions:
            raise InputError("--sessions came, but --data.fresh is no; wanted --data.fresh expected, or no --sessions")
        if not 0 < self.epochs <= 1:
            raise InputError(f"--epochs is {self.epochs:g}; wanted at most 1, so that no session is seen twice")
        return [{"train.epochs": self.epochs}]

    def configs(self, base: Config, users: int) -> list[Config]:
        """On fresh sessions each size has its own number of them, and digits' tables that grow with it: their width is
        half of the model's, at least 4."""
        found = super().configs(base, users)
        if base.data.fresh == "no":
            return found
        sizes = [size_of(sized(base, size)) for size in self.sizes]
        sessions = dict(zip(sizes, itertools.cycle(self.sessions), strict=False))

        def grown(config: Config) -> Config:
            own = {"data.fresh_sessions": sessions[size_of(config)]}
            return check(replace(config, own | digits_width(base, config.model.width)))

        return [grown(config) for config in found]

    def more(self, base: Config, users: int) -> dict[str, Any]:
        return {"sizes": around(self.sizes), "sessions": tuple(sorted(self.sessions)[-1:])}
