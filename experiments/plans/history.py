"""Plan `history`: how many sessions of a user are seen at once, the target among them (--data.window).

Every run has the same rows, the same targets and the same test sessions; only how far back a query looks differs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.plans.scaling_plan import COLUMNS, Scaled, lay_out, wider
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Plan(Scaled):
    """Windows x sizes x seeds."""

    windows: tuple[int, ...] = ()
    """Slots of a user that are seen at once. Left out: 2, 4, 8, ..., up to --data.sessions-per-row."""
    law: Literal["power_floor", "power", "none"] = "power_floor"
    """What is to be fitted, of the window where its formula has D: a description, no theory says so. none: nothing."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS | {"data.window": "--windows"}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        if self.law != "none" and len(set(self.sizes)) > 1:
            raise InputError(
                f"--sizes {' '.join(self.sizes)}: a law of the window is that of one size; or say --law none"
            )
        columns = COLUMNS | {"d": "window_slots", "n": None, "flops": None}
        report = self.report(columns, None if self.law == "none" else self.law)
        return lay_out(self.each(base, [{"data.window": slots} for slots in self._windows(base)]), prepared, report)

    def wider(self, base: Config, prepared: Prepared) -> Plan:
        """More windows, as far as a row reaches: where runs may be added."""
        return dataclasses.replace(self.untuned(), windows=wider(self._windows(base), 2, base.data.sessions_per_row))

    def _windows(self, base: Config) -> tuple[int, ...]:
        return self.windows or tuple(2**k for k in range(1, base.data.sessions_per_row.bit_length()))
