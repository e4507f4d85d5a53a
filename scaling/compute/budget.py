"""Advice for a budget: what it buys and what a mistake costs. `sessionrec plan` prints it.

    advise(fitted, [1e18, 1e19])

Letters: S bootstrap draws, B budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.compute.frontier import Estimate95, Waste, frontier, waste, with_open
from scaling.compute.optima import optima
from scaling.fitting.fitted import FittedLaw

FAR = 10.0
"""Beyond this many times the largest C of the fitted data an advice is marked as a guess."""


@dataclass(frozen=True)
class WrongN:
    """The cost of an N other than the best one, under the fitted law."""

    choice: str
    cost: Waste


@dataclass(frozen=True)
class Regret:
    """The loss that N* gives away if a bootstrap draw is the truth: loss(N*) - loss(the draw's own best N)."""

    mean: float
    percentile95: float
    draws: int
    """The number of draws in which a best N exists. Both numbers rest on these."""


@dataclass(frozen=True)
class FormsOptimum:
    """The best use of a budget under one form of the law. None marks a form without an optimum."""

    law: str
    n: float | None
    d: float | None
    loss: float | None


@dataclass(frozen=True)
class BudgetRow:
    """The best use of one budget."""

    flops: float
    n: Estimate95
    d: Estimate95
    loss: Estimate95
    extrapolation_factor: float
    """C over the largest C of the fitted data."""
    wrong_n: tuple[WrongN, ...]
    regret: Regret | None
    """None without draws."""
    forms: tuple[FormsOptimum, ...]
    """The best use under the law and under each other form that the runs cannot tell from it, the law first. Empty
    where no other form is left."""

    @property
    def spread(self) -> str | None:
        """The distance between the forms in a sentence; None where fewer than two of them have an optimum."""
        found = [one for one in self.forms if one.n is not None]
        if len(found) < 2:
            return None
        ends = (
            _apart(name, [getattr(one, name.lower().rstrip("*")) for one in found]) for name in ("N*", "D*", "loss")
        )
        names = [one.law for one in found]
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        return f"The runs cannot tell {listed} apart, and these differ at C {self.flops:.4g}: {'; '.join(ends)}."


@dataclass(frozen=True)
class BudgetAdvice:
    law: str
    formula: str
    flops_per_nd: float
    n_exponent: Estimate95
    d_exponent: Estimate95
    budgets: tuple[BudgetRow, ...]
    warnings: tuple[str, ...]


def advise(
    fitted: FittedLaw,
    budgets_B: Sequence[float] | np.ndarray,
    *,
    open_params: tuple[str, ...] = (),
    unique: float | None = None,
) -> BudgetAdvice:
    """Computes the best N and D of each budget, the loss, and the cost of a wrong N.

    Args:
      fitted: a law of N and D.
      budgets_B: [B] training FLOPs, C = flops_per_nd * N * D.
      open_params: the parameters whose interval the fit found open (`open_intervals` of fit.json). N* is then a bound.
      unique: the amount of unique data, for a law with the axis "u" and for no other law.

    Raises:
      InputError: a law without N, a budget that is not a finite number above 0, or a missing or needless `unique`.

    Source: Hoffmann et al. 2022 (2203.15556), eq. 4, through `frontier`.
    """
    path = with_open(frontier(fitted, np.asarray(budgets_B, float), unique), open_params)
    n, d = path.n, path.d
    rows = [
        BudgetRow(
            flops=float(flops),
            n=n.at(i),
            d=d.at(i),
            loss=path.loss.at(i),
            extrapolation_factor=float(path.extrapolation_B[i]),
            wrong_n=_wrong_n(fitted, float(flops), n.at(i), unique),
            regret=_regret(fitted, float(flops), n.at(i).value, unique),
            forms=_forms(fitted, float(flops), unique),
        )
        for i, flops in enumerate(path.budgets_B)
    ]
    return BudgetAdvice(
        law=fitted.law.name,
        formula=fitted.law.formula,
        flops_per_nd=fitted.flops_per_nd,
        n_exponent=path.n_exponent,
        d_exponent=path.d_exponent,
        budgets=tuple(rows),
        warnings=tuple(_warnings(rows, path.open_reason)),
    )


def _wrong_n(fitted: FittedLaw, flops: float, n: Estimate95, unique: float | None) -> tuple[WrongN, ...]:
    if n.value is None:
        return ()
    factors = {
        "low end of N*": None if n.low is None else n.low / n.value,
        "high end of N*": None if n.high is None else n.high / n.value,
        "half N*": 0.5,
        "twice N*": 2.0,
    }
    return tuple(WrongN(name, waste(fitted, flops, x, unique)) for name, x in factors.items() if x is not None)


def _forms(fitted: FittedLaw, flops: float, unique: float | None) -> tuple[FormsOptimum, ...]:
    rivals = [dataclasses.replace(rival, ranges=fitted.ranges) for rival in fitted.rivals]
    return tuple(_optimum(one, flops, unique) for one in (fitted, *rivals)) if rivals else ()


def _optimum(fitted: FittedLaw, flops: float, unique: float | None) -> FormsOptimum:
    best = optima(fitted, np.array([flops]), unique=unique)
    log_n = float(best.log_n_SB[0, 0])
    if not np.isfinite(log_n):
        return FormsOptimum(fitted.law.name, None, None, None)
    n = float(np.exp(log_n))
    return FormsOptimum(fitted.law.name, n, flops / fitted.flops_per_nd / n, float(best.loss_SB[0, 0]))


def _apart(name: str, values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{name} {low:.4g} to {high:.4g} ({high / low - 1:.1%})"


def _regret(fitted: FittedLaw, flops: float, n: float | None, unique: float | None) -> Regret | None:
    if n is None or not len(fitted.cloud_SP):
        return None
    points = {"n": np.array([n]), "d": np.array([flops / fitted.flops_per_nd / n])}
    if unique is not None:
        points["u"] = np.array([unique])
    best_S = optima(fitted, np.array([flops]), fitted.cloud_SP, unique).loss_SB[:, 0]
    given_S = fitted.loss_at(points, fitted.cloud_SP)[:, 0]
    lost_S = np.maximum(given_S - best_S, 0.0)[np.isfinite(best_S)]  # below 0 is rounding: best_S is a minimum
    if not len(lost_S):
        return None
    return Regret(float(lost_S.mean()), float(np.percentile(lost_S, 95)), len(lost_S))


def _warnings(rows: list[BudgetRow], open_reason: str | None) -> list[str]:
    warnings = [
        f"C = {row.flops:.3g} is {row.extrapolation_factor:.3g} times the largest C that was fitted: the intervals "
        f"hold only if the law holds that far out. Runs at {row.flops / FAR:.2g} FLOPs or more would show it."
        for row in rows
        if row.extrapolation_factor > FAR
    ]
    if open_reason is not None:
        warnings.append(f"{open_reason[0].upper()}{open_reason[1:]}.")
    return warnings
