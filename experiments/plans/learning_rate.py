"""Plan `learning_rate`: the best peak learning rate of each size, by the validation objective.

When its runs are done, the best rate of each size (a polynomial in the rate's logarithm around the lowest) is in
SWEEP/learning_rates.json, which other plans read by --learning-rates-from. How long a run is, and on how many users, is
for --train.epochs and --data.users: tune as long as you will run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from experiments.plans import rates
from experiments.plans.scaling_plan import COLUMNS, SELECT_BY, Scaled, lay_out
from experiments.plans.sizes import size_of
from experiments.sweep.layout import Layout
from experiments.sweep.sweep_folder import RunState
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Plan(Scaled):
    """Sizes x learning rates x seeds."""

    learning_rates: tuple[float, ...] = (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2)
    """Peak learning rates to try at every size."""
    learning_rates_from: tyro.conf.Suppress[None] = None

    SETS: ClassVar[dict[str, str]] = Scaled.SETS

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once. There is no law to fit."""
        return lay_out(self.each(base, [{}]), prepared, self.report(COLUMNS, None))

    def conclude(self, sweep_dir: Path, runs: Sequence[RunState]) -> str:
        """Writes the best rates. Raises InputError, and writes nothing, where a run failed or a size has its lowest
        objective at an end of the rates."""
        unknown = [run.run_id for run in runs if run.status not in ("done", "diverged")]
        if unknown:
            raise InputError(
                f"{len(unknown)} runs failed ({unknown[0]}, ...), so the best rates are not known; try again"
            )
        by_size: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
        for run in runs:
            config = from_dict(run.config)
            by_size[size_of(config)].append((config.optim.learning_rate_peak, run.row.get(SELECT_BY)))
        found, refused = {}, []
        for size, tried in by_size.items():
            try:
                found[size] = rates.best(size, tried)
            except InputError as error:
                refused.append(str(error))
        if refused:
            raise InputError("; ".join(refused))
        path = rates.write(sweep_dir, runs[0].config, found)
        told = ", ".join(f"{size} {rate:g}" for size, rate in found.items())
        return f"best learning rates: {told}; other plans read them by --learning-rates-from {path}"
