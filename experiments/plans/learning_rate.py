"""Plan `learning_rate`: the best peak learning rate and batch size of each size, by the validation objective.

When its runs are done, SWEEP/learning_rates.json has for each size the rows of a batch that reach the lowest objective,
and their best rate (the minimum of a polynomial in the rate's logarithm). Other plans read both by
--learning-rates-from. Set the length of a run and its data by --train.epochs and --data.users: tune with the length
that you will run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.plans import rates
from experiments.plans.scaling_plan import ScalingPlan
from experiments.plans.sizes import size_of
from experiments.sweep.sweep_folder import RunState
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import OBJECTIVE


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Sizes x learning rates x rows of a batch x seeds. There is no law to fit."""

    learning_rates: tuple[float, ...] = (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2)
    """Peak learning rates to try at every size."""
    learning_rates_from: tyro.conf.Suppress[None] = None
    rows: tuple[int, ...] = ()
    """Rows of a batch to try with every rate. Left out: data.rows alone."""

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """Raises InputError for rows that are given twice."""
        if self.rows and base.data.rows:
            raise InputError("--rows and --data.rows both say how many rows a batch has; give one")
        return [{"data.rows": rows} for rows in self.rows] or [{}]

    def conclude(self, sweep_dir: Path, runs: Sequence[RunState]) -> str:
        """Writes the best rates and rows. Raises InputError, and writes nothing, where a run failed or a size has its
        lowest objective at the lowest or the highest rate."""
        unknown = [run.run_id for run in runs if run.status not in ("done", "diverged", "dropped", "stuck")]
        if unknown:
            raise InputError(
                f"{len(unknown)} runs failed ({unknown[0]}, ...), so the best rates are not known; try again"
            )
        by_size: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
        dropped: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for run in runs:
            config = from_dict(run.config)
            if run.status == "dropped":
                dropped[size_of(config)].append((config.data.rows, config.optim.learning_rate_peak))
                continue
            objective = run.row.get(OBJECTIVE) if run.status == "done" else None
            tried = config.data.rows, config.optim.learning_rate_peak, objective
            by_size[size_of(config)].append(tried)
        found, refused = {}, []
        for size, tried_runs in by_size.items():
            try:
                found[size] = rates.best_with_rows(size, tried_runs, dropped[size])
            except InputError as error:
                refused.append(str(error))
        if refused:
            raise InputError("; ".join(refused))
        path = rates.write(sweep_dir, runs[0].config, found)
        listed = ", ".join(f"{size} {rate:g} with {rows} rows" for size, (rate, rows) in found.items())
        return f"best learning rates: {listed}; other plans read them by --learning-rates-from {path}"
