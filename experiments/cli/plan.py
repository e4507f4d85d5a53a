"""The best N and D for a budget, the loss with its interval, the cost of being wrong, and the learning rate.

sessionrec plan --from fit.json --budget 1e18
sessionrec plan --from fit.json --budget 1e18 1e19 --json plan.json
sessionrec plan --from fit.json --budget 1e18 --rates rates.json        # and the learning rate and batch for it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import scaling
from doors.files import STDOUT, check_outputs
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from experiments.cli.parsing import JsonFile, parse_flags
from experiments.cli.plan_rates import rates_at, show_rates
from scaling.compute.budget import BudgetAdvice, advise
from scaling.errors import InputError
from scaling.fitting.export import plain, write_json


@dataclass(frozen=True)
class Args:
    from_: Annotated[Path, tyro.conf.arg(name="from", metavar="FIT.JSON")]
    """The file that `sessionrec fit ... --json` wrote, with a law of N and D."""
    budget: tuple[float, ...]
    """One or several budgets in training FLOPs, such as 1e18."""
    unique: float | None = None
    """The amount of unique data, for a law of repeated data."""
    rates: Annotated[Path | None, tyro.conf.arg(metavar="RATES.JSON")] = None
    """The file that `sessionrec rates ... --json` wrote: adds the best learning rate and batch at N* and D*."""
    json: JsonFile = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec plan", description=__doc__)
    check_outputs(args.json, inputs=[args.from_, *([args.rates] if args.rates else [])])
    fitted = scaling.load(args.from_)
    found = advise(fitted, args.budget, open_params=_stored(args.from_, "open_intervals"), unique=args.unique)
    rates = None if args.rates is None else rates_at(args.rates, args.from_, found)
    if args.json is not None:
        write_json(plain(found) | ({} if rates is None else {"rates": plain(rates)}), args.json)
    if args.json == STDOUT:
        return 0
    console = Terminal()
    for sentence in _stored(args.from_, "verdict_sentences"):
        console.print(markup(sentence), highlight=False, style="bold")
    show(found, console)
    if rates is not None:
        show_rates(rates, console)
    return 0


def _stored(path: Path, key: str) -> tuple[str, ...]:
    """Returns the texts under a key of fit.json, none where a hand-written file has no such key."""
    texts = json.loads(path.read_text()).get(key, [])
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise InputError(f"{key} of {path} is {texts!r}; expected a list of texts. Fit again with --json")
    return tuple(texts)


def show(found: BudgetAdvice, console: Terminal) -> None:
    """Prints the advice for a reader at a terminal."""
    console.print(f"[bold]{found.formula}[/]   {found.law}; C = {found.flops_per_nd:g} N D", highlight=False)
    table = narrow_table("C (FLOPs)", "over fitted", "", r"best  \[95 %]")
    for row in found.budgets:
        first = (f"{row.flops:.4g}", f"{row.extrapolation_factor:.3g}x")
        for name, value in (("N*", row.n), ("D*", row.d), ("loss", row.loss)):
            table.add_row(*first, name, markup(str(value)))
            first = ("", "")
    table.caption = "over fitted: C over the largest C of the fitted runs"
    console.print(table)
    table = narrow_table("C (FLOPs)", "if N is", "N", "loss", "above the best", "compute wasted")
    for row in found.budgets:
        for wrong in row.wrong_n:
            cost = wrong.cost
            wasted = "-" if cost.compute_ratio is None else f"{100 * (1 - cost.compute_ratio):.2g} %"
            above = f"{cost.loss - cost.best_loss:+.2g}"
            table.add_row(f"{row.flops:.4g}", wrong.choice, f"{cost.n:.4g}", f"{cost.loss:.6g}", above, wasted)
    if table.row_count:
        console.print(table)
    for row in found.budgets:
        if row.regret is not None:
            console.print(
                f"C {row.flops:.4g}: expected regret of this N* {row.regret.mean:.2g} of loss, below "
                f"{row.regret.percentile95:.2g} in 95 % of {row.regret.draws} draws",
                highlight=False,
            )
    for row in found.budgets:
        if row.spread is not None:
            console.print(markup(row.spread), highlight=False)
    for warning in found.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)
