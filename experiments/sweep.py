"""From a plan's Configs to rows: write the sweep folder, run what is missing, tell how it goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments import sweepfolder
from experiments.comparison import Layout
from experiments.launch import local
from experiments.varying import told, varying
from sessionrec_jax.config import Config
from sessionrec_jax.config_values import run_id, to_dict

_ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")


def default_workers() -> int:
    """One a core, and at most four: each worker holds the log and a jax of its own. One where there is an accelerator,
    since every worker would take all of its memory."""
    if any(Path(device).exists() for device in _ACCELERATORS):
        return 1
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_sweep(plan: str, layout: Layout, sweep_dir: Path, *, workers: int) -> list[dict[str, Any]]:
    """Runs what has no row yet or a failed one, costliest first, and returns all rows in the plan's order."""
    configs = layout.configs
    sweepfolder.begin(sweep_dir, plan, configs, layout.files)
    with sweepfolder.launching(sweep_dir):
        sweepfolder.forget_failures(sweep_dir)
        done = sum(state.row is not None for state in sweepfolder.states(sweep_dir)[1])
        with _Told(configs, done) as tell:
            local.launch(sorted(configs, key=_cost, reverse=True), sweep_dir, plan, workers, tell)
    return [state.row for state in sweepfolder.states(sweep_dir)[1] if state.row is not None]


def _cost(config: Config) -> float:
    """Proportional to a run's time, roughly: only the order counts, so that no long run is left for the end."""
    users = config.data.users or float("inf")
    return config.train.epochs * users * (20 + config.model.width * (1 + config.model.layers))


class _Told:
    """A bar on a terminal, and a line for each row."""

    def __init__(self, configs: Sequence[Config], done: int):
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=len(configs), completed=done)
        self._total, self._done = len(configs), done
        labels = varying([to_dict(config) for config in configs])
        self._labels = {run_id(config): label for config, label in zip(configs, labels, strict=True)}

    def __enter__(self) -> _Told:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, row: dict[str, Any]) -> None:
        self._done += 1
        self._bar.update(self._task, advance=1)
        label = self._labels[row["run_id"]].items()
        name = ", ".join([row["run_id"], *(f"{field.rpartition('.')[2]} {told(value)}" for field, value in label)])
        if row["status"] != "done":
            result = f"[red]{row['status']}[/]: {row['reason']}"
        else:
            losses = {
                "nats an item": row["loss_nats_per_item"],
                "popularity": row["loss_baseline_nats_per_item"],
                "rank": row["rank_nats_per_exposure"],
            }
            measured = (f"{what} {value:.4f}" for what, value in losses.items() if value is not None)
            result = f"{', '.join(measured)}, {row['wall_seconds']:.0f} s"
        self._console.print(f"{self._done}/{self._total}  {name}; {result}", soft_wrap=True)
