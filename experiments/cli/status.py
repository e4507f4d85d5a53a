"""Show how far a sweep is: done, running, waiting, failed and why.

sessionrec status SWEEP
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.sweepfolder import RunState, states
from experiments.varying import told, varying


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP")]
    """Sweep folder."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object for programs."""


def main(argv: list[str]) -> int:
    command = tyro.cli(
        Command, args=argv, prog="sessionrec status", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    plan, runs = states(command.sweep)
    counts = dict(Counter(run.status for run in runs))
    if command.as_json:
        by_run = {run.run_id: {"status": run.status, "step": run.step} for run in runs}
        print(json.dumps({"plan": plan, "runs": len(runs), "counts": counts, "by_run": by_run}))
        return 0
    table = Table(title=f"{command.sweep}: plan {plan}, {len(runs)} runs", title_justify="left")
    table.add_column("run", no_wrap=True)
    labels = varying([run.config for run in runs])
    for column in (*(labels[0] if labels else ()), "step"):
        table.add_column(column.rpartition(".")[2].replace("_", " "), justify="right", overflow="fold")
    for column in ("nats an item\n(popularity)", "rank nats\n(popularity)"):
        table.add_column(column, justify="right")
    table.add_column("status")
    for run, label in zip(runs, labels, strict=True):
        row = run.row or {}
        table.add_row(
            run.run_id,
            *map(told, label.values()),
            "-" if run.step is None else f"{run.step:,}",
            _beside(row, "loss_{}nats_per_item"),
            _beside(row, "rank_{}nats_per_exposure"),
            run.status + (f": {row['reason']}" if row.get("reason") else ""),
        )
    console = Console()
    console.print(table)
    floors = {row.get("loss_floor_nats_per_item"): row.get("rank_floor_nats_per_exposure") for row in _rows(runs)}
    for floor, rank_floor in floors.items():
        if floor is not None:
            console.print(f"known floors: {floor:.4f} nats an item, rank {rank_floor:.4f} nats an exposure")
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0


def _rows(runs: list[RunState]) -> list[dict[str, Any]]:
    return [run.row for run in runs if run.row is not None]


def _beside(row: dict[str, Any], name: str) -> str:
    """A loss with the popularity baseline's on the same sessions; a dash where it is missing."""
    loss, baseline = row.get(name.format("")), row.get(name.format("baseline_"))
    return "-" if loss is None or baseline is None else f"{loss:.4f} ({baseline:.4f})"
