"""The compute-optimal frontier of a fitted law: the best N and D at a budget of C = flops_per_nd * N * D, with bands.

    path = frontier(fit, [1e19, 1e20, 1e21])
    path.n.value_B, path.n.low_B, path.n.high_B, path.n_exponent
    waste(fit, 1e21, factor=0.5)

Letters: S parameter sets, B budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.compute.optima import check, optima, points_at
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import OPEN_SHARE

CHEAPEST_RATIO = 1e-24
"""Smallest part of the budget that `waste` looks at."""


@dataclass(frozen=True)
class Band:
    """A quantity at B budgets with its 95 % band. NaN: no optimum, or an end that the data do not give."""

    value_B: np.ndarray
    low_B: np.ndarray
    high_B: np.ndarray


@dataclass(frozen=True)
class Exponent:
    """A power of C with its 95 % interval; None is what the data do not give."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Frontier:
    law: str
    budgets_B: np.ndarray
    """C in FLOPs."""
    n: Band
    d: Band
    loss: Band
    n_exponent: Exponent
    """a of N* ~ C^a: beta / (alpha + beta) in closed form, else the mean slope over the budgets."""
    d_exponent: Exponent
    """b of D* ~ C^b; a + b = 1."""
    flops_per_nd: float
    unique: float | None
    """Unique data, for a law that knows repetition."""
    extrapolation_B: np.ndarray
    """C over the largest C of the fitted data: above 1 the law is used beyond them."""
    draws: int
    draws_without_optimum: int
    """At the budget with most of them."""
    open_reason: str | None
    """Why a value or an end of a band is missing, and what would give it."""

    def summary(self) -> str:
        """Plain text: a line for each budget, the exponents, and what is missing."""
        bands = {"N": self.n, "D": self.d, "loss": self.loss}
        lines = [f"compute-optimal path of {self.law}, C = {self.flops_per_nd:g} N D"]
        for i, (c, factor) in enumerate(zip(self.budgets_B, self.extrapolation_B, strict=True)):
            beyond = f"   {factor:.3g} times the largest C of the data" if factor > 1 else ""
            at = ", ".join(f"{name} {_interval(band, i)}" for name, band in bands.items())
            lines.append(f"  C {c:.3g}: {at}{beyond}")
        for name, power in (("N*", self.n_exponent), ("D*", self.d_exponent)):
            value, low, high = ("open" if x is None else f"{x:.4g}" for x in (power.value, power.low, power.high))
            lines.append(f"  {name} ~ C^{value}  [{low}, {high}]")
        return "\n".join(lines + ([f"  open: {self.open_reason}"] if self.open_reason else []))


@dataclass(frozen=True)
class Waste:
    """What a wrong N costs at a budget."""

    budget: float
    factor: float
    """N over the best N."""
    n: float | None
    d: float | None
    loss: float | None
    best_loss: float | None
    compute_ratio: float | None
    """The compute with which the best N reaches the same loss, over the budget: 0.9 means that a tenth is wasted."""
    reason: str | None
    """Why a number is missing."""


def frontier(fitted: FittedLaw, budgets_B: np.ndarray, unique: float | None = None) -> Frontier:
    """N*, D* and loss at each budget with 95 % bands from the bootstrap cloud.

    Args:
      fitted: a law of N and D.
      budgets_B: [B] training FLOPs.
      unique: amount of unique data, for a law with the axis "u" and for no other.

    Raises InputError for a law without N or D, a budget that is no finite number above 0, and a missing or needless
    `unique`.
    Source: Hoffmann et al. 2022 (2203.15556), eq. 4; a numeric search for laws without a closed form.
    """
    budgets_B = check(fitted, budgets_B, unique)
    point = optima(fitted, budgets_B, fitted.theta_P[None], unique)
    cloud = optima(fitted, budgets_B, fitted.cloud_SP, unique)
    log_nd_B = np.log(budgets_B / fitted.flops_per_nd)
    log_n = _band(point.log_n_SB[0], cloud.log_n_SB)
    a, a_S = (_exponents(fitted, budgets_B, theta, unique) for theta in (fitted.theta_P[None], fitted.cloud_SP))
    a_band = _band(a, a_S[:, None])
    a_value, a_low, a_high = (
        None if np.isnan(x[0]) else float(x[0]) for x in (a_band.value_B, a_band.low_B, a_band.high_B)
    )
    missing_SB = ~np.isfinite(cloud.log_n_SB)
    return Frontier(
        law=fitted.law.name,
        budgets_B=budgets_B,
        n=Band(*(np.exp(x) for x in (log_n.value_B, log_n.low_B, log_n.high_B))),
        d=Band(*(np.exp(log_nd_B - x) for x in (log_n.value_B, log_n.high_B, log_n.low_B))),
        loss=_band(point.loss_SB[0], cloud.loss_SB),
        n_exponent=Exponent(a_value, a_low, a_high),
        d_exponent=Exponent(*(None if x is None else 1 - x for x in (a_value, a_high, a_low))),
        flops_per_nd=fitted.flops_per_nd,
        unique=unique,
        extrapolation_B=budgets_B / fitted.ranges["c"][1],
        draws=len(fitted.cloud_SP),
        draws_without_optimum=int(missing_SB.sum(axis=0).max(initial=0)),
        open_reason=_open_reason(point.log_n_SB, cloud.log_n_SB),
    )


