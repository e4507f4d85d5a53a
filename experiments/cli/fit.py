"""Fit a power law to a table of runs: parameters with intervals, competing minima and forms, held-out errors.

    sessionrec fit runs.csv --n params --d tokens --loss loss --law chinchilla --drop-worst 5 --json fit.json
    sessionrec fit SWEEP
    sessionrec fit SWEEP --by paradigm --law power_floor      # the laws of several arms, compared
    sessionrec fit gru.csv hstu.csv --names gru hstu --out arms.html   # an arm a table, and a page with the figure

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
from experiments.cli.parsing import JsonFile, OutputFile, parse_flags
from scaling.errors import InputError, Refusal


@dataclass(frozen=True, kw_only=True)
class Args(FitFlags):
    table: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TABLE [TABLE ...]")]
    """A file .csv, .parquet or .jsonl, or a sweep folder with runs/*/row.json. Of several, each is an arm."""
    by: str | None = None
    """Column that makes arms: one law for each of its values. Says if their exponents differ, how many times the FLOPs
    an arm needs for the first one's loss, where they cross, and which is better at ten times the compute."""
    share: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Exponents, or the floor E, that all arms have in common."""
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """The names of several tables as arms. Left out: the names of their files."""
    out: OutputFile = None
    """With arms: write a page with the answer, the figure and the numbers to this .html file."""
    json: JsonFile = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec fit", description=__doc__)
    check_outputs(args.json, args.out, inputs=args.table)
    if not args.table:
        raise InputError("no table is given; name a file or a sweep folder")
    if args.by is not None or len(args.table) > 1:
        return _arms(args)
    _refuse_flags_of_arms(args)
    return _one(args)


def _one(args: Args) -> int:
    # numpy and Polars, which --help need not wait for
    from experiments.cli.fit_options import answer
    from experiments.cli.show_fit import show_fit

    _, ((_, fit), *_) = answer(args.table[0], args)
    if isinstance(fit, Refusal):
        raise fit
    if args.json is not None:
        fit.to_json(args.json)
    if args.json != STDOUT:
        show_fit(fit, Terminal())
    return 0


def _arms(args: Args) -> int:
    from experiments.cli.arms_page import write_page
    from experiments.cli.fit_arms import arms_of, fit_arms, values
    from experiments.cli.show_arms import show_arms
    from scaling.fitting.export import write_json

    if args.out is not None and args.out.suffix not in (".html", ".htm"):
        raise InputError(f"--out is {args.out}; wanted a name that ends in .html")
    arms = arms_of(args.table, args, args.by, args.names)
    found, others = fit_arms(arms, args, args.share)
    if args.json is not None:
        write_json(values(found, others, arms), args.json)
    if args.out is not None:
        write_page(args.out, found, others, arms)
    if args.json != STDOUT:
        show_arms(found, others, arms, Terminal())
    return 0


def _refuse_flags_of_arms(args: Args) -> None:
    given = {"--share": args.share, "--names": args.names, "--out": (str(args.out),) if args.out else ()}
    for flag, words in given.items():
        if words:
            cure = "`sessionrec report` writes the page of one law, or " if flag == "--out" else ""
            raise InputError(
                f"{flag} {' '.join(words)} is for the arms of --by COLUMN; {cure}name the column, or several tables"
            )
