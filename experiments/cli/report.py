"""One self-contained HTML page about a sweep: the answer, figures, how far to trust it, every run and every exclusion.

sessionrec report SWEEP --out report.html
Columns that are not named are those of a sweep's rows, as far as the table has them: loss_nats_per_item (with its
baseline and floor), sessions_unique, params_body, flops_train. SWEEP/report.json may name others (the keys are those of
the flags: n, d, loss, ...); SWEEP/theory.json may hold what is known of the truth (exponent, floor, curve, note).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

import scaling
from experiments.cli.columns import ColumnArgs, chosen_for, columns_of, names, table_of
from experiments.cli.report_columns import REPORT_COLUMNS
from experiments.cli.tell import tell
from scaling import report
from scaling.errors import Refusal
from scaling.laws.theory import read_theory
from scaling.table import run_table

LEAST_SIZES, LEAST_RANGE = 3, 4.0
"""Distinct N, and the largest over the smallest, from which on a law of N and D is the one to draw."""


@dataclass(frozen=True, kw_only=True)
class Args(ColumnArgs):
    sweep: tyro.conf.Positional[Path]
    """A sweep folder with runs/*/row.json, or a .csv, .parquet or .jsonl."""
    out: Path
    """The page to write, *.html; its figures go to a folder beside it."""
    law: str | None = None
    """Laws to fit, as A,B; the first is drawn. Default: chinchilla where N varies fourfold, else power_floor, and
    metric_sigmoid for a metric against a loss."""
    bootstrap: int = 1000
    """Resamplings behind the intervals."""
    seed: int = 0
    """Seed of the resampling."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="sessionrec report", description=__doc__)
    frame, unfinished = run_table.load(args.sweep)
    chosen = chosen_for(args, args.sweep, frame.columns)
    columns = columns_of(chosen)
    runs = table_of(args.sweep, frame, columns, unfinished)
    theory_file = args.sweep / "theory.json"
    theory = read_theory(theory_file) if theory_file.exists() else None
    fits = [(law, _fit(runs, law, args)) for law in names(chosen.get("law", _law(runs)))]
    title = f"Scaling report: {args.sweep.resolve().stem}"
    folder = report.write(args.out, runs, fits, theory, title=title, columns=REPORT_COLUMNS)
    console = Console()
    for law, fit in fits:
        if isinstance(fit, Refusal):
            console.print(f"{law}: refused. {fit}", highlight=False, markup=False)
        else:
            tell(fit, console)
    console.print(f"{args.out}   figures: {folder}", highlight=False, soft_wrap=True)
    return 0


def _fit(runs: scaling.RunTable, law: str, args: Args) -> scaling.Fit | Refusal:
    try:
        return scaling.fit(runs, law, bootstrap=args.bootstrap, seed=args.seed)
    except Refusal as refusal:
        return refusal  # the page says why; its figures and tables are of use all the same


def _law(runs: scaling.RunTable) -> str:
    """The law for a table whose reader names none."""
    if runs.metric is not None and runs.loss is not None:
        return "metric_sigmoid"
    several = runs.n is not None and len(np.unique(runs.n)) >= LEAST_SIZES
    return "chinchilla" if several and runs.n.max() >= LEAST_RANGE * runs.n.min() else "power_floor"
