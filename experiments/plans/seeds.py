"""Plan `seeds`: one run with several seeds, which measures the noise of all other plans.

The run is chosen by its settings, as for `sessionrec train`. `sessionrec design --sigma` takes the result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.plans.scaling_plan import layout
from experiments.sweep.layout import Layout
from experiments.sweep.sweep_folder import RunState
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT
from sessionrec_jax.runfolder.files import read_json


@dataclass(frozen=True)
class Plan:
    """Seeds of one run."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Seeds to run it with."""

    SETS: ClassVar[dict[str, str]] = {"train.seed": "--seeds"}
    """Settings that the plan decides itself, each with the flag that decides it."""

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once. There is no law to fit. Raises InputError for fewer than two seeds."""
        if len(set(self.seeds)) < 2:
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))}: one seed shows no noise; wanted two or more")
        configs = [check(replace(base, {"train.seed": seed})) for seed in dict.fromkeys(self.seeds)]
        return layout(configs, prepared, FIT)

    def conclude(self, sweep_dir: Path, runs: Sequence[RunState]) -> str:
        """Returns a sentence with the noise: the standard deviation of the log loss."""
        loss = read_json(sweep_dir / "report.json")["loss"]
        losses = [math.log(run.row[loss]) for run in runs if run.status == "done"]
        if len(losses) < 2:
            return f"{len(losses)} of {len(runs)} runs are done: too few to measure the noise"
        sigma = statistics.stdev(losses)
        return (
            f"log loss differs between seeds by {sigma:.2g} (one standard deviation, of {len(losses)} runs): "
            f"`sessionrec design` takes it as --sigma {sigma:.2g}"
        )
