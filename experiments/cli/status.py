"""Show how far a sweep is: done, running, waiting, failed and why.

sessionrec status SWEEP
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from experiments.sweepfolder import states


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
    for column in (
        "run",
        "users",
        "width",
        "layers",
        "rate",
        "epochs",
        "seed",
        "status",
        "step",
        "nats/item",
        "rank nats",
    ):
        table.add_column(column, justify="left" if column in ("run", "status") else "right")
    for run in runs:
        config, row = run.config, run.row or {}
        reason = f": {row['reason']}" if row.get("reason") else ""
        table.add_row(
            run.run_id,
            f"{config['data']['users'] or 'all'}",
            f"{config['model']['width']}",
            f"{config['model']['layers']}",
            f"{config['optim']['learning_rate_peak']:g}",
            f"{config['train']['epochs']:g}",
            f"{config['train']['seed']}",
            run.status + reason,
            "-" if run.step is None else f"{run.step:,}",
            _number(row.get("loss_nats_per_item")),
            _number(row.get("rank_nats_per_exposure")),
        )
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
