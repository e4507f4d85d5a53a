"""Which runs of a pool to pay for: `sessionrec design --candidates POOL --budget FLOPS`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import scaling
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.columns import table_of
from experiments.cli.output import narrow_table
from scaling.design.assumption import SIGMA_TYPICAL, Assumption, fit_sigma
from scaling.design.next_runs import design_points, read_planned
from scaling.design.pool import Criterion, Kind, PoolChoice, choose
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.table.files import load
from scaling.table.run_table import Columns, RunTable

SHOWN = 30
SAYS: dict[Kind, str] = {
    "d": "all parameters (D-optimal)",
    "v": "the law at the targets (V-optimal)",
    "quantity": "the quantity",
}


@dataclass(frozen=True)
class ChosenRun:
    """A candidate that was chosen, with its row in the pool's file, from 0."""

    row: int
    n: float
    d: float
    flops: float


@dataclass(frozen=True)
class PoolAdvice:
    law: str
    assumption: str
    sigma: float
    choice: PoolChoice
    runs: tuple[ChosenRun, ...]


def advise_pool(
    pool: Path,
    budget: float | None,
    columns: Columns,
    *,
    assumed: tuple[FittedLaw, str] | None,
    finished: Path | None,
    law: str,
    sigma: float | None,
    floor: float | None,
    criterion: Kind,
    quantity: str | None,
    targets: Path | None,
) -> PoolAdvice:
    """Chooses runs of a pool.

    Args:
      pool: the table of candidates, `columns` its N and D.
      budget: the FLOPs of all chosen runs together.
      assumed: the law to take for true and its origin; None: the fit of `law` to the finished runs.
      finished: a table of runs that exist already, if any.
      floor: the known irreducible loss of that fit. Default: the floor column of the finished runs, if they have one.
      criterion, quantity, targets: what the runs are to show; `targets` is a table with the pool's N and D.

    Raises:
      InputError: no budget, a column or a file is missing, or no candidate is within the budget.
      Refusal: the finished runs cannot carry the law.
    """
    if budget is None:
        raise InputError("--candidates needs --budget, the training FLOPs of all chosen runs together")
    if targets is not None and criterion != "v":
        raise InputError(f"--targets are what --criterion v predicts; with --criterion {criterion} leave them out")
    if quantity is not None and criterion != "quantity":
        raise InputError(f"--quantity is what --criterion quantity learns; with --criterion {criterion} leave it out")
    candidates = read_planned(pool, columns)
    made = None
    if finished is not None:
        frame, unfinished = load(finished)
        made = table_of(finished, frame, columns, unfinished)
    if assumed is None:
        assert made is not None
        assumption = _fitted(made, law, floor)
    else:
        assumption = Assumption(assumed[0], SIGMA_TYPICAL, assumed[1])
    if sigma is not None:
        assumption = Assumption(assumption.law, sigma, assumption.source)
    form = assumption.law.law
    aims = None if targets is None else design_points(read_planned(targets, columns), form)
    chosen = choose(
        assumption,
        design_points(candidates, form),
        budget,
        Criterion(criterion, quantity, aims),
        made=None if made is None else design_points(made, form),
    )
    flops_R = assumption.law.flops_per_nd * candidates.need("n") * candidates.need("d")
    runs = (
        ChosenRun(
            int(candidates.row_id[m]), *(float(x[m]) for x in (candidates.need("n"), candidates.need("d"), flops_R))
        )
        for m in chosen.rows
    )
    return PoolAdvice(form.name, assumption.source, assumption.sigma, chosen, tuple(runs))


def _fitted(made: RunTable, law: str, floor: float | None) -> Assumption:
    fitted = scaling.fit(made, law, floor=floor, bootstrap=0, full=False)
    sigma = fit_sigma(fitted.residual(), len(fitted.theta_P))
    return Assumption(fitted, sigma, f"the fit of {len(made)} runs")


def show_pool(found: PoolAdvice, console: Terminal) -> None:
    """Prints the chosen runs, the cheapest last where they are many."""
    choice = found.choice
    share = choice.flops / choice.flops_pool
    console.print(
        f"{found.law}; assumed: {markup(found.assumption)}; noise {found.sigma:.3g} of log loss", highlight=False
    )
    console.print(
        f"[bold]{len(found.runs)} runs show most about {SAYS[choice.criterion]}[/], for {choice.flops:.3g} FLOPs, "
        f"{share:.2%} of the pool's {choice.flops_pool:.3g}:",
        highlight=False,
    )
    table = narrow_table("row", "N", "D", "FLOPs", "share of the cost")
    in_order = sorted(found.runs, key=lambda run: -run.flops)
    for run in in_order[:SHOWN]:
        table.add_row(
            str(run.row), f"{run.n:.4g}", f"{run.d:.4g}", f"{run.flops:.3g}", f"{run.flops / choice.flops:.1%}"
        )
    if len(in_order) > SHOWN:
        rest = float(np.sum([run.flops for run in in_order[SHOWN:]]))
        table.caption = f"and {len(in_order) - SHOWN} cheaper ones for {rest:.3g} FLOPs (all: --json)"
    console.print(table)
    expected = ", ".join(f"{each.name} {each}" for each in choice.expected)
    console.print(f"expected of the fit to them (95 %): {expected}", highlight=False)