def waste(fitted: FittedLaw, budget: float, factor: float, unique: float | None = None) -> Waste:
    """The loss at N = `factor` times the best N, D fixed by the budget, and the compute that the best N needs for it.

    Raises InputError as `frontier` does, and for a factor that is no finite number above 0.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"the factor on N is {factor!r}; wanted a finite number above 0: 0.5 is half the best N")
    best = optima(fitted, np.array([budget]), unique=unique)
    if not np.isfinite(best.log_n_SB[0, 0]):
        return Waste(budget, factor, *[None] * 5, reason=_open_reason(best.log_n_SB, best.log_n_SB[:0]))
    n = factor * float(np.exp(best.log_n_SB[0, 0]))
    d = budget / fitted.flops_per_nd / n
    loss = float(fitted.loss_at(points_at(np.log([n]), np.log(budget / fitted.flops_per_nd), unique))[0, 0])
    ratio = _ratio_for_loss(fitted, budget, loss, unique)
    reason = None
    if ratio is None:
        reason = f"no budget between {CHEAPEST_RATIO:g} and 1 of this one has its best loss at {loss:.6g}"
    return Waste(budget, factor, n, d, loss, float(best.loss_SB[0, 0]), ratio, reason)


def _exponents(fitted: FittedLaw, budgets_B: np.ndarray, theta_SP: np.ndarray, unique: float | None) -> np.ndarray:
    """a of N* ~ C^a, [S]; NaN without an optimum. Around the budgets' ends, so that a single budget has a slope too."""
    ends = np.array([budgets_B.min() * np.exp(-0.5), budgets_B.max() * np.exp(0.5)])
    log_n_SB = optima(fitted, ends, theta_SP, unique).log_n_SB
    log_n_SB = np.where(np.isfinite(log_n_SB), log_n_SB, np.nan)
    return (log_n_SB[:, 1] - log_n_SB[:, 0]) / np.log(ends[1] / ends[0])


def _band(value_B: np.ndarray, draws_SB: np.ndarray) -> Band:
    """Percentiles over draws. An infinite draw has no end on that side; a NaN has none on either."""
    ends = [value_B, np.full_like(value_B, np.nan), np.full_like(value_B, np.nan)]
    if len(draws_SB):
        for i, (percent, beyond) in enumerate(((2.5, -np.inf), (97.5, np.inf)), start=1):
            sides_SB = np.where(np.isnan(draws_SB), beyond, draws_SB)
            # an order statistic: between a number and infinity there is nothing to interpolate
            ends[i] = np.percentile(sides_SB, percent, axis=0, method="closest_observation")
    return Band(*(np.where(np.isfinite(x), x, np.nan) for x in ends))


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


def _interval(band: Band, i: int) -> str:
    low, high = ("open" if np.isnan(x) else f"{x:.4g}" for x in (band.low_B[i], band.high_B[i]))
    return f"{band.value_B[i]:.4g} [{low}, {high}]"


def _ratio_for_loss(fitted: FittedLaw, budget: float, loss: float, unique: float | None) -> float | None:
    """C'/C at which the optimum's loss is `loss`, by repeated division of a bracket; None where none is found."""
    low, high = np.log(CHEAPEST_RATIO), 0.0
    while high - low > 1e-10:
        log_ratio = np.linspace(low, high, 33)
        # the best loss falls as the budget grows; where there is no optimum NaN compares as below
        above = int((optima(fitted, budget * np.exp(log_ratio), unique=unique).loss_SB[0] >= loss).sum())
        if above == len(log_ratio):
            return float(np.exp(high))
        if above == 0:
            return None
        low, high = log_ratio[above - 1], log_ratio[above]
    return float(np.exp(high))
