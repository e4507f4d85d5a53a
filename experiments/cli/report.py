"""Write one self-contained HTML page about a sweep: the answer, figures, how far to trust it, all runs and exclusions.

    sessionrec report SWEEP
    sessionrec report --from fit.json

Without flags the columns are those of a sweep's rows, if the table has them: loss_nats_per_item (with its baseline and
floor), sessions_unique, params_body, flops_train; else usual names, such as params, tokens and loss. SWEEP/report.json
may name others, with the names of the flags as keys (n, d, loss, ...). SWEEP/theory.json may have the known truth
(exponent, floor, curve, note). The flags are those of `sessionrec fit`, with the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from doors.address import address_of, shown
from doors.files import check_outputs
from doors.storage import copies
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.fit_flags import FitFlags
from experiments.cli.parsing import OutputFile, parse_flags
from scaling.errors import InputError, Refusal


@dataclass(frozen=True, kw_only=True)
class Args(FitFlags):
    sweep: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")] = None
    """A sweep folder with runs/*/row.json, or a file .csv, .parquet or .jsonl. The default is the table of --from."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FIT.JSON")] = None
    """Report the fit that `sessionrec fit ... --json` wrote, with its table, columns and options."""
    out: OutputFile = None
    """The page to write, *.html. The default is next to the sweep (here, if it is in a bucket), with its name. The
    figures go to a folder next to it."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec report", description=__doc__)
    # numpy, Polars and Altair, which --help need not wait for
    from experiments.cli.fit_options import answer, asked_in
    from experiments.cli.report_columns import REPORT_COLUMNS
    from experiments.cli.show_fit import show_fit
    from scaling import report
    from scaling.laws.theory import read_theory

    console = Terminal()
    if args.out is not None and args.out.suffix in (".html", ".htm"):  # else `report.write` refuses it
        check_outputs(args.out, inputs=[path for path in (args.sweep, args.from_) if path is not None])
    if args.from_ is not None:
        if _flags(args) != FitFlags():
            raise InputError(f"--from takes the options of {args.from_}; leave the other flags of the fit out")
        sweep, flags, data_hash = asked_in(args.from_, args.sweep)
        runs, fits = answer(sweep, flags, all_columns_named=True)
        if runs.data_hash() != data_hash:
            says = f"{shown(sweep)} has changed since {args.from_} was written: this is a new fit"
            console.print("[yellow]warning:[/]", markup(says), highlight=False)
    elif args.sweep is None:
        raise InputError("no table is named; give a sweep folder, a file, or --from fit.json")
    else:
        sweep = args.sweep
        runs, fits = answer(sweep, args)
    theory_file = copies.opened(sweep, copies.for_readers) / "theory.json"
    theory = read_theory(theory_file) if theory_file.exists() else None
    name = Path.cwd() / sweep.name if address_of(sweep) else sweep.resolve()
    out = name.with_name(f"{name.stem}.html") if args.out is None else args.out
    folder = report.write(out, runs, fits, theory, title=name.stem, columns=REPORT_COLUMNS)
    for law, fit in fits:
        if isinstance(fit, Refusal):
            console.print(f"{law}: refused. {fit}", highlight=False, markup=False)
        else:
            show_fit(fit, console)
    console.print(f"{out}   figures: {folder}", highlight=False, soft_wrap=True)
    return 0


def _flags(args: Args) -> FitFlags:
    return FitFlags(**{name: getattr(args, name) for name in FitFlags.__dataclass_fields__})
