"""Recover two laws on data whose truth is known, from nothing: logs, sweeps, fits, one report.

    sessionrec demo --out DEMO
    sessionrec demo --size smallest --out DEMO

The law of data: loss against the number of training sessions. The law of body size: loss against parameters. Each
fitted exponent is printed next to the exact one. A demo that was stopped goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import scaling
from doors import bounds
from doors.bounds import SEED
from doors.terminal import Terminal
from experiments.cli.columns import columns_of, completed, laws_of, table_of
from experiments.cli.parsing import parse_flags
from experiments.cli.report_columns import REPORT_COLUMNS
from experiments.demo import SizeName
from experiments.sweep.launch import local
from scaling.table import run_table

if TYPE_CHECKING:
    from experiments.demo.axes import Axis
    from experiments.demo.recovered import Recovered


@dataclass(frozen=True)
class Command:
    out: Path = Path("out/demo")
    """The folder of the demo. It gets report.html, data.html, body.html, and the logs and sweeps in data/ and body/."""
    size: SizeName = "full"
    """The time that the demo takes on two cores.
    full: about ten minutes; gives the numbers of docs/results.md
    smallest: about two minutes; only shows that every step works"""
    seed: Annotated[int, SEED] = 1
    """The seed of the known processes and of the runs. Each seed is another draw of the data, with another floor."""
    workers: int | None = None
    """The number of worker processes. The default is that of `sessionrec sweep`."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec demo", description=__doc__)
    bounds.check(command)
    from experiments.demo.axes import axes
    from experiments.demo.make_runs import make_runs

    say = Terminal(stderr=True, highlight=False, soft_wrap=True).print
    launcher = local.Launcher(command.workers or local.default_workers())
    launcher.check()
    found = []
    for axis in axes(command.size, command.seed):
        say(f"[bold]{axis.title}[/]")
        found.append(_recovered(axis, make_runs(axis, command.out / axis.name, launcher, say)))
        _write_report(command.out, found[-1])
    _write_overview(command.out, found)
    show = Terminal(highlight=False, soft_wrap=True).print
    show(f"\nreport   {command.out / 'report.html'}")
    for one in found:
        for line in one.lines():
            show(f"{one.axis.name}     {line}", markup=False)
    return 0


def _recovered(axis: Axis, sweep: Path) -> Recovered:
    """Fits the law that the sweep's report.json names. A refusal is kept: the page shows its reason."""
    from experiments.demo.recovered import Recovered
    from scaling.laws.theory import read_theory

    frame, unfinished = run_table.load(sweep)
    named = completed({}, sweep, frame.columns)
    runs, law = table_of(sweep, frame, columns_of(named), unfinished), laws_of(named)[0]
    try:
        fit = scaling.fit(runs, law)
    except scaling.Refusal as refusal:
        fit = refusal
    return Recovered(axis, runs, law, fit, read_theory(sweep / "theory.json"))


def _write_report(out: Path, found: Recovered) -> None:
    from scaling import report

    page, fits = out / f"{found.axis.name}.html", [(found.law, found.fit)]
    report.write(page, found.runs, fits, found.theory, title=found.axis.title, columns=REPORT_COLUMNS)


def _write_overview(out: Path, found: list[Recovered]) -> None:
    from scaling.report import overview

    parts = [
        overview.Part(
            name=one.axis.name,
            title=one.axis.title,
            table=one.runs,
            fit=one.fit,
            theory=one.theory,
            lines=one.lines(),
            page=f"{one.axis.name}.html",
        )
        for one in found
    ]
    overview.write(out / "report.html", "Two laws on data whose truth is known", parts)
