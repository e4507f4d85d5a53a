"""Plan `history`: how many sessions of a user are seen at once, the target among them (--data.window).

Every run has the same rows, the same targets and the same test sessions; only how far back a query looks differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.scaling_plan import ScalingPlan, around_values
from sessionrec_jax.config.settings import Config
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, WINDOW


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Windows x sizes x seeds."""

    windows: tuple[int, ...] = ()
    """Sessions of a user that are seen at once. Left out: 2, 4, 8, ..., up to --data.sessions-per-row."""
    law: Literal["power_floor", "power", "none"] = "power_floor"
    """The law to fit, with the window in the place of D: a description that no theory supports. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {"data.window": "--windows"}
    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"d": WINDOW, "n": None, "flops": None}

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """Raises InputError for several sizes, which have no law of the window in common."""
        if self.law != "none" and len(set(self.sizes)) > 1:
            raise InputError(
                f"--sizes {' '.join(self.sizes)}: a law of the window is a law of one size; give one, or --law none"
            )
        return [{"data.window": slots} for slots in self._windows(base)]

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """More windows, as far as a row reaches."""
        return {"windows": around_values(self._windows(base), 2, base.data.sessions_per_row)}

    def _windows(self, base: Config) -> tuple[int, ...]:
        return self.windows or tuple(2**k for k in range(1, base.data.sessions_per_row.bit_length()))
