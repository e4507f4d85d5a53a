"""Fit laws of the best learning rate and batch: rate* = c N^a D^b, from runs over rates at several N and D.

    sessionrec rates runs.csv --rate lr --batch rows --n params --d tokens --loss loss --json rates.json
    sessionrec rates SWEEP --json rates.json

`sessionrec plan --rates` gives the rate and the batch of a budget, and a sweep reads them by --learning-rates-from.
The runs of one N and D are a cell. Its best rate is the lowest point of a quadratic around its lowest runs, or only a
bound where that is at an edge of what was tried. In a sweep of the plan learning_rate the columns are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import tyro

import scaling
from doors import bounds
from doors.bounds import SEED, Between
from doors.files import STDOUT, check_outputs
from doors.storage import copies
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import fit_progress, narrow_table
from experiments.cli.parsing import JsonFile, parse_flags
from experiments.plans.rate_law import BATCH, RATE, settings_of
from scaling.rates.cells import SETTINGS
from scaling.rates.minimum import Minimum
from scaling.table import run_table
from sessionrec_jax.row_columns import OBJECTIVE, PARAMS, SESSIONS


@dataclass(frozen=True, kw_only=True)
class Args:
    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A file .csv, .parquet or .jsonl with one row a run, or a sweep folder."""
    rate: str | None = None
    """Column of the peak learning rate."""
    batch: str | None = None
    """Column of the batch size, in any unit. Left out: only the rate was varied (in a sweep: batch_rows, if it was)."""
    n: str | None = None
    """Column of the size N; left out where all runs have one."""
    d: str | None = None
    """Column of the data D."""
    loss: str | None = None
    """Column of the loss."""
    bootstrap: Annotated[int, Between(0, 100_000)] = 1000
    """The number of resamplings for the intervals, 40 or more; 0 gives none."""
    seed: Annotated[int, SEED] = 0
    """The seed of the resampling."""
    json: JsonFile = None
    """Write the laws and the cells to this file."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec rates", description=__doc__)
    check_outputs(args.json, inputs=[args.table])
    bounds.check(args)
    found, more = _fitted(args)
    if args.json is not None:
        found.to_json(args.json, more)
    if args.json != STDOUT:
        show(found, Terminal())
    return 0


def _fitted(args: Args) -> tuple[scaling.RatesFit, dict]:
    """Returns the laws, and for a sweep the settings that they hold for."""
    table = copies.opened(args.table, copies.for_readers)
    frame, _ = run_table.load(table)
    names = {"rate": args.rate, "batch": args.batch, "n": args.n, "d": args.d, "loss": args.loss}
    more = {}
    if table.is_dir():
        usual = {"rate": RATE, "n": PARAMS, "d": SESSIONS, "loss": OBJECTIVE}
        if _is_varied(frame, BATCH):
            usual["batch"] = BATCH
        names = {name: value or usual.get(name) for name, value in names.items()}
        more = settings_of(table)
    if names["rate"] is None:
        raise scaling.InputError(f"{args.table} needs the column of the learning rate; name it with --rate")
    columns = scaling.Columns(n=names["n"], d=names["d"], loss=names["loss"])
    runs = run_table.from_frame(frame, columns, source=str(args.table))
    with fit_progress():
        found = scaling.fit_rates(
            runs, rate=names["rate"], batch=names["batch"], bootstrap=args.bootstrap, seed=args.seed
        )
    return found, more


def _is_varied(frame: pl.DataFrame, column: str) -> bool:
    return column in frame.columns and frame[column].n_unique() > 1


def show(found: scaling.RatesFit, console: Terminal) -> None:
    """Prints the answer and the cells."""
    for sentence in found.sentences:
        console.print(markup(sentence), highlight=False, style="bold")
    names = SETTINGS[: 2 if found.columns["batch"] else 1]
    table = narrow_table("N", "D", "runs", *(f"best {name}" for name in names), "lowest loss", "corrected", "")
    for each in found.minima:
        cell = each.cell
        best = [_best(each, place) for place in range(len(names))]
        size = "-" if cell.n is None else f"{cell.n:.4g}"
        losses = (f"{each.lowest:.5f}", f"{each.corrected:.5f}")
        note = "left out: " + each.refused if each.refused else ""
        table.add_row(size, f"{cell.d:.4g}", str(len(cell.log_loss_R)), *best, *losses, note)
    table.caption = "± is the standard error as a factor of the value; corrected: without the bias of a lowest run"
    Terminal(highlight=False).print(table)
    in_table = {(each.cell.n, each.cell.d) for each in found.minima}
    for one in found.left_out:
        if (one.n, one.d) not in in_table:
            size = "" if one.n is None else f"N {one.n:.4g}, "
            console.print(f"Left out: {size}D {one.d:.4g}: {markup(one.reason)}", highlight=False)
    for rule, rows in found.excluded.items():
        console.print(f"{rows} rows are excluded: {markup(rule)}", highlight=False)
    for warning in found.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)


def _best(each: Minimum, place: int) -> str:
    value, side = float(np.exp(each.log_A[place])), each.side_A[place]
    if side == "inside":
        return f"{value:.3g} ±{np.expm1(each.stderr_A[place]):.0%}"
    return {"above": f"{value:.3g} or more", "below": f"{value:.3g} or less"}.get(side, "-")
