"""Fit a power law to a table of runs: parameters with intervals, competing minima and forms, held-out errors.

sessionrec fit runs.csv --n params --d tokens --loss loss --law chinchilla --drop-worst 5 --json fit.json
sessionrec fit SWEEP

For a sweep, its report.json names the columns and the law that no flag names, as for `sessionrec report`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

import scaling
from doors import bounds
from doors.bounds import SEED, Between
from doors.files import check_outputs
from doors.terminal import Terminal
from experiments.cli.columns import ColumnFlags, columns_of, completed, laws_of, named_by, table_of
from experiments.cli.output import fit_progress
from experiments.cli.show_fit import show_fit
from scaling.errors import InputError
from scaling.table import run_table


@dataclass(frozen=True, kw_only=True)
class Args:
    table: tyro.conf.Positional[Path]
    """A file .csv, .parquet or .jsonl, or a sweep folder with runs/*/row.json."""
    law: str | None = None
    """Laws of D: power, power_floor, broken, shifted. Laws of N and D: chinchilla, chinchilla_no_floor, tied, kaplan,
    gamma, data_exponent. A law of N, D and unique data: repeated. Laws of a metric against the loss: metric_sigmoid,
    metric_exponential, metric_chance. best takes the law that predicts held-out runs best."""
    objective: Literal["huber", "lad", "ls"] = "huber"
    """The objective on residuals of log loss: Huber, least absolute deviation, or least squares."""
    delta: str = "auto"
    """The threshold of Huber in nats of log loss; auto is 1.345 robust standard deviations of the residuals."""
    drop_worst: Annotated[int, Between(0, 2**31)] = 0
    """Leave out this number of runs of highest loss; the fit with them is shown too."""
    floor: float | Literal["free"] | None = None
    """The known irreducible loss, which is then not fitted. free fits it although the sweep knows it."""
    bootstrap: Annotated[int, Between(0, 100_000)] = 1000
    """The number of bootstrap resamplings for the intervals; 0 gives none."""
    seed: Annotated[int, SEED] = 0
    """The seed of the resampling."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything to this file."""
    columns: ColumnFlags = field(default_factory=scaling.Columns)


def main(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="sessionrec fit", description=__doc__)
    bounds.check(args)
    check_outputs(args.json, inputs=[args.table])
    if args.floor is not None and args.columns.floor_column is not None:
        raise InputError("--floor and --floor-column both name the floor; give one")
    frame, unfinished = run_table.load(args.table)
    named = named_by(args.columns, args.law)
    if args.table.is_dir():
        named = completed(named, args.table, frame.columns)
    if args.floor is not None:
        named["floor_column"] = None
    laws = laws_of(named)
    if not laws:
        raise InputError("no law is named; name one with --law, such as power_floor or chinchilla")
    runs = table_of(args.table, frame, columns_of(named), unfinished, drop_worst=args.drop_worst)
    if isinstance(args.floor, float):
        _refuse_floor(args.floor, runs)
    with fit_progress():
        fit = scaling.fit(
            runs,
            laws[0],
            objective=args.objective,
            delta=_delta(args.delta),
            floor=None if args.floor == "free" else args.floor,
            bootstrap=args.bootstrap,
            seed=args.seed,
        )
    if args.json is not None:
        fit.to_json(args.json)
    show_fit(fit, Terminal())
    return 0


def _refuse_floor(floor: float, runs: scaling.RunTable) -> None:
    if runs.loss is not None and len(runs) and not (runs.loss > floor).any():
        raise InputError(
            f"--floor is {floor:g}, and no run has a loss above it (the highest is {runs.loss.max():g}); an "
            "irreducible loss is below the losses of the runs. Give the floor of this table, in its unit"
        )


def _delta(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--delta is {text!r}; expected auto or a number in nats of log loss, such as 1e-3") from error
