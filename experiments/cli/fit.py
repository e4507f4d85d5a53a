"""Fit a power law to a table of runs: parameters with intervals, competing minima and forms, held-out errors.

    sessionrec fit runs.csv --n params --d tokens --loss loss --law chinchilla --drop-worst 5 --json fit.json
    sessionrec fit SWEEP

Columns and the law may be left out, as for `sessionrec report`: a sweep's report.json names them, or they have the
names of a sweep's rows, or usual ones (params, tokens, loss). It says which it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from doors.files import check_outputs
from doors.terminal import Terminal
from experiments.cli.fit_options import FitFlags, answer
from experiments.cli.parsing import OutputFile, parse_flags
from experiments.cli.show_fit import show_fit
from scaling.errors import Refusal


@dataclass(frozen=True, kw_only=True)
class Args(FitFlags):
    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A file .csv, .parquet or .jsonl, or a sweep folder with runs/*/row.json."""
    json: OutputFile = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec fit", description=__doc__)
    check_outputs(args.json, inputs=[args.table])
    _, ((_, fit), *_) = answer(args.table, args)
    if isinstance(fit, Refusal):
        raise fit
    if args.json is not None:
        fit.to_json(args.json)
    show_fit(fit, Terminal())
    return 0
