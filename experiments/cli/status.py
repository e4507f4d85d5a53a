"""Show how far a sweep is: done, running and where, stale, waiting, failed and why.

sessionrec status SWEEP
sessionrec status SWEEP --follow
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from experiments.sweepfolder import RunState, states
from experiments.varying import told, varying

_FOLLOW_SECONDS = 2.0


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP")]
    """Sweep folder."""
    follow: bool = False
    """Show it until every run has a row: on a terminal the runs that are neither waiting nor done, elsewhere a line
    whenever the counts change."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object for programs."""


def main(argv: list[str]) -> int:
    command = tyro.cli(
        Command, args=argv, prog="sessionrec status", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    console = Console()
    plan, runs = _followed(command.sweep, console) if command.follow else states(command.sweep)
    if command.as_json:
        by_run = {run.run_id: _for_programs(run) for run in runs}
        print(json.dumps({"plan": plan, "runs": len(runs), "counts": Counter(_statuses(runs)), "by_run": by_run}))
        return 0
    console.print(_table(runs, f"{command.sweep}: plan {plan}, {len(runs)} runs"))
    rows = [run.row for run in runs if run.row is not None]
    floors = {row.get("loss_floor_nats_per_item"): row.get("rank_floor_nats_per_exposure") for row in rows}
    for floor, rank_floor in floors.items():
        if floor is not None:
            console.print(f"known floors: {floor:.4f} nats an item, rank {rank_floor:.4f} nats an exposure")
    console.print(_counts(runs))
    return 0


def _followed(sweep_dir: Path, console: Console) -> tuple[str, list[RunState]]:
    """The plan and its runs when all have a row."""
    said = None
    plan, runs = states(sweep_dir)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while any(run.row is None for run in runs):
            counts = _counts(runs)
            if console.is_terminal:
                shown = [run for run in runs if run.status not in ("waiting", "done")]
                live.update(Group(counts, _table(shown, str(sweep_dir))), refresh=True)
            elif counts != said:
                console.print(said := counts)
            time.sleep(_FOLLOW_SECONDS)
            plan, runs = states(sweep_dir)
    return plan, runs


def _for_programs(run: RunState) -> dict[str, Any]:
    return {
        "status": run.status,
        "step": run.step,
        "steps": run.steps,
        "seconds_left": run.seconds_left,
        "worker": run.past.worker,
        "deaths": run.past.deaths,
        "failures": run.past.failures,
        "reason": (run.row or {}).get("reason"),
    }


def _statuses(runs: list[RunState]) -> list[str]:
    return [run.status for run in runs]


def _counts(runs: list[RunState]) -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(_statuses(runs)).items())


def _table(runs: list[RunState], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("run", no_wrap=True)
    labels = varying([run.config for run in runs])
    for column in (*(labels[0] if labels else ()), "step", "left"):
        table.add_column(column.rpartition(".")[2].replace("_", " "), justify="right", overflow="fold")
    for column in ("nats an item\n(popularity)", "rank nats\n(popularity)"):
        table.add_column(column, justify="right")
    table.add_column("status")
    for run, label in zip(runs, labels, strict=True):
        row = run.row or {}
        table.add_row(
            run.run_id,
            *map(told, label.values()),
            _step(run),
            "-" if run.seconds_left is None else str(timedelta(seconds=round(run.seconds_left))),
            _beside(row, "loss_{}nats_per_item"),
            _beside(row, "rank_{}nats_per_exposure"),
            escape(_told_status(run)),
        )
    return table


def _step(run: RunState) -> str:
    """Steps done, of those planned where it is not done."""
    if run.row is not None or run.steps is None:
        return "-" if run.step is None else f"{run.step:,}"
    return f"{run.step + 1:,} of {run.steps:,}"


def _told_status(run: RunState) -> str:
    past = run.past
    if run.row is not None:
        return ": ".join(filter(None, (run.status, run.row.get("reason"))))
    where = {"running": f" on {past.worker}", "stale": f": {past.worker} died or is silent"}.get(run.status, "")
    before = [f"killed {past.deaths} times"] if past.deaths else []
    before += [f"failed {len(past.failures)} times, last by {past.failures[0]}"] if past.failures else []
    return "; ".join((run.status + where, *before))


def _beside(row: dict[str, Any], name: str) -> str:
    """A loss with the popularity baseline's on the same sessions; a dash where it is missing."""
    loss, baseline = row.get(name.format("")), row.get(name.format("baseline_"))
    return "-" if loss is None or baseline is None else f"{loss:.4f} ({baseline:.4f})"
