"""The runs to make next: those that shrink the interval of a chosen quantity most per FLOP.

    assumption = Assumption(fitted, sigma=0.005, source="fit.json")
    propose(assumption, {"n": n, "d": d}, "beta", runs=4)

Letters as in information.py; M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaling.design.assumption import Assumption
from scaling.design.information import Expected, covariance, expect, information, jacobian, quantity, slope
from scaling.errors import InputError
from scaling.laws.terms import Points

MOST_VALUES = 8
"""Candidates are made from at most this many values of N and of D. More are replaced by as many, even in log."""


@dataclass(frozen=True)
class NewRun:
    """A run to make."""

    n: float
    d: float
    flops: float


@dataclass(frozen=True)
class ProposedRun(NewRun):
    before: Expected
    after: Expected
    """The quantity's interval with this run and those proposed before it."""
    flops_total: float
    """The FLOPs of this run and those proposed before it."""


@dataclass(frozen=True)
class RunProposal:
    quantity: str
    per: str
    runs: tuple[ProposedRun, ...]
    note: str
    """Why there are fewer runs than asked for; empty otherwise."""


def candidate_grid(
    n: np.ndarray,
    d: np.ndarray,
    n_limits: tuple[float, float] | None = None,
    d_limits: tuple[float, float] | None = None,
) -> Points:
    """Returns every pair of N and D within the limits, [M] each.

    The values are those of the runs ([R] each), the geometric means between them, and one more at either end.

    Raises:
      InputError: no value is within the limits.
    """
    n_axis, d_axis = _axis(n, n_limits, "N"), _axis(d, d_limits, "D")
    grid_n, grid_d = np.meshgrid(n_axis, d_axis, indexing="ij")
    return {"n": grid_n.ravel(), "d": grid_d.ravel()}


def _axis(values: np.ndarray, limits: tuple[float, float] | None, name: str) -> np.ndarray:
    log = np.unique(np.log(values))
    log = log[np.diff(log, prepend=-np.inf) > 1e-6]  # closer values are one value, rounded differently
    if len(log) > MOST_VALUES:
        log = np.linspace(log[0], log[-1], MOST_VALUES)
    if len(log) == 1:
        log = log[0] + np.log([0.25, 1, 4])  # a single value has no step of its own
    log = np.concatenate([[2 * log[0] - log[1]], log, [2 * log[-1] - log[-2]]])
    axis = np.exp(np.sort(np.concatenate([log, (log[1:-2] + log[2:-1]) / 2])))
    if limits is None:
        return axis
    inside = axis[(axis >= limits[0]) & (axis <= limits[1])]
    if not len(inside):
        raise InputError(
            f"no candidate {name} between {limits[0]:g} and {limits[1]:g}: they go from {axis[0]:.4g} to "
            f"{axis[-1]:.4g}. Widen the limits."
        )
    return inside


def propose(
    assumption: Assumption,
    points: Points,
    wanted: str,
    *,
    runs: int = 4,
    candidates: Points | None = None,
    flops_limit: float | None = None,
    per: Literal["flop", "run"] = "flop",
) -> RunProposal:
    """Proposes the next runs, one after the other: each is the one that shrinks the interval of `wanted` most.

    Args:
      points: the runs that exist already, [R] each.
      wanted: a quantity, see `information.quantity`.
      runs: how many to propose. A candidate may come again, as another seed.
      candidates: the runs that may be made, [M] each. Default: `candidate_grid` of the points.
      flops_limit: the FLOPs of all proposed runs together.
      per: ranks by log(interval before / after) per "flop", or per "run" with no regard to its cost.

    Raises:
      InputError: no such quantity, no run asked for, or no candidate within the limit.

    This is greedy D-optimal design for one linear functional. A run is a rank-one update of the covariance (Sherman
    and Morrison 1950; Fedorov 1972).
    """
    if runs < 1:
        raise InputError(f"{runs} runs asked for; wanted at least 1")
    fitted, sigma = assumption.law, assumption.sigma
    target = quantity(wanted, fitted)
    candidates = candidate_grid(points["n"], points["d"]) if candidates is None else candidates
    flops_M = fitted.flops_per_nd * candidates["n"] * candidates["d"]
    left = np.inf if flops_limit is None else flops_limit
    if not (flops_M <= left).any():
        raise InputError(f"no candidate costs {left:.3g} FLOPs or less; the cheapest costs {flops_M.min():.3g}")
    jacobian_MP = jacobian(fitted, candidates)
    gradient_P = slope(lambda theta_SP: target.evaluate(fitted, theta_SP), fitted.theta_P)
    covariance_PP = covariance(information(fitted, points, sigma))
    before, total = expect(fitted, target, covariance_PP), 0.0
    chosen: list[ProposedRun] = []
    while len(chosen) < runs and (flops_M <= left).any():
        gain_M = _shrinkage(covariance_PP, gradient_P, jacobian_MP, sigma) / (flops_M if per == "flop" else 1.0)
        m = int(np.argmax(np.where(flops_M <= left, gain_M, -np.inf)))
        covariance_PP = _with_run(covariance_PP, jacobian_MP[m], sigma)
        after = expect(fitted, target, covariance_PP)
        n, d, flops = (float(x[m]) for x in (candidates["n"], candidates["d"], flops_M))
        total += flops
        chosen.append(ProposedRun(n, d, flops, before=before, after=after, flops_total=total))
        left, before = left - flops, after
    note = "" if len(chosen) == runs else f"the limit of {flops_limit:.3g} FLOPs is spent after {len(chosen)} runs"
    return RunProposal(target.name, per, tuple(chosen), note)


def _with_run(covariance_PP: np.ndarray, jacobian_P: np.ndarray, sigma: float) -> np.ndarray:
    """Returns the covariance after one more run."""
    seen_P = covariance_PP @ jacobian_P
    return covariance_PP - np.outer(seen_P, seen_P) / (sigma**2 + jacobian_P @ seen_P)


def _shrinkage(covariance_PP: np.ndarray, gradient_P: np.ndarray, jacobian_MP: np.ndarray, sigma: float) -> np.ndarray:
    """Returns log(standard error before / after) of a quantity with this gradient, for one run at each of M places."""
    seen_MP = jacobian_MP @ covariance_PP
    variance = gradient_P @ covariance_PP @ gradient_P
    less_M = (seen_MP @ gradient_P) ** 2 / (sigma**2 + np.einsum("MP,MP->M", seen_MP, jacobian_MP))
    return -0.5 * np.log1p(-np.minimum(less_M / variance, 1 - 1e-15))  # a run takes all of it only by rounding
