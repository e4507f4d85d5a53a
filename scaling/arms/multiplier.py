"""Which arm is better at which compute: the compute multiplier along the compute, the crossing, and 10 times further.

The compute multiplier of an arm is how many times the FLOPs of the reference it needs for the reference's loss, each at
its best N and D. For a law of data alone N is that of the runs; without FLOPs, data are compared in place of compute.

Letters: S parameter sets, B costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.arms.compare import ArmFit, ArmsFit, estimate
from scaling.compute.frontier import Estimate95
from scaling.compute.optima import optima
from scaling.fitting.intervals import OPEN_SHARE

POINTS = 5
"""The multiplier is given at this many costs within the data of both arms."""
BEYOND = 10.0
"""The arms are also compared at this many times the largest cost that both have runs at."""
GRID = 241
SEARCHED = 1e6
"""A multiplier is searched for up to this factor, and down to one over it."""


@dataclass(frozen=True)
class AtCost:
    """An arm against the reference at one cost."""

    cost: float
    """FLOPs, or data, of the reference."""
    multiplier: Estimate95
    """The arm needs this many times the cost. None: more than SEARCHED times, or never."""
    difference: Estimate95
    """The arm's loss over the reference's at the same cost, minus 1."""
    better: float | None
    """The share of draws in which the arm has the lower loss; None where too few draws have a loss in both arms."""


@dataclass(frozen=True)
class Crossing:
    """The place where the curves of two arms cross, from the smallest cost to BEYOND times the largest."""

    cost: Estimate95
    """The first crossing. The interval is that of the draws that cross; None: the fitted curves do not."""
    within_data: float | None
    """The share of draws that cross within the data of both arms; None where too few draws have a loss in both."""
    to_beyond: float | None
    """The share of draws that cross anywhere up to BEYOND times the largest cost."""


@dataclass(frozen=True)
class Versus:
    """An arm against the reference."""

    arm: str
    along: tuple[AtCost, ...]
    """Within the data of both arms."""
    beyond: AtCost
    """At BEYOND times the largest cost of both arms."""
    crossing: Crossing


def versus(found: ArmsFit) -> tuple[Versus, ...]:
    """Compares every arm with the first one."""
    first, *others = found.arms
    return tuple(_versus(first, other) for other in others)


def _versus(first: ArmFit, other: ArmFit) -> Versus:
    smallest, largest = max(first.smallest, other.smallest), min(first.largest, other.largest)
    smallest = min(smallest, largest)  # arms may have no cost in common
    costs_B = np.append(np.geomspace(smallest, largest, POINTS), BEYOND * largest)
    grid_B = np.geomspace(smallest / SEARCHED, BEYOND * largest * SEARCHED, GRID)
    point, cloud = (
        _compared(first, other, costs_B, grid_B, theta)
        for theta in (
            (first.fitted.theta_P[None], other.fitted.theta_P[None]),
            (first.fitted.cloud_SP, other.fitted.cloud_SP),
        )
    )
    rows = [
        AtCost(
            cost=float(cost),
            multiplier=estimate(float(point[0][0, b]), cloud[0][:, b]),
            difference=estimate(float(np.expm1(point[1][0, b])), np.expm1(cloud[1][:, b])),
            better=_share(cloud[1][:, b] < 0, ~np.isnan(cloud[1][:, b])),
        )
        for b, cost in enumerate(costs_B)
    ]
    return Versus(other.name, tuple(rows[:-1]), rows[-1], _crossing(first, other, smallest, largest))


def _compared(
    first: ArmFit, other: ArmFit, costs_B: np.ndarray, grid_B: np.ndarray, theta: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the multiplier, and log loss of `other` - log loss of `first`, both [S, B]."""
    loss_SB, other_SB = log_loss(first, costs_B, theta[0]), log_loss(other, costs_B, theta[1])
    grid_SB = log_loss(other, grid_B, theta[1])
    multiplier_SB = np.empty_like(loss_SB)
    for s, curve_B in enumerate(grid_SB):
        # the loss falls with the cost: turned round, it is the abscissa of the inverse
        log_cost_B = np.interp(loss_SB[s], curve_B[::-1], np.log(grid_B[::-1]), left=np.inf, right=-np.inf)
        multiplier_SB[s] = np.exp(log_cost_B) / costs_B
    multiplier_SB[~np.isfinite(loss_SB)] = np.nan
    multiplier_SB = np.where(multiplier_SB > SEARCHED, np.inf, multiplier_SB)
    return multiplier_SB, other_SB - loss_SB


def log_loss(arm: ArmFit, costs_B: np.ndarray, theta_SP: np.ndarray) -> np.ndarray:
    """Returns the log of the lowest loss that each cost buys, [S, B]; NaN without an optimum."""
    if "n" in arm.fitted.law.axes:
        return np.log(optima(arm.fitted, costs_B, theta_SP).loss_SB)
    return np.log(arm.fitted.loss_at({"d": costs_B / (arm.flops_per_d or 1.0)}, theta_SP))


def _crossing(first: ArmFit, other: ArmFit, smallest: float, largest: float) -> Crossing:
    costs_B = np.geomspace(smallest, BEYOND * largest, GRID)
    point_B, cloud_SB = (
        log_loss(other, costs_B, b) - log_loss(first, costs_B, a)
        for a, b in (
            (first.fitted.theta_P[None], other.fitted.theta_P[None]),
            (first.fitted.cloud_SP, other.fitted.cloud_SP),
        )
    )
    at, at_S = _first_crossing(point_B, costs_B), _first_crossing(cloud_SB, costs_B)
    known_S = np.isnan(cloud_SB).sum(axis=1) == 0
    inside_S = at_S <= largest  # NaN, where nothing crosses, is not
    return Crossing(estimate(float(at[0]), at_S), _share(inside_S, known_S), _share(~np.isnan(at_S), known_S))


def _first_crossing(difference_SB: np.ndarray, costs_B: np.ndarray) -> np.ndarray:
    """Returns the first cost at which the sign changes, [S]; NaN where it does not."""
    turns_SB = np.sign(difference_SB[:, 1:]) * np.sign(difference_SB[:, :-1]) < 0
    at_S = np.argmax(turns_SB, axis=1)
    rows = np.arange(len(at_S))
    left_S, right_S = difference_SB[rows, at_S], difference_SB[rows, at_S + 1]
    step = np.log(costs_B[1] / costs_B[0])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cost_S = costs_B[at_S] * np.exp(step * left_S / (left_S - right_S))
    return np.where(turns_SB.any(axis=1), cost_S, np.nan)


def _share(is_so_S: np.ndarray, known_S: np.ndarray) -> float | None:
    """Returns the share among the draws that know; None without one, or where more than OPEN_SHARE of all do not."""
    if not known_S.any() or np.mean(~known_S) > OPEN_SHARE:
        return None
    return float(np.mean(is_so_S[known_S]))
