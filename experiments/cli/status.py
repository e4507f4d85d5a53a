"""Show the progress of a sweep: done, running and where, stopped, stale, waiting, failed and why.

sessionrec status SWEEP
sessionrec status SWEEP --follow
sessionrec status SWEEP --html sweep.html --follow

The page of --html needs no server and no network. While --follow runs it is written again every ten seconds, and an
open browser loads it again.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from doors.address import shown
from doors.files import STDOUT, check_outputs, write_json
from doors.storage import copies
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli import run_states
from experiments.cli.parsing import JsonFile, OutputFile, parse_flags
from experiments.sweep.sweep_folder import RunState, states
from scaling.errors import InputError

if TYPE_CHECKING:
    from experiments.cli.status_page import StatusPage

_FOLLOW_SECONDS = 2.0
_FOLLOW_SECONDS_OF_BUCKET = 10.0
"""The same where each look costs requests."""
_WIDE = 1000
"""Width of the output where it is not a terminal, so that no number is cut."""


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP", metavar="SWEEP")]
    """The sweep folder."""
    follow: bool = False
    """Show the progress until every run has a row: on a terminal the runs that are neither waiting nor done, elsewhere
    a line whenever the counts change. Ctrl-C ends the command and leaves the sweep alone."""
    html: OutputFile = None
    """Also write a page, *.html: runs, time left, curves, failures, and the law so far with its intervals."""
    json: JsonFile = None
    """Write one JSON object for programs to this file."""


def main(argv: list[str]) -> int:
    command = parse_flags(
        Command, argv, prog="sessionrec status", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    check_outputs(command.json, command.html)
    console = Terminal(width=None if sys.stdout.isatty() else _WIDE, quiet=command.json == STDOUT)
    sweep_dir = copies.for_reading(command.sweep, copies.for_readers)
    plan, runs = states(sweep_dir)
    page = None if command.html is None else _page(command.html, sweep_dir, plan)
    if command.follow:
        runs = _followed(sweep_dir, runs, console, page)
    if page is not None:
        page.write(runs)
    if command.json is not None:
        by_run = {run.run_id: _for_programs(run) for run in runs}
        counts = Counter(run_states.statuses(runs))
        write_json(command.json, {"plan": plan, "runs": len(runs), "counts": counts, "by_run": by_run})
    if command.json == STDOUT:
        return 0
    console.print(
        f"{shown(command.sweep)}: plan {plan}, {len(runs)} runs", highlight=False, markup=False, soft_wrap=True
    )
    console.print(_table(runs, runs))
    for line in (*run_states.notes(runs), *run_states.references(runs)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(run_states.counts(runs))
    return 0


def _page(out: Path, sweep: Path, plan: str) -> StatusPage:
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"the page is {out}; wanted a name that ends in .html")
    from experiments.cli.status_page import (
        StatusPage,
    )  # loads the fits, which a status without a page need not wait for

    return StatusPage(out, sweep, plan)


def _followed(sweep_dir: Path, runs: list[RunState], console: Terminal, page: StatusPage | None) -> list[RunState]:
    """Waits until all runs have a row, and returns them. Keeps the page up to date meanwhile."""
    printed = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while not all(run.has_ended for run in runs):
                counts = run_states.counts(runs)
                if console.is_terminal:
                    live.update(_view(runs, f"{counts}: {shown(sweep_dir)}"), refresh=True)
                elif counts != printed:
                    console.print(printed := counts)
                if page is not None and page.is_due:
                    page.write(runs, is_followed=True)
                time.sleep(_FOLLOW_SECONDS if copies.copy_of(sweep_dir) is None else _FOLLOW_SECONDS_OF_BUCKET)
                copies.pull(sweep_dir, copies.for_readers)
                runs = states(sweep_dir)[1]
        except KeyboardInterrupt:
            if page is not None:
                page.write(runs)  # nothing writes it again, so that it must not load itself again
            raise
        finally:
            live.update("")  # else lines above the top of the screen would stay
    return runs


def _view(runs: list[RunState], counts: str) -> Group:
    """Returns the counts, the runs at work, and a line for each run that went wrong."""
    now = [run for run in runs if run.status in ("running", "stale", "stopped")]
    notes = [Text(note.partition("\n")[0], no_wrap=True, overflow="ellipsis") for note in run_states.notes(runs)]
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


def _table(runs: list[RunState], shown: list[RunState]) -> Table:
    """Returns a table of the runs `shown`. Long headings are folded to the width of their numbers."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    found = run_states.columns(runs, shown)
    for name, cells in found.items():
        head = run_states.heading(name)
        width = max(map(len, (*cells, *head.split())))
        is_text = name in run_states.WITH_TEXT
        table.add_column(
            "\n".join(textwrap.wrap(head, width)),
            justify="left" if is_text else "right",
            no_wrap=name != "status",
            min_width=max(len(cell.split()[0]) for cell in cells) if name == "status" else None,
            overflow="fold" if is_text else "ellipsis",
        )
    for cells in zip(*found.values(), strict=True):
        table.add_row(*map(markup, cells))
    return table
