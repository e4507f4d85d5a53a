"""The learning rate and the batch of a plan: the laws of a rates.json at the best N and D of each budget."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import scaling
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from scaling.compute.budget import BudgetAdvice
from scaling.compute.frontier import Estimate95
from scaling.rates.law import FAR


@dataclass(frozen=True)
class BudgetRates:
    """The best settings at N* and D* of one budget. Their intervals are those of the laws at that N* and D*."""

    flops: float
    rate: Estimate95
    batch: Estimate95 | None
    """None without a law of the batch."""


@dataclass(frozen=True)
class PlannedRates:
    budgets: tuple[BudgetRates, ...]
    columns: dict[str, str | None]
    """The columns that the laws were fitted to, which give the units."""
    warnings: tuple[str, ...]


def rates_at(path: Path, fit: Path, found: BudgetAdvice) -> PlannedRates:
    """Returns the best settings at each budget that has an N* and a D*.

    Args:
      path: the rates.json.
      fit: the fit.json of the advice.
      found: the advice.

    Raises InputError where `path` is no rates.json or is damaged.
    """
    laws = scaling.load_rates(path)
    rows, warnings = [], _other_units(path, laws.columns, fit)
    for row in found.budgets:
        n, d = row.n.value, row.d.value
        if n is None or d is None:
            warnings.append(f"C = {row.flops:.3g} has no N* and D*, so it has no best rate.")
            continue
        axis, outside = laws.rate.outside(n, d)
        if outside > 1:
            cure = f" Tune nearer {axis} before you trust it." if outside > FAR else ""
            warnings.append(
                f"At C = {row.flops:.3g}, {axis}* is {outside:.3g} times outside the {axis} that the rates were tuned "
                f"at.{cure}"
            )
        best = {setting: _estimate(*values) for setting, values in laws.predict(n, d).items()}
        rows.append(BudgetRates(row.flops, best["rate"], best.get("batch")))
    return PlannedRates(tuple(rows), laws.columns, tuple(warnings))


def _estimate(value: float, low: float, high: float) -> Estimate95:
    ends = (float(end) if end == end else None for end in (low, high))
    return Estimate95(float(value), *ends)


def _other_units(path: Path, columns: dict[str, str | None], fit: Path) -> list[str]:
    """Returns a warning where the laws and the fit read N or D from columns of other names."""
    own = json.loads(fit.read_text()).get("columns")
    if not isinstance(own, dict):
        return []
    return [
        f"{path} has {axis.upper()} in the column {columns[axis]!r} and {fit} in {own[axis]!r}: the rates are right "
        "only if both count the same."
        for axis in ("n", "d")
        if columns[axis] and own.get(axis) and columns[axis] != own[axis]
    ]


def show_rates(found: PlannedRates, console: Terminal) -> None:
    """Prints the settings of each budget."""
    batch = [f"best {found.columns['batch']}"] if any(row.batch for row in found.budgets) else []
    heads = (markup(head) for head in (f"best {found.columns['rate']}", *batch))
    table = narrow_table("C (FLOPs)", *heads)
    for row in found.budgets:
        cells = [row.rate, *([row.batch] if batch else [])]
        table.add_row(f"{row.flops:.4g}", *(markup(str(cell)) for cell in cells))
    table.caption = r"at N* and D*; \[95 %] is that of the laws, with N* and D* taken as exact"
    console.print(table)
    for warning in found.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)
