"""Plan `catalogue`: the same runs on logs whose catalogues differ in size, such as known-truth ones of several bases.

sessionrec prepare synthetic --base 8 ... --out LOG8; the same with --base 16 --out LOG16 and --base 32 --out LOG32
sessionrec sweep catalogue --data LOG8 --logs LOG16 LOG32 --out SWEEP

Each log is a task of its own, with its own floor, so no law runs through them: rows have `items`, the loss, its floor
and its baseline. Leaving items out of one log would not do instead: it thins its sessions, so that length of sessions,
amount of data and floor change with the catalogue, and the floor is no longer known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.plans.scaling_plan import COLUMNS, Scaled, lay_out
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Plan(Scaled):
    """Logs x sizes x seeds."""

    logs: tuple[Path, ...] = ()
    """Prepared logs beside --data."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once. There is no law to fit."""
        logs = [prepared, *map(open_log, self.logs)]
        if len({log.items for log in logs}) < 2:
            raise InputError(f"{len(logs)} logs of {prepared.items:,} items each; wanted --logs of other catalogues")
        report = self.report(COLUMNS | {"d": "items"}, None)
        configs = [
            config
            for log in logs
            for config in lay_out(self.each(replace(base, {"data.path": str(log.path)}), [{}]), log, report).configs
        ]
        return Layout(configs, {"report.json": report})
