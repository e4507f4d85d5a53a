"""The compute-optimal frontier of a fitted law: the best N and D at a budget of C = flops_per_nd * N * D, with bands.

    path = frontier(fit, [1e19, 1e20, 1e21])
    path.n.value_B, path.n.low_B, path.n.high_B, path.n_exponent
    waste(fit, 1e21, factor=0.5)

Letters: S parameter sets, B budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.compute.optima import check, optima, points_at
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import OPEN_SHARE

CHEAPEST_RATIO = 1e-24
"""`waste` looks at no smaller part of the budget."""
SIDES = {"A": "n", "alpha": "n", "B": "d", "beta": "d"}
"""{parameter: the axis whose term may vanish if the parameter is open}."""


@dataclass(frozen=True)
class Estimate95:
    """A number with its 95 % interval. None marks what the data do not give."""

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


NO_ESTIMATE = Estimate95(None, None, None)


@dataclass(frozen=True)
class Band:
    """A quantity at B budgets with its 95 % band. NaN marks a missing optimum, or an end that the data do not give."""

    value_B: np.ndarray
    low_B: np.ndarray
    high_B: np.ndarray

    def at(self, i: int) -> Estimate95:
        """Returns the estimate at budget `i`."""
        return Estimate95(_number(self.value_B[i]), _number(self.low_B[i]), _number(self.high_B[i]))


@dataclass(frozen=True)
class Frontier:
    """The best N and D over B budgets."""

    budgets_B: np.ndarray
    """C in FLOPs."""
    n: Band
    d: Band
    loss: Band
    n_exponent: Estimate95
    """a of N* ~ C^a: beta / (alpha + beta) in closed form, else the mean slope over the budgets."""
    d_exponent: Estimate95
    """b of D* ~ C^b; a + b = 1."""
    flops_per_nd: float
    extrapolation_B: np.ndarray
    """C over the largest C of the fitted data. Above 1 the law is used beyond its data."""
    open_reason: str | None
    """Why a value or an end of a band is missing, and what would give it."""


@dataclass(frozen=True)
class Waste:
    """The cost of a wrong N at a budget. `reason` says why a number is missing."""

    budget: float
    factor: float
    """N over the best N."""
    n: float | None = None
    d: float | None = None
    loss: float | None = None
    best_loss: float | None = None
    compute_ratio: float | None = None
    """The compute with which the best N reaches the same loss, over the budget: 0.9 means that a tenth is wasted."""
    reason: str | None = None


def frontier(fitted: FittedLaw, budgets_B: np.ndarray, unique: float | None = None) -> Frontier:
    """Computes N*, D* and the loss at each budget, with 95 % bands from the bootstrap cloud.

    Args:
      fitted: a law of N and D.
      budgets_B: [B] training FLOPs.
      unique: the amount of unique data, for a law with the axis "u" and for no other law.

    Raises InputError for a law without N or D, for a budget that is not a finite number above 0, and for a missing or
    needless `unique`.
    Source: Hoffmann et al. 2022 (2203.15556), eq. 4; a numeric search for laws without a closed form.
    """
    budgets_B = check(fitted, budgets_B, unique)
    point = optima(fitted, budgets_B, fitted.theta_P[None], unique)
    cloud = optima(fitted, budgets_B, fitted.cloud_SP, unique)
    log_nd_B = np.log(budgets_B / fitted.flops_per_nd)
    log_n = _band(point.log_n_SB[0], cloud.log_n_SB)
    a, a_S = (_exponents(fitted, budgets_B, theta, unique) for theta in (fitted.theta_P[None], fitted.cloud_SP))
    n_exponent = _band(a, a_S[:, None]).at(0)
    return Frontier(
        budgets_B=budgets_B,
        n=Band(np.exp(log_n.value_B), np.exp(log_n.low_B), np.exp(log_n.high_B)),
        d=Band(np.exp(log_nd_B - log_n.value_B), np.exp(log_nd_B - log_n.high_B), np.exp(log_nd_B - log_n.low_B)),
        loss=_band(point.loss_SB[0], cloud.loss_SB),
        n_exponent=n_exponent,
        d_exponent=Estimate95(_rest(n_exponent.value), _rest(n_exponent.high), _rest(n_exponent.low)),
        flops_per_nd=fitted.flops_per_nd,
        extrapolation_B=budgets_B / fitted.ranges["c"][1],
        open_reason=_open_reason(point.log_n_SB, cloud.log_n_SB),
    )


def with_open(path: Frontier, open_params: Sequence[str]) -> Frontier:
    """Removes what open parameters take away, and gives the reason.

    If the N term may vanish, N* has no lower bound and D* no upper one, and no exponent of the path has a value.
    `open_params`: the parameters whose interval the fit found open.
    """
    bearing = [name for name in open_params if name in SIDES]
    if not bearing:
        return path
    axes, n, d = sorted({SIDES[name] for name in bearing}), path.n, path.d
    missing_B = np.full_like(n.value_B, np.nan)
    if "n" in axes:
        n, d = replace(n, low_B=missing_B), replace(d, high_B=missing_B)
    if "d" in axes:
        n, d = replace(n, high_B=missing_B), replace(d, low_B=missing_B)
    reason = (
        f"the interval of {' and '.join(bearing)} is open: N* and D* are bounds, not values. Runs that vary "
        f"{' and '.join(axis.upper() for axis in axes)} more would close it"
    )
    if path.open_reason is not None:
        reason += f". {path.open_reason[0].upper()}{path.open_reason[1:]}"
    return replace(path, n=n, d=d, n_exponent=NO_ESTIMATE, d_exponent=NO_ESTIMATE, open_reason=reason)


def waste(fitted: FittedLaw, budget: float, factor: float, unique: float | None = None) -> Waste:
    """Computes the loss at N = `factor` times the best N, and the compute with which the best N reaches that loss.

    The budget fixes D. Raises InputError as `frontier` does, and for a factor that is not a finite number above 0.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"the factor on N is {factor!r}; wanted a finite number above 0: 0.5 is half the best N")
    best = optima(fitted, np.array([budget]), unique=unique)
    if not np.isfinite(best.log_n_SB[0, 0]):
        return Waste(budget, factor, reason=_open_reason(best.log_n_SB, best.log_n_SB[:0]))
    n = factor * float(np.exp(best.log_n_SB[0, 0]))
    loss = float(fitted.loss_at(points_at(np.log([n]), np.log(budget / fitted.flops_per_nd), unique))[0, 0])
    ratio = _ratio_for_loss(fitted, budget, loss, unique)
    return Waste(
        budget=budget,
        factor=factor,
        n=n,
        d=budget / fitted.flops_per_nd / n,
        loss=loss,
        best_loss=float(best.loss_SB[0, 0]),
        compute_ratio=ratio,
        reason=f"no budget between {CHEAPEST_RATIO:g} and 1 of this one has its best loss at {loss:.6g}"
        if ratio is None
        else None,
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rest(exponent: float | None) -> float | None:
    """Returns the exponent of D* that belongs to one of N*."""
    return None if exponent is None else 1 - exponent


def _exponents(fitted: FittedLaw, budgets_B: np.ndarray, theta_SP: np.ndarray, unique: float | None) -> np.ndarray:
    """Returns a of N* ~ C^a, [S]; NaN without an optimum."""
    # half a unit of log C beyond the budgets, so that a single budget has a slope too
    ends = np.array([budgets_B.min() * np.exp(-0.5), budgets_B.max() * np.exp(0.5)])
    log_n_SB = optima(fitted, ends, theta_SP, unique).log_n_SB
    log_n_SB = np.where(np.isfinite(log_n_SB), log_n_SB, np.nan)
    return (log_n_SB[:, 1] - log_n_SB[:, 0]) / np.log(ends[1] / ends[0])


def _band(value_B: np.ndarray, draws_SB: np.ndarray) -> Band:
    """Takes percentiles over draws. An infinite draw opens the band on its side; a NaN opens it on both."""
    ends = [value_B, np.full_like(value_B, np.nan), np.full_like(value_B, np.nan)]
    if len(draws_SB):
        for i, (percent, beyond) in enumerate(((2.5, -np.inf), (97.5, np.inf)), start=1):
            sides_SB = np.where(np.isnan(draws_SB), beyond, draws_SB)
            # an order statistic: nothing can be interpolated between a number and infinity
            ends[i] = np.percentile(sides_SB, percent, axis=0, method="closest_observation")
    value_B, low_B, high_B = (np.where(np.isfinite(x), x, np.nan) for x in ends)
    return Band(value_B, low_B, high_B)


def _open_reason(point_1B: np.ndarray, cloud_SB: np.ndarray) -> str | None:
    cures = {
        -np.inf: "the N term vanished, so that a smaller N is always better; add runs of small N and large D",
        np.inf: "the D term vanished, so that a larger N is always better; add runs of large N and small D",
    }
    for end, cure in cures.items():
        if np.any(point_1B == end):
            return f"the fitted law has no optimum: {cure}"
    if not np.all(np.isfinite(point_1B)):
        return "the fitted law has no optimum: neither N nor D matters in it; add runs over a wider range of both"
    if not len(cloud_SB):
        return "the law was fitted without bootstrap draws: fit it again with bootstrap=1000 for bands"
    for end, cure in cures.items():
        share = float(((cloud_SB == end) | np.isnan(cloud_SB)).mean(axis=0).max())
        if share > OPEN_SHARE:
            return f"in {share:.1%} of {len(cloud_SB)} bootstrap draws {cure}"
    return None


def _ratio_for_loss(fitted: FittedLaw, budget: float, loss: float, unique: float | None) -> float | None:
    """Finds C'/C at which the best loss is `loss`, by repeated division of a bracket, or None."""
    low, high = np.log(CHEAPEST_RATIO), 0.0
    while high - low > 1e-10:
        log_ratio = np.linspace(low, high, 33)
        # the best loss falls as the budget grows; a NaN (no optimum) compares as "below"
        above = int((optima(fitted, budget * np.exp(log_ratio), unique=unique).loss_SB[0] >= loss).sum())
        if above == len(log_ratio):
            return float(np.exp(high))
        if above == 0:
            return None
        low, high = log_ratio[above - 1], log_ratio[above]
    return float(np.exp(high))
