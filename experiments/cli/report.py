"""One self-contained HTML page about a sweep: the answer, figures, how far to trust it, every run and every exclusion.

sessionrec report SWEEP --out report.html
Columns that are not named are those of a sweep's rows, as far as the table has them: loss_nats_per_item (with its
baseline and floor), sessions_unique, params_body, flops_train. SWEEP/report.json may name others (the keys are those of
the flags: n, d, loss, ...); SWEEP/theory.json may hold what is known of the truth (exponent, floor, curve, note).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

import scaling
from experiments.cli.columns import ColumnArgs, names
from experiments.cli.tell import tell
from scaling import report, table
from scaling.errors import InputError, Refusal, near_miss
from scaling.theory import read_theory

FROM_SWEEP = (*(field.name for field in fields(ColumnArgs)), "law")
"""Keys of report.json."""
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
    chosen = _from_sweep(args.sweep / "report.json") | {
        field.name: getattr(args, field.name)
        for field in fields(args)
        if field.name in FROM_SWEEP and getattr(args, field.name) is not None
    }
    frame, unfinished = table.load(args.sweep)
    columns = dataclasses.replace(args, **_with_defaults(chosen, frame.columns)).columns()
    runs = table.from_frame(frame, columns, source=str(args.sweep), unfinished=unfinished)
    theory_file = args.sweep / "theory.json"
    theory = read_theory(theory_file) if theory_file.exists() else None
    fits = [(law, _fit(runs, law, args)) for law in names(chosen.get("law", _law(runs)))]
    folder = report.write(args.out, runs, fits, theory, title=f"Scaling report: {args.sweep.resolve().stem}")
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
    return {key: ",".join(v) if isinstance(v, list) else v for key, v in values.items()}


def _with_defaults(chosen: dict[str, Any], present: list[str]) -> dict[str, Any]:
    """The chosen columns; contract 3's names for the rest, as far as the table has them."""
    loss = chosen.get("loss", None if "metric" in chosen else "loss_nats_per_item")
    optional = {"n": "params_body"}
    if "n" in chosen or "params_body" in present:
        optional["flops"] = "flops_train"
    if loss is not None and "_nats" in loss:
        optional |= {"baseline": loss.replace("_nats", "_baseline_nats")}
        optional |= {"floor_column": loss.replace("_nats", "_floor_nats")}
    found = {key: name for key, name in optional.items() if name in present}
    return {"loss": loss, "d": None if "flops" in chosen else "sessions_unique"} | found | chosen
