"""From a plan's Configs to rows: writes the sweep folder, does the missing runs, shows the progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from doors.storage import copies
from experiments.sweep import sweep_folder
from experiments.sweep.launch import Launcher
from experiments.sweep.layout import Layout
from experiments.sweep.ticker import Ticker
from experiments.sweep.worker import train_and_measure
from experiments.sweep.worker_options import DEFAULT_OPTIONS, WorkerOptions


def run_sweep(
    plan: str,
    layout: Layout,
    sweep_dir: Path,
    launcher: Launcher,
    options: WorkerOptions = DEFAULT_OPTIONS,
    *,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Does all runs that have no row or a failed one, costliest first; other workers of the folder may help.

    Returns all rows in the plan's order. `quiet` shows only the rows of runs that went wrong.
    """
    sweep_dir = copies.opened(sweep_dir, copies.for_workers)
    sweep_folder.begin(sweep_dir, plan, layout.configs, layout.files)
    sweep_folder.try_failed_again(sweep_dir)
    with Ticker(sweep_dir, quiet=quiet) as ticker:
        launcher.launch(sweep_dir, train_and_measure, options=options, refresh=ticker.refresh, report=ticker.print)
        ticker.refresh()
    return [state.row for state in sweep_folder.states(sweep_dir)[1] if state.row is not None]
