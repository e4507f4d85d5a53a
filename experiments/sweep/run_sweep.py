"""From a plan's Configs to rows: write the sweep folder, run what is missing, tell how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.sweep import sweep_folder
from experiments.sweep.launch import Launcher
from experiments.sweep.layout import Layout
from experiments.sweep.ticker import Ticker
from experiments.sweep.worker import DEFAULT_OPTIONS, WorkerOptions, train_and_measure


def run_sweep(
    plan: str, layout: Layout, sweep_dir: Path, launcher: Launcher, handling: WorkerOptions = DEFAULT_OPTIONS
) -> list[dict[str, Any]]:
    """Runs what has no row yet or a failed one, costliest first, beside other workers of the folder if there are any.
    Returns all rows in the plan's order."""
    sweep_folder.begin(sweep_dir, plan, layout.configs, layout.files)
    sweep_folder.try_failed_again(sweep_dir)
    with Ticker(sweep_dir) as ticker:
        launcher.launch(sweep_dir, train_and_measure, handling=handling, look=ticker.look, say=ticker.say)
        ticker.look()
    return [state.row for state in sweep_folder.states(sweep_dir)[1] if state.row is not None]
