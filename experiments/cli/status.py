"""Show the progress of a sweep: done, running and where, stale, waiting, failed and why.

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
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.parsing import parse_flags
from experiments.sweep.halving import saved_flops
from experiments.sweep.sweep_folder import RunState, states
from experiments.sweep.varying import short, varying
from sessionrec_jax.row_columns import FLOPS, FLOPS_SPENT, LOSS, RANK_LOSS, baseline_of, floor_of

_FOLLOW_SECONDS = 2.0
_WIDE = 1000
"""Width of the output where it is not a terminal, so that no number is cut."""
_STATUSES = ("running", "stale", "started", "waiting", "done", "dropped", "stuck", "diverged", "failed", "damaged")


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP", metavar="SWEEP")]
    """The sweep folder."""
    follow: bool = False
    """Show the progress until every run has a row: on a terminal the runs that are neither waiting nor done, elsewhere
    a line whenever the counts change. Ctrl-C ends the command and leaves the sweep alone."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object, for programs."""


def main(argv: list[str]) -> int:
    command = parse_flags(
        Command, argv, prog="sessionrec status", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    console = Terminal(width=None if sys.stdout.isatty() else _WIDE)
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
        if text := _range(rows, column_of):
            console.print(f"{what}: {text}")
    if saved := _saved(rows):
        console.print(saved, highlight=False)
    console.print(_counts(runs))
    return 0


def _followed(sweep_dir: Path, console: Terminal) -> tuple[str, list[RunState]]:
    """Waits until all runs have a row. Returns the plan and its runs."""
    printed = None
    plan, runs = states(sweep_dir)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while not all(run.has_ended for run in runs):
                counts = _counts(runs)
                if console.is_terminal:
                    live.update(_view(runs, f"{counts}: {sweep_dir}"), refresh=True)
                elif counts != printed:
                    console.print(printed := counts)
                time.sleep(_FOLLOW_SECONDS)
                plan, runs = states(sweep_dir)
        finally:
            live.update("")  # else lines above the top of the screen would stay
    return plan, runs


def _view(runs: list[RunState], counts: str) -> Group:
    """Returns the counts, the runs at work, and a line for each run that went wrong."""
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
        "reason": run.fault or (run.row or {}).get("reason"),
        "faults": run.past.faults,
    }


def _statuses(runs: list[RunState]) -> list[str]:
    return [run.status for run in runs]


def _counts(runs: list[RunState]) -> str:
    counts = Counter(_statuses(runs))
    return ", ".join(f"{counts[status]} {status}" for status in sorted(counts, key=_STATUSES.index))


def _table(runs: list[RunState], shown: list[RunState]) -> Table:
    """Returns a table of the runs `shown`, with the settings that vary over all `runs`.

    Columns without a number are left out. Long headings are folded to the width of their numbers.
    """
    labels = dict(zip((run.run_id for run in runs), varying([run.config for run in runs]), strict=True))
    columns = {"run": [run.run_id for run in shown]}
    for name in labels[runs[0].run_id] if runs else ():
        columns[name] = [short(labels[run.run_id][name]) for run in shown]
    columns["step"] = [_step(run) for run in shown]
    columns["left"] = [_left(run) for run in shown]
    for head, name in zip(("nats an item", "rank nats"), (LOSS, RANK_LOSS), strict=True):
        columns[head] = [_number((run.row or {}).get(name)) for run in shown]
    columns["status"] = [_status(run) for run in shown]
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
        table.add_row(*map(markup, cells))
    return table


def _step(run: RunState) -> str:
    """Returns the steps done, and those planned if the run is not done."""
    if run.row is not None or run.steps is None:
        return "-" if run.step is None else f"{run.step:,}"
    return f"{run.step + 1:,} of {run.steps:,}"


def _left(run: RunState) -> str:
    return "-" if run.seconds_left is None else str(timedelta(seconds=round(run.seconds_left)))


def _status(run: RunState) -> str:
    where = {"running": f" on {run.past.worker}", "stale": f": {run.past.worker} died or is silent"}
    return run.status + where.get(run.status, "")


def _notes(runs: list[RunState]) -> list[str]:
    """Returns why runs have no loss, and how often runs without a row were killed or failed."""
    notes = []
    for run in runs:
        if run.fault:
            reason = run.fault
        elif run.row is not None:
            reason = run.row.get("reason")
        else:
            before = [f"killed {_times(run.past.deaths)}"] if run.past.deaths else []
            failures = run.past.failures
            before += [f"failed {_times(len(failures))}, last by {failures[0]}"] if failures else []
            reason = "; ".join(before)
        if reason:
            notes.append(f"{run.run_id} {run.status}: {reason}")
        notes += run.past.faults
    return notes


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _number(value: float | None) -> str:
    """Returns four decimals, or a dash for a missing number."""
    return "-" if value is None else f"{value:.4f}"


def _saved(rows: list[dict[str, Any]]) -> str:
    """Returns a sentence about the FLOPs that runs did not spend, because another run had taken their first steps or
    because they were dropped."""
    done = [row for row in rows if FLOPS_SPENT in row and FLOPS in row]  # an older release has no such column
    spent, trained = (sum(row[name] for row in done) for name in (FLOPS_SPENT, FLOPS))
    shared = [f"{trained - spent:.3g} saved by shared steps"] if spent < trained else []
    if dropped := saved_flops(rows):
        spent += sum(row[FLOPS_SPENT] for row in rows if row["status"] == "dropped")
        shared.append(f"{dropped:.3g} saved by halving")
    return ", ".join([f"FLOPs: {spent:.3g} spent", *shared]) if shared else ""


def _range(rows: list[dict[str, Any]], column_of: Callable[[str], str]) -> str:
    """Returns the value of a reference loss, or the range of its values, for each of the two losses."""
    ranges = []
    for name, sentence in zip((LOSS, RANK_LOSS), ("{} nats an item", "rank {} nats an exposure"), strict=True):
        column = column_of(name)
        ends = sorted(value for row in rows if (value := row.get(column)) is not None)
        if ends:
            ranges.append(sentence.format(" to ".join(dict.fromkeys((_number(ends[0]), _number(ends[-1]))))))
    return ", ".join(ranges)
