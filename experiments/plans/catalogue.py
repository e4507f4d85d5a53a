"""Plan `catalogue`: the same runs on logs whose catalogues differ in size, such as known-truth logs of several bases.

sessionrec prepare synthetic --base 8 ... --out LOG8; the same with --base 16 --out LOG16 and --base 32 --out LOG32
sessionrec sweep catalogue --data LOG8 --logs LOG16 LOG32 --out SWEEP

Each log is a task of its own, with its own floor, so no law describes them together: rows have `items`, the loss, its
floor and its baseline. Leaving items out of one log is no substitute: it thins the sessions, so that their length, the
amount of data and the floor change with the catalogue, and the floor is no longer known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.plans import batch_rows
from experiments.plans.scaling_plan import ScalingPlan, layout, training_users
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, ITEMS


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Logs x sizes x seeds."""

    logs: tuple[Path, ...] = ()
    """Prepared logs in addition to --data."""

    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"d": ITEMS}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once. There is no law to fit. Raises InputError for logs of one catalogue size."""
        logs = [prepared, *map(open_log, self.logs)]
        from sessionrec_jax.data.resolve import with_rows  # starts jax, which --help need not wait for

        if len({log.items for log in logs}) < 2:
            raise InputError(f"{len(logs)} logs of {prepared.items:,} items each; wanted --logs of other catalogues")
        own = [
            self.configs(replace(base, {"data.path": log.address or str(log.path)}), training_users(log))
            for log in logs
        ]
        if not base.data.rows:
            rows = min(batch_rows.fewest(configs, log) for configs, log in zip(own, logs, strict=True))
            own = [[with_rows(config, rows) for config in configs] for configs in own]
        layouts = [layout(configs, log, self.report(), self.rate_law) for configs, log in zip(own, logs, strict=True)]
        return Layout([config for each in layouts for config in each.configs], {"report.json": self.report()})
