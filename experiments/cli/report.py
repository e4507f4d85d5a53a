"""Write one self-contained HTML page about a sweep: the answer, figures, how far to trust it, all runs and exclusions.

sessionrec report SWEEP --out report.html

Without flags the columns are those of a sweep's rows, if the table has them: loss_nats_per_item (with its baseline and
floor), sessions_unique, params_body, flops_train. SWEEP/report.json may name others, with the names of the flags as
keys (n, d, loss, ...). SWEEP/theory.json may have the known truth (exponent, floor, curve, note).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import scaling
from doors import bounds
from doors.bounds import SEED, Between
from doors.files import check_outputs
from doors.terminal import Terminal
from experiments.cli.columns import ColumnFlags, columns_of, completed, laws_of, named_by, table_of
from experiments.cli.output import fit_progress
from experiments.cli.report_columns import REPORT_COLUMNS
from experiments.cli.show_fit import show_fit
from scaling import report
from scaling.errors import Refusal
from scaling.laws.theory import read_theory
from scaling.table import run_table

# From this number of distinct N, and this ratio of the largest to the smallest, the default is a law of N and D.
LEAST_SIZES, LEAST_RANGE = 3, 4.0


@dataclass(frozen=True, kw_only=True)
class Args:
    sweep: tyro.conf.Positional[Path]
    """A sweep folder with runs/*/row.json, or a file .csv, .parquet or .jsonl."""
    out: Path
    """The page to write, *.html. Its figures go to a folder next to it."""
    law: str | None = None
    """The laws to fit, as A,B; the page draws the first. The default is chinchilla if N varies fourfold, else
    power_floor, and metric_sigmoid for a metric against a loss."""
    bootstrap: Annotated[int, Between(0, 100_000)] = 1000
    """The number of bootstrap resamplings for the intervals."""
    seed: Annotated[int, SEED] = 0
    """The seed of the resampling."""
    columns: ColumnFlags = field(default_factory=scaling.Columns)


def main(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="sessionrec report", description=__doc__)
    bounds.check(args)
    if args.out.suffix in (".html", ".htm"):  # else `report.write` refuses it
        check_outputs(args.out, inputs=[args.sweep])
    frame, unfinished = run_table.load(args.sweep)
    named = completed(named_by(args.columns, args.law), args.sweep, frame.columns)
    runs = table_of(args.sweep, frame, columns_of(named), unfinished)
    theory_file = args.sweep / "theory.json"
    theory = read_theory(theory_file) if theory_file.exists() else None
    with fit_progress():
        fits = [(law, _fit(runs, law, args)) for law in laws_of(named) or [_law(runs)]]
    title = f"Scaling report: {args.sweep.resolve().stem}"
    folder = report.write(args.out, runs, fits, theory, title=title, columns=REPORT_COLUMNS)
    console = Terminal()
    for law, fit in fits:
        if isinstance(fit, Refusal):
            console.print(f"{law}: refused. {fit}", highlight=False, markup=False)
        else:
            show_fit(fit, console)
    console.print(f"{args.out}   figures: {folder}", highlight=False, soft_wrap=True)
    return 0


def _fit(runs: scaling.RunTable, law: str, args: Args) -> scaling.Fit | Refusal:
    try:
        return scaling.fit(runs, law, bootstrap=args.bootstrap, seed=args.seed)
    except Refusal as refusal:
        return refusal  # the page shows the reason; its other figures and tables remain useful


def _law(runs: scaling.RunTable) -> str:
    """Returns the law for a table if neither a flag nor report.json names one."""
    if runs.metric is not None and runs.loss is not None:
        return "metric_sigmoid"
    several = runs.n is not None and len(np.unique(runs.n)) >= LEAST_SIZES
    return "chinchilla" if several and runs.n.max() >= LEAST_RANGE * runs.n.min() else "power_floor"
