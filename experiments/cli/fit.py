"""Fit a power law to a table of runs: parameters with intervals, competing minima, held-out errors.

sessionrec fit runs.csv --n params --d tokens --loss loss --law chinchilla --drop-worst 5 --json fit.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import scaling
from scaling.errors import InputError

HELDOUT_SHOWN = 8


@dataclass(frozen=True)
class Args:
    table: tyro.conf.Positional[Path]
    """.csv, .parquet, .jsonl, or a sweep folder with runs/*/row.json."""
    loss: str
    """Column of the loss to fit."""
    law: str
    """power, power_floor (laws of D) or chinchilla (of N and D)."""
    d: str | None = None
    """Column of the data size D."""
    d_from_flops: str | None = None
    """Column of training FLOPs C, for a table without D: D = C / (6 N)."""
    n: str | None = None
    """Column of the parameter count N."""
    objective: Literal["huber", "lad", "ls"] = "huber"
    """Of the residuals of log loss: Huber, least absolute deviation, or least squares."""
    delta: str = "auto"
    """Huber's threshold in nats of log loss; auto: 1.345 robust standard deviations of the residuals."""
    drop_worst: int = 0
    """Leave out this many runs of highest loss."""
    select_by: str | None = None
    """Column (a validation loss) by which tuned runs were chosen: the lowest of each cell stays."""
    select_within: str | None = None
    """The columns that make a cell, as A,B."""
    baseline: str | None = None
    """Column of a trivial predictor's loss: runs that do not beat it are left out."""
    floor: float | None = None
    """The known irreducible loss; it is then not fitted."""
    floor_column: str | None = None
    """Column that holds the known irreducible loss, the same in all rows."""
    cluster: str | None = None
    """Column that names the run where a run has several rows: they are resampled together."""
    run_id: str | None = None
    """Column that names a row in messages. Default: run_id, if there is one."""
    bootstrap: int = 1000
    """Resamplings behind the intervals; 0: none."""
    seed: int = 0
    """Seed of the resampling."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="sessionrec fit", description=__doc__)
    if args.floor is not None and args.floor_column is not None:
        raise InputError("--floor and --floor-column both say what the floor is; give one")
    columns = scaling.Columns(
        loss=args.loss,
        d=args.d,
        n=args.n,
        flops=args.d_from_flops,
        baseline=args.baseline,
        floor=args.floor_column,
        cluster=args.cluster,
        run_id=args.run_id,
        select_by=args.select_by,
        select_within=tuple(args.select_within.split(",")) if args.select_within else (),
    )
    table = scaling.read(args.table, columns, args.drop_worst)
    fit = scaling.fit(
        table,
        args.law,
        objective=args.objective,
        delta=_delta(args.delta),
        floor=args.floor,
        bootstrap=args.bootstrap,
        seed=args.seed,
    )
    if args.json is not None:
        fit.to_json(args.json)
    show(fit, Console())
    return 0


def _delta(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--delta is {text!r}; wanted auto or a number in nats of log loss, such as 1e-3") from error


def show(fit: scaling.Fit, console: Console) -> None:
    """Prints a fit for a reader at a terminal."""
    delta = f", delta {fit.objective.delta:.4g}" if fit.objective.name == "huber" else ""
    console.print(f"[bold]{fit.law.formula}[/]   {fit.law.name}; {fit.objective.name}{delta}", highlight=False)
    console.print(f"{len(fit.table)} runs fitted, objective {fit.objective_value:.8g}, {_minima(fit)}", highlight=False)
    for rule, count in fit.table.excluded_by_rule().items():
        console.print(f"{count} left out: {rule}", highlight=False)
    console.print(_parameters(fit))
    if fit.free_floor is not None:
        verdict = {True: "agrees", False: "[red]disagrees[/]", None: "cannot tell"}[fit.free_floor.agrees]
        console.print(
            f"A freely fitted floor, 95 %: {_interval(fit.free_floor.interval95)}: {verdict}", highlight=False
        )
    if fit.heldout:
        console.print(_heldout(fit))
    for warning in fit.warnings:
        console.print("[yellow]warning:[/]", warning.replace("[", r"\["), highlight=False)


def _minima(fit: scaling.Fit) -> str:
    others = len(fit.minima) - 1
    return f"{others} competing minima, the next {fit.minima[1].gap:.2g} above" if others else "no competing minimum"


def _parameters(fit: scaling.Fit) -> Table:
    table = _table("", "value  [95 %]", "term's size at the centre  [95 %]")
    for name in fit.params:
        size = fit.sizes_at_centre.get(name)
        interval = fit.sizes_at_centre95.get(name)
        at_centre = "" if size is None else f"{size:.5g}" + (f"  {_interval(interval)}" if interval else "")
        table.add_row(name, fit.describe(name).replace("[", r"\["), at_centre)
    at = ", ".join(f"{axis.upper()} {value:.4g}" for axis, value in fit.centre.items())
    table.caption = f"centre: {at}"
    return table


def _interval(interval: tuple[float | None, float | None] | None) -> str:
    low, high = interval or (None, None)
    return r"\[" + ", ".join("-" if end is None else f"{end:.5g}" for end in (low, high)) + "]"


def _heldout(fit: scaling.Fit) -> Table:
    table = _table("held-out run", "reach", "loss", "predicted", "[95 %]", "error", "of excess")
    furthest = sorted(fit.heldout, key=lambda run: -run.extrapolation_factor)
    if len(furthest) > HELDOUT_SHOWN:
        worst = max(fit.heldout, key=lambda run: abs(run.relative_error))
        table.caption = (
            f"the {HELDOUT_SHOWN} furthest of {len(furthest)} held-out runs (all: --json); "
            f"largest error {worst.relative_error:+.2%}, {worst.run}"
        )
    for run in furthest[:HELDOUT_SHOWN]:
        excess = "-" if run.excess_relative_error is None else f"{run.excess_relative_error:+.1%}"
        error = f"{run.relative_error:+.2%}"
        factor = f"{run.extrapolation_factor:.3g}x"
        table.add_row(
            run.run, factor, f"{run.loss:.5g}", f"{run.predicted:.5g}", _interval(run.predicted95), error, excess
        )
    return table


def _table(*heads: str) -> Table:
    """Narrow enough for 80 columns, and never with cut numbers."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table
