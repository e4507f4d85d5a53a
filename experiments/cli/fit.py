"""Fit a power law to a table of runs: parameters with intervals, competing minima and forms, held-out errors.

    sessionrec fit runs.csv --n params --d tokens --loss loss --law chinchilla --drop-worst 5 --json fit.json
    sessionrec fit SWEEP
    sessionrec fit SWEEP --by paradigm --law power_floor      # the laws of several arms, compared

Columns and the law may be left out, as for `sessionrec report`: a sweep's report.json names them, or they have the
names of a sweep's rows, or usual ones (params, tokens, loss). It says which it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from doors.files import STDOUT, check_outputs
from doors.terminal import Terminal
from experiments.cli.fit_flags import FitFlags
from experiments.cli.parsing import JsonFile, parse_flags
from scaling.errors import InputError, Refusal


@dataclass(frozen=True, kw_only=True)
class Args(FitFlags):
    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A file .csv, .parquet or .jsonl, or a sweep folder with runs/*/row.json."""
    by: str | None = None
    """Column that makes arms: one law for each of its values. Says if their exponents differ, how many times the FLOPs
    an arm needs for the first one's loss, where they cross, and which is better at ten times the compute."""
    share: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """With --by: exponents, or the floor E, that all arms have in common."""
    json: JsonFile = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec fit", description=__doc__)
    check_outputs(args.json, inputs=[args.table])
    if args.by is None and args.share:
        raise InputError(f"--share {' '.join(args.share)} is for the arms of --by COLUMN; name the column")
    return _one(args) if args.by is None else _arms(args, args.by)


def _one(args: Args) -> int:
    # numpy and Polars, which --help need not wait for
    from experiments.cli.fit_options import answer
    from experiments.cli.show_fit import show_fit

    _, ((_, fit), *_) = answer(args.table, args)
    if isinstance(fit, Refusal):
        raise fit
    if args.json is not None:
        fit.to_json(args.json)
    if args.json != STDOUT:
        show_fit(fit, Terminal())
    return 0


def _arms(args: Args, by: str) -> int:
    from experiments.cli.fit_arms import fit_arms
    from experiments.cli.show_arms import show_arms

    found = fit_arms(args.table, args, by, args.share, args.json)
    if args.json != STDOUT:
        show_arms(*found, Terminal())
    return 0
