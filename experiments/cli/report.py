"""One self-contained HTML page about a sweep: figures, fits with intervals, every run and every exclusion.

sessionrec report SWEEP --out report.html
SWEEP/report.json may name the columns (the keys are those of the flags: n, d, loss, ...); SWEEP/theory.json may hold
what is known of the truth (exponent, floor, curve, note).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

import scaling
from experiments.cli.fit import show
from scaling import report, table
from scaling.errors import InputError, Refusal, near_miss
from scaling.theory import read_theory

FROM_SWEEP = (
    "n", "d", "unique", "flops", "loss", "metric", "baseline", "floor_column", "select_by", "select_within", "law",
)  # fmt: skip
"""Keys of report.json."""
LEAST_SIZES, LEAST_RANGE = 3, 4.0
"""Distinct N, and the largest over the smallest, from which on a law of N and D is the one to draw."""


@dataclass(frozen=True)
class Args:
    sweep: tyro.conf.Positional[Path]
    """A sweep folder with runs/*/row.json, or a .csv, .parquet or .jsonl."""
    out: Path
    """The page to write, *.html; its figures go to a folder beside it."""
    loss: str | None = None
    """Column of the loss. Default: loss_nats_per_item, unless a metric is named."""
    metric: str | None = None
    """Column of a metric between 0 and 1, such as recall_at_500: with --loss, it is fitted against the loss."""
    n: str | None = None
    """Column of the parameter count. Default: params_body, if there is one."""
    d: str | None = None
    """Column of the data size. Default: sessions_unique."""
    unique: str | None = None
    """Column of the distinct data behind a D that counts repeats."""
    flops: str | None = None
    """Column of training FLOPs. Default: flops_train, if there is one and N is there."""
    baseline: str | None = None
    """Column of a trivial predictor's loss. Default: loss_baseline_nats_per_item and its like, if there is one."""
    floor_column: str | None = None
    """Column of the known irreducible loss. Default: loss_floor_nats_per_item and its like, if there is one."""
    select_by: str | None = None
    """Column (a validation loss) by which tuned runs were chosen: the lowest of each cell stays."""
    select_within: str | None = None
    """The columns that make a cell, as A,B."""
    law: str | None = None
    """Laws to fit, as A,B; the first is drawn. Default: chinchilla where N varies fourfold, else power_floor, and
    metric_sigmoid for a metric against a loss."""
    bootstrap: int = 1000
    """Resamplings behind the intervals."""
    seed: int = 0
    """Seed of the resampling."""


def main(argv: list[str]) -> int:
    args = tyro.cli(Args, args=argv, prog="sessionrec report", description=__doc__)
    chosen = _from_sweep(args.sweep / "report.json") | {
        field.name: getattr(args, field.name)
        for field in fields(args)
        if field.name in FROM_SWEEP and getattr(args, field.name) is not None
    }
    frame, unfinished = table.load(args.sweep)
    columns = _columns(chosen, frame.columns)
    runs = table.from_frame(frame, columns, source=str(args.sweep), unfinished=unfinished)
    theory_file = args.sweep / "theory.json"
    theory = read_theory(theory_file) if theory_file.exists() else None
    fits = [(law, _fit(runs, law, args)) for law in _names(chosen.get("law", _law(runs)))]
    folder = report.write(args.out, runs, fits, theory, title=f"Scaling report: {args.sweep.resolve().stem}")
    console = Console()
    for law, fit in fits:
        if isinstance(fit, Refusal):
            console.print(f"{law}: refused. {fit}", highlight=False, markup=False)
        else:
            show(fit, console)
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


def _from_sweep(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f'{path} holds a {type(values).__name__}; wanted an object such as {{"loss": "COLUMN"}}')
    for key in values:
        if key not in FROM_SWEEP:
            raise InputError(f"{path} has the unknown key {key!r}; {near_miss(key, FROM_SWEEP)}")
    return values


def _columns(chosen: dict[str, Any], present: list[str]) -> scaling.Columns:
    """The chosen columns; contract 3's names for the rest, as far as the table has them."""
    loss = chosen.get("loss", None if "metric" in chosen else "loss_nats_per_item")
    optional = {"n": "params_body"}
    if "n" in chosen or "params_body" in present:
        optional["flops"] = "flops_train"
    if loss is not None and "_nats" in loss:
        optional |= {"baseline": loss.replace("_nats", "_baseline_nats")}
        optional |= {"floor_column": loss.replace("_nats", "_floor_nats")}
    names = {key: name for key, name in optional.items() if name in present} | chosen
    return scaling.Columns(
        loss=loss,
        metric=names.get("metric"),
        d=names.get("d", None if "flops" in chosen else "sessions_unique"),
        n=names.get("n"),
        unique=names.get("unique"),
        flops=names.get("flops"),
        baseline=names.get("baseline"),
        floor=names.get("floor_column"),
        select_by=names.get("select_by"),
        select_within=_names(names.get("select_within", ())),
    )


def _names(value: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
