"""From a plan's Configs to rows: write the sweep folder, run what is missing on this machine, tell how it goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from experiments import sweepfolder
from experiments.comparison import Layout
from experiments.launch import local
from experiments.ticker import Ticker
from experiments.worker import RETRIES

_ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")


def default_workers() -> int:
    """One a core, and at most four: each worker holds the log and a jax of its own. One where there is an accelerator,
    since every worker would take all of its memory."""
    if any(Path(device).exists() for device in _ACCELERATORS):
        return 1
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_sweep(
    plan: str, layout: Layout, sweep_dir: Path, *, workers: int, retries: int = RETRIES, together: int = 1
) -> list[dict[str, Any]]:
    """Runs what has no row yet or a failed one, costliest first, beside other workers of the folder if there are any.
    Returns all rows in the plan's order."""
    sweepfolder.begin(sweep_dir, plan, layout.configs, layout.files)
    sweepfolder.try_failed_again(sweep_dir)
    with Ticker(sweep_dir) as ticker:
        local.launch(sweep_dir, workers, retries=retries, together=together, look=ticker.look, say=ticker.say)
        ticker.look()
    return [state.row for state in sweepfolder.states(sweep_dir)[1] if state.row is not None]
