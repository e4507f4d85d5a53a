"""What to train with a budget, and what it costs to be wrong: `plan(fitted, [1e18, 1e19]) -> Plan`.

Letters: S bootstrap draws, B budgets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.compute.frontier import Band, Exponent, Waste, frontier, waste
from scaling.compute.optima import optima
from scaling.fitting.fitted import FittedLaw

FAR = 10.0
"""Beyond this many times the largest C of the fitted data a plan is marked as a guess."""
SIDES = {"A": "n", "alpha": "n", "B": "d", "beta": "d"}
"""The term that an open parameter leaves free to vanish."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None is what the data do not give."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "none"
        if self.low is None and self.high is None:
            return f"{self.value:.4g}"
        if self.low is None:
            return f"below {self.high:.4g}"
        if self.high is None:
            return f"above {self.low:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class WrongN:
    """What another N than the best costs under the fitted law."""

    choice: str
    cost: Waste


@dataclass(frozen=True)
class Regret:
    """Loss that the chosen N* gives away if a bootstrap draw is the truth: loss(N*) - loss(the draw's own N*)."""

    mean: float
    percentile95: float
    draws: int
    """Behind both numbers: those in which a best N exists."""


@dataclass(frozen=True)
class BudgetPlan:
    flops: float
    n: Estimate
    d: Estimate
    loss: Estimate
    extrapolation_factor: float
    """C over the largest C of the fitted data."""
    wrong_n: tuple[WrongN, ...]
    regret: Regret | None
    """None without draws."""


@dataclass(frozen=True)
class Plan:
    law: str
    formula: str
    flops_per_nd: float
    n_exponent: Exponent
    d_exponent: Exponent
    budgets: tuple[BudgetPlan, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan(
    fitted: FittedLaw,
    budgets_B: list[float] | np.ndarray,
    *,
    open_params: tuple[str, ...] = (),
    unique: float | None = None,
) -> Plan:
    """The best N and D of each budget, the loss, and what a wrong N costs.

    Args:
      fitted: a law of N and D.
      budgets_B: [B] training FLOPs, C = flops_per_nd * N * D.
      open_params: parameters whose interval the fit found open (`open_intervals` of fit.json). N* is then a bound.
      unique: amount of unique data, for a law with the axis "u" and for no other.

    Raises:
      InputError: a law without N, a budget that is no finite number above 0, or a missing or needless `unique`.

    Source: Hoffmann et al. 2022 (2203.15556), eq. 4, through `frontier`.
    """
    path = frontier(fitted, np.asarray(budgets_B, float), unique)
    n, d = _bounded(path.n, path.d, open_params)
    rows = []
    for i, flops in enumerate(path.budgets_B):
        here = [_estimate(band, i) for band in (n, d, path.loss)]
        rows.append(
            BudgetPlan(
                float(flops),
                *here,
                extrapolation_factor=float(path.extrapolation_B[i]),
                wrong_n=_wrong_n(fitted, float(flops), here[0], unique),
                regret=_regret(fitted, float(flops), here[0].value, unique),
            )
        )
    return Plan(
        law=fitted.law.name,
        formula=fitted.law.formula,
        flops_per_nd=fitted.flops_per_nd,
        n_exponent=path.n_exponent,
        d_exponent=path.d_exponent,
        budgets=tuple(rows),
        warnings=tuple(_warnings(fitted, rows, path.open_reason, open_params)),
    )


def _bounded(n: Band, d: Band, open_params: tuple[str, ...]) -> tuple[Band, Band]:
    """Without the ends that an open parameter takes away: where the N term may vanish, N* may be ever so small."""
    free = {SIDES[name] for name in open_params if name in SIDES}
    if "n" in free:
        n, d = _without(n, "low_B"), _without(d, "high_B")
    if "d" in free:
        n, d = _without(n, "high_B"), _without(d, "low_B")
    return n, d


def _without(band: Band, end: str) -> Band:
    return dataclasses.replace(band, **{end: np.full_like(band.value_B, np.nan)})


def _estimate(band: Band, i: int) -> Estimate:
    return Estimate(*(None if np.isnan(x[i]) else float(x[i]) for x in (band.value_B, band.low_B, band.high_B)))


def _wrong_n(fitted: FittedLaw, flops: float, n: Estimate, unique: float | None) -> tuple[WrongN, ...]:
    if n.value is None:
        return ()
    factors = {
        "low end of N*": None if n.low is None else n.low / n.value,
        "high end of N*": None if n.high is None else n.high / n.value,
        "half N*": 0.5,
        "twice N*": 2.0,
    }
    return tuple(WrongN(name, waste(fitted, flops, x, unique)) for name, x in factors.items() if x is not None)


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


def _warnings(
    fitted: FittedLaw, rows: list[BudgetPlan], open_reason: str | None, open_params: tuple[str, ...]
) -> list[str]:
    warnings = [
        f"C = {row.flops:.3g} is {row.extrapolation_factor:.3g} times the largest C that was fitted: the intervals "
        f"hold only if the law does that far out. Runs at {row.flops / FAR:.2g} FLOPs or more would tell."
        for row in rows
        if row.extrapolation_factor > FAR
    ]
    bearing = [name for name in open_params if name in SIDES]
    if bearing:
        warnings.append(
            f"The interval of {' and '.join(bearing)} is open: N* and D* are bounds, not values. Runs that bend in "
            f"{' and '.join(sorted({SIDES[name].upper() for name in bearing}))} would close it."
        )
    if open_reason is not None:
        warnings.append(f"{open_reason[0].upper()}{open_reason[1:]}.")
    return warnings
