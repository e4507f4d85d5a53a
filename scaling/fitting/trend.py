"""Tests the residuals of a fit for a trend along the law's axes: a law that holds leaves noise, which has none.

Letters: R rows, P parameters, K directions, S draws of signs, G clusters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from scaling.fitting.minimize import robust_sigma
from scaling.fitting.problem import Problem

DEGREES = {1: 8, 2: 4}
"""{number of axes: the highest total degree of the polynomials of the axes' logs that a trend is made of}."""
MORE_AXES = 2
"""The same for laws of more axes."""
CLIPPED = 3.0
"""Residuals beyond this many robust standard deviations are clipped, so that one run alone makes no trend."""
OWN = 0.1
"""A direction is not tested if the law's own parameters explain all of it but this part of its length."""
LEAST_CLUSTERS = 10
"""Fewer independent runs have too few patterns of signs for a p-value below .5 %."""
MOST_LEVERAGE = 0.9
DRAWS, BLOCK, SEED = 999, 100, 0
EXACT = 1e-7
"""Residuals smaller than this, in log response, are rounding, or too small to matter to anybody."""


@dataclass(frozen=True)
class Trend:
    """The part of the residuals along some directions."""

    p_value: float
    """Chance of as large a part where the law holds."""
    share: float
    """The part of the residuals' sum of squares."""
    rms: float
    """Its root mean square over the rows, in log response."""
    directions: int


def trend(problem: Problem, theta_P: np.ndarray, cluster: np.ndarray) -> Trend | None:
    """Tests for a smooth trend: polynomials of the axes, less what the law's own parameters can explain.

    Returns None where there are too few independent runs.
    """
    own_RP = _own(problem, theta_P)
    smooth_RK = _smooth(problem, own_RP, len(np.unique(cluster)))
    return _along(smooth_RK, problem.residual(theta_P), own_RP, cluster)


def shift(problem: Problem, theta_P: np.ndarray, cluster: np.ndarray, some_R: np.ndarray) -> Trend | None:
    """Tests if the rows `some_R` (booleans) are together above or below the law that the others would give.

    Returns None where there are too few independent runs, or where no row or every row is meant.
    """
    return towards(problem, theta_P, cluster, some_R.astype(float))


def towards(problem: Problem, theta_P: np.ndarray, cluster: np.ndarray, direction_R: np.ndarray) -> Trend | None:
    """Tests if the residuals go along one direction, less what the law's own parameters can explain.

    Returns None where there are too few independent runs, or where nothing of the direction is left.
    """
    own_RP = _own(problem, theta_P)
    direction_R1 = _apart(_normalised(direction_R[:, None]), own_RP)
    return _along(direction_R1, problem.residual(theta_P), own_RP, cluster)


def along(problem: Problem, theta_P: np.ndarray, cluster: np.ndarray, columns_RK: np.ndarray) -> Trend | None:
    """Tests if the residuals go along other columns, less what a smooth function of the law's axes can explain.

    Returns None where there are too few independent runs, or where nothing of the columns is left.
    """
    own_RP = _own(problem, theta_P)
    known_RP = np.concatenate([own_RP, _smooth(problem, own_RP, len(np.unique(cluster)))], axis=1)
    direction_RK = _apart(_normalised(columns_RK - columns_RK.mean(axis=0)), known_RP)
    return _along(direction_RK, problem.residual(theta_P), own_RP, cluster)


def together(problem: Problem, theta_P: np.ndarray, run: np.ndarray, groups_RK: np.ndarray) -> Trend | None:
    """Tests if the residuals of the runs of a group are on one side of the law, [R, K] booleans for K groups.

    `run` [R] numbers the independent runs. Returns None where there are too few of them.
    """
    own_RP = _own(problem, theta_P)
    direction_RK = _apart(_normalised(groups_RK.astype(float)), own_RP)
    return _along(direction_RK, problem.residual(theta_P), own_RP, run)


def _along(direction_RK: np.ndarray, residual_R: np.ndarray, own_RP: np.ndarray, cluster: np.ndarray) -> Trend | None:
    """Does a score test with a wild bootstrap.

    Under the law each cluster's residuals might as well have the opposite sign, so random signs give the distribution
    of the explained share. That needs neither Gaussian noise nor the same noise everywhere (Davidson & Flachaire 2008,
    with residuals divided by 1 - the leverage of their cluster).
    """
    K = direction_RK.shape[1]
    _, member_R = np.unique(cluster, return_inverse=True)
    if member_R.max() + 1 < LEAST_CLUSTERS or not K:
        return None
    clip = max(CLIPPED * robust_sigma(residual_R), EXACT)
    residual_R = np.clip(residual_R, -clip, clip)
    residual_R = residual_R - own_RP @ (own_RP.T @ residual_R)
    square, along = residual_R @ residual_R, np.sum((direction_RK.T @ residual_R) ** 2)
    rms = float(np.sqrt(along / len(residual_R)))
    if rms < EXACT:
        return Trend(1.0, 0.0, rms, K)
    leverage_R = np.minimum(np.bincount(member_R, (own_RP**2).sum(axis=1))[member_R], MOST_LEVERAGE)
    random, shares = np.random.default_rng(SEED), []
    for begin in range(0, DRAWS, BLOCK):
        sign_SG = random.integers(0, 2, (min(BLOCK, DRAWS - begin), member_R.max() + 1)) * 2.0 - 1
        drawn_SR = sign_SG[:, member_R] * (residual_R / (1 - leverage_R))
        square_S = (drawn_SR**2).sum(axis=1) - ((drawn_SR @ own_RP) ** 2).sum(axis=1)
        shares.append(((drawn_SR @ direction_RK) ** 2).sum(axis=1) / np.maximum(square_S, 1e-300))
    share = float(along / square)
    larger = int((np.concatenate(shares) >= share * (1 - 1e-9)).sum())
    return Trend((1 + larger) / (1 + DRAWS), share, rms, K)


def _own(problem: Problem, theta_P: np.ndarray) -> np.ndarray:
    """Returns orthonormal directions that the law's parameters move the fit along, [R, P] or fewer.

    A size that ran to 0 moves nothing, because it cannot become negative.
    """
    ends = problem.at_bound(theta_P[None])
    gone = [size for size in problem.law.sizes if size in ends and ends[size][0][0]]
    still = {name for size in gone for name in (size, *problem.law.sizes[size])}
    moving = [name not in still for name in problem.free]
    return _orthonormal(_normalised(problem.bound.expand(theta_P[None]).jacobian()[0].T[:, moving]), 1e-9)


def _smooth(problem: Problem, own_RP: np.ndarray, clusters: int) -> np.ndarray:
    """Returns [R, K] orthonormal directions, at most half as many as the law's parameters leave free."""
    most = (clusters - own_RP.shape[1]) // 2
    axes_AR = [_scaled(x if axis == "l" else np.log(x)) for axis, x in problem.points.items()]
    found_RK, columns = np.empty((len(problem.response), 0)), []
    for degree in range(1, DEGREES.get(len(axes_AR), MORE_AXES) + 1):
        columns += _terms(axes_AR, degree)
        more_RK = _apart(_normalised(np.stack(columns, axis=1)), own_RP)
        if more_RK.shape[1] > most:
            break
        found_RK = more_RK
    return found_RK


def _terms(axes_AR: list[np.ndarray], degree: int) -> Iterator[np.ndarray]:
    """Yields the products [R] of Legendre polynomials of the axes with this total degree."""
    for powers in itertools.product(range(degree + 1), repeat=len(axes_AR)):
        if sum(powers) == degree:
            factors = [legendre.Legendre.basis(k)(x_R) for k, x_R in zip(powers, axes_AR, strict=True)]
            yield np.prod(factors, axis=0)


def _scaled(values_R: np.ndarray) -> np.ndarray:
    """Returns the values moved and scaled to -1 to 1."""
    reach = np.ptp(values_R)
    return 2 * (values_R - values_R.min()) / reach - 1 if reach > 0 else np.zeros_like(values_R)


def _apart(columns_RK: np.ndarray, own_RP: np.ndarray) -> np.ndarray:
    """Returns orthonormal directions of what `columns_RK`, of unit length, have apart from the law's own."""
    return _orthonormal(columns_RK - own_RP @ (own_RP.T @ columns_RK), OWN)


def _normalised(columns_RK: np.ndarray) -> np.ndarray:
    """Returns the columns with unit length, without those that are 0."""
    length_K = np.linalg.norm(columns_RK, axis=0)
    return columns_RK[:, length_K > 0] / length_K[length_K > 0]


def _orthonormal(columns_RK: np.ndarray, shortest: float) -> np.ndarray:
    left_RK, length_K, _ = np.linalg.svd(columns_RK, full_matrices=False)
    return left_RK[:, length_K > shortest]
