"""Show how far a sweep is: done, running and where, stale, waiting, failed and why.

sessionrec status SWEEP
sessionrec status SWEEP --follow
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.console import escape
from experiments.sweep.row_columns import LOSS, RANK_LOSS, baseline_of, floor_of
from experiments.sweep.sweep_folder import RunState, states
from experiments.sweep.varying import short, varying

_FOLLOW_SECONDS = 2.0
_WIDE = 1000
"""Columns where no terminal sets them: a file or a program wants whole numbers."""
_STATUSES = ("running", "stale", "started", "waiting", "done", "diverged", "failed")


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP")]
    """Sweep folder."""
    follow: bool = False
    """Show it until every run has a row: on a terminal the runs that are neither waiting nor done, elsewhere a line
    whenever the counts change. Ctrl-C ends it, and changes nothing."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object for programs."""


def main(argv: list[str]) -> int:
    command = tyro.cli(
        Command, args=argv, prog="sessionrec status", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    plan, runs = _followed(command.sweep, console) if command.follow else states(command.sweep)
    if command.as_json:
        by_run = {run.run_id: _for_programs(run) for run in runs}
        print(json.dumps({"plan": plan, "runs": len(runs), "counts": Counter(_statuses(runs)), "by_run": by_run}))
        return 0
    console.print(f"{command.sweep}: plan {plan}, {len(runs)} runs", highlight=False, markup=False, soft_wrap=True)
    console.print(_table(runs, runs))
    for note in _notes(runs):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    rows = [run.row for run in runs if run.row is not None]
    for what, column_of in (("popularity", baseline_of), ("known floors", floor_of)):
        if told_beside := _beside(rows, column_of):
            console.print(f"{what}: {told_beside}")
    console.print(_counts(runs))
    return 0


def _followed(sweep_dir: Path, console: Console) -> tuple[str, list[RunState]]:
    """The plan and its runs when all have a row."""
    said = None
    plan, runs = states(sweep_dir)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while any(run.row is None for run in runs):
                counts = _counts(runs)
                if console.is_terminal:
                    live.update(_view(runs, f"{counts}: {sweep_dir}"), refresh=True)
                elif counts != said:
                    console.print(said := counts)
                time.sleep(_FOLLOW_SECONDS)
                plan, runs = states(sweep_dir)
        finally:
            live.update("")  # what is higher than the screen would stay there
    return plan, runs


def _view(runs: list[RunState], counts: str) -> Group:
    """What is going on now, then what went wrong, a line a run."""
    now = [run for run in runs if run.status in ("running", "stale", "started")]
    notes = [Text(note.partition("\n")[0], no_wrap=True, overflow="ellipsis") for note in _notes(runs)]
    return Group(Text(counts, no_wrap=True, overflow="ellipsis"), *([_table(runs, now)] if now else []), *notes)


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
    counts = Counter(_statuses(runs))
    return ", ".join(f"{counts[status]} {status}" for status in sorted(counts, key=_STATUSES.index))


def _table(runs: list[RunState], shown: list[RunState]) -> Table:
    """Of some of the runs, with the settings in which all of them differ. A column without a number is left out; what
    stands above the others is folded to their width."""
    labels = dict(zip((run.run_id for run in runs), varying([run.config for run in runs]), strict=True))
    columns = {"run": [run.run_id for run in shown]}
    for name in labels[runs[0].run_id] if runs else ():
        columns[name] = [short(labels[run.run_id][name]) for run in shown]
    columns["step"] = [_step(run) for run in shown]
    columns["left"] = [_left(run) for run in shown]
    for head, name in zip(("nats an item", "rank nats"), (LOSS, RANK_LOSS), strict=True):
        columns[head] = [_number((run.row or {}).get(name)) for run in shown]
    columns["status"] = [_told_status(run) for run in shown]
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    columns = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    for name, cells in columns.items():
        head = name.rpartition(".")[2].replace("_", " ")
        width = max(map(len, (*cells, *head.split())))
        is_text = name in ("run", "status")
        table.add_column(
            "\n".join(textwrap.wrap(head, width)),
            justify="left" if is_text else "right",
            no_wrap=name != "status",
            min_width=max(len(cell.split()[0]) for cell in cells) if name == "status" else None,
            overflow="fold" if is_text else "ellipsis",
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table


def _step(run: RunState) -> str:
    """Steps done, of those planned where it is not done."""
    if run.row is not None or run.steps is None:
        return "-" if run.step is None else f"{run.step:,}"
    return f"{run.step + 1:,} of {run.steps:,}"


def _left(run: RunState) -> str:
    return "-" if run.seconds_left is None else str(timedelta(seconds=round(run.seconds_left)))


def _told_status(run: RunState) -> str:
    where = {"running": f" on {run.past.worker}", "stale": f": {run.past.worker} died or is silent"}
    return run.status + where.get(run.status, "")


def _notes(runs: list[RunState]) -> list[str]:
    """Why runs have no loss, and how often those that have no row yet were tried."""
    notes = []
    for run in runs:
        if run.row is not None:
            told = run.row.get("reason")
        else:
            before = [f"killed {_times(run.past.deaths)}"] if run.past.deaths else []
            failures = run.past.failures
            before += [f"failed {_times(len(failures))}, last by {failures[0]}"] if failures else []
            told = "; ".join(before)
        if told:
            notes.append(f"{run.run_id} {run.status}: {told}")
    return notes


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _number(value: float | None) -> str:
    """A dash where it is missing."""
    return "-" if value is None else f"{value:.4f}"


def _beside(rows: list[dict[str, Any]], column_of: Callable[[str], str]) -> str:
    """What the rows' losses are held against: the same for all, or from the lowest to the highest."""
    told = []
    for name, sentence in zip((LOSS, RANK_LOSS), ("{} nats an item", "rank {} nats an exposure"), strict=True):
        column = column_of(name)
        ends = sorted(value for row in rows if (value := row.get(column)) is not None)
        if ends:
            told.append(sentence.format(" to ".join(dict.fromkeys((_number(ends[0]), _number(ends[-1]))))))
    return ", ".join(told)
