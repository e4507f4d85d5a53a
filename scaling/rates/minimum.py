"""The lowest point of a cell: a quadratic of log loss in the logs of the settings, fitted around the lowest point.

The loss rises faster on one side, and that would move the vertex where a cell has few runs on the other. So cubic terms
around the vertex are subtracted. Over the curvature of a cell they are the same in all cells, which estimate them
together.

Letters: R runs of a cell, A settings, K coefficients of the quadratic, T cubic terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaling.rates.cells import SAME, SETTINGS, Cell

REACH_FACTOR = 5.0
REACH_STEPS = 3
"""Runs count up to this factor from the lowest point, or up to this many steps of the grid if they reach further. Their
weight falls to 0 there (tricube), so that no run enters or leaves at once."""
FEWEST_RATES = 4
FEWEST_OF_TWO = 3
"""The least number of values of each setting, where one or where two settings were tried."""
TO_SPARE = 2
"""A cell has at least this many runs more than coefficients, where two settings were tried."""
RESOLVED = 2.0
"""The smallest curvature is at least this many times its standard error, or the cell shows no minimum."""
PRIOR_SPARE = 5.0
"""A cell's own noise is mixed with that of all cells, as if that came with this many spare runs of the cell."""
MOST_STEPS = 30
SPARE_FOR_CUBIC = 10.0
"""The cubic terms are taken as 0 unless the cells have this many spare runs together for each term."""
ROUNDS = 3
"""The quadratics and the common cubic terms are fitted in turns this many times."""

Side = Literal["inside", "above", "below", "unknown"]
"""A setting's minimum: inside what was tried, at its highest value or above, at its lowest or below, or unknown."""


@dataclass(frozen=True)
class Quadratic:
    """A quadratic around `at_A`, and the noise around it."""

    at_A: np.ndarray
    vertex_A: np.ndarray | None
    """The stationary point in logs, which may be outside of what was tried; None where the quadratic has no minimum."""
    coefficient_K: np.ndarray
    solve_KR: np.ndarray
    """The coefficients are this matrix times log loss without the cubic terms."""
    weight_R: np.ndarray
    """0 for runs out of reach."""
    square: float
    """The weighted sum of squared residuals."""
    spare: float
    """Its expectation over the noise's variance."""
    fitted_R: np.ndarray
    """Log loss with the cubic terms."""

    @property
    def curvature(self) -> float:
        """The sum of the second derivatives; 0 where the quadratic has no minimum."""
        bend_AA = _bend(self.coefficient_K, len(self.at_A))
        return 0.0 if self.vertex_A is None else float(np.trace(bend_AA))


@dataclass(frozen=True)
class Minimum:
    """The best settings of a cell, or the reason why it shows none."""

    cell: Cell
    log_A: np.ndarray
    """The logs of the best settings: the edge where the minimum is there or beyond, NaN where it is unknown."""
    stderr_A: np.ndarray
    """By the delta method; NaN unless the minimum is inside."""
    side_A: tuple[Side, ...]
    low_A: np.ndarray
    high_A: np.ndarray
    """The lowest and the highest value that was tried, in logs."""
    lowest: float
    """The lowest loss of a run."""
    bias: float
    """The part by which the lowest loss is expected to be too low (below 0), because it is the lowest of many noisy
    runs: expected lowest log loss - log loss of the best of the runs without noise."""
    refused: str | None = None

    @property
    def corrected(self) -> float:
        """The lowest loss without its expected bias."""
        return self.lowest * float(np.exp(-self.bias))


def too_few(cell: Cell) -> str | None:
    """Returns the reason why a cell cannot show a minimum, or None."""
    tried, settings = cell.tried_A, len(cell.tried_A)
    wanted = FEWEST_RATES if settings == 1 else FEWEST_OF_TWO
    for name, count in zip(SETTINGS, tried, strict=False):
        if count < wanted:
            return f"{count} different values of the {name}; wanted at least {wanted}"
    runs = len(cell.log_loss_R)
    least = _terms(settings) + TO_SPARE
    if settings > 1 and runs < least:
        return f"{runs} runs; a quadratic in rate and batch wants at least {least}"
    return None


def quadratics(cells: Sequence[Cell]) -> list[Quadratic]:
    """Fits the quadratic of each cell, and the cubic terms over the curvature, which all cells have in common."""
    cubic_T = np.zeros(len(_triples(cells[0].log_RA.shape[1])))
    found = [_quadratic(cell, cubic_T) for cell in cells]
    if sum(each.spare for each in found) < SPARE_FOR_CUBIC * len(cubic_T):
        return found
    for _ in range(ROUNDS):
        cubic_T = _common_cubic(cells, found)
        found = [_quadratic(cell, each.curvature * cubic_T) for cell, each in zip(cells, found, strict=True)]
    return found


def _common_cubic(cells: Sequence[Cell], found: Sequence[Quadratic]) -> np.ndarray:
    """Returns the cubic coefficients over the curvature, [T], by least squares with a quadratic for each cell."""
    square_TT, product_T = 0.0, 0.0
    for cell, each in zip(cells, found, strict=True):
        if each.vertex_A is None:
            continue
        away_RA = cell.log_RA - each.at_A
        rest_RR = np.eye(len(away_RA)) - _design(away_RA) @ each.solve_KR
        rest_RT = each.curvature * rest_RR @ _cubic(away_RA)
        square_TT = square_TT + rest_RT.T @ (each.weight_R[:, None] * rest_RT)
        product_T = product_T + rest_RT.T @ (each.weight_R * (rest_RR @ cell.log_loss_R))
    return np.linalg.lstsq(np.atleast_2d(square_TT), np.atleast_1d(product_T), rcond=None)[0]


def _quadratic(cell: Cell, cubic_T: np.ndarray) -> Quadratic:
    """Fits the quadratic around its own lowest point, which is found by repetition from the lowest run."""
    log_RA = cell.log_RA
    low_A, high_A = log_RA.min(axis=0), log_RA.max(axis=0)
    reach_A = np.maximum(np.log(REACH_FACTOR), REACH_STEPS * (high_A - low_A) / (np.array(cell.tried_A) - 1))
    at_A = log_RA[int(np.argmin(cell.log_loss_R))]
    found = _around(cell, at_A, reach_A, cubic_T)
    for _ in range(MOST_STEPS):
        if found.vertex_A is None:
            break
        step_A = np.clip(found.vertex_A - at_A, -reach_A / 3, reach_A / 3)
        next_A = np.clip(at_A + step_A, low_A, high_A)
        if np.abs(next_A - at_A).max() < 1e-6:
            break
        at_A = next_A
        found = _around(cell, at_A, reach_A, cubic_T)
    return found


def _around(cell: Cell, at_A: np.ndarray, reach_A: np.ndarray, cubic_T: np.ndarray) -> Quadratic:
    away_RA = cell.log_RA - at_A
    far_R = np.sqrt(((away_RA / reach_A) ** 2).sum(axis=1))
    weight_R = np.clip(1 - far_R**3, 0, None) ** 3
    design_RK, cubic_R = _design(away_RA), _cubic(away_RA) @ cubic_T
    weighted_KR = design_RK.T * weight_R
    solve_KR = np.linalg.pinv(weighted_KR @ design_RK, hermitian=True) @ weighted_KR
    coefficient_K = solve_KR @ (cell.log_loss_R - cubic_R)
    fitted_R = design_RK @ coefficient_K + cubic_R
    bend_AA = _bend(coefficient_K, len(at_A))
    is_bowl = np.linalg.eigvalsh(bend_AA)[0] > 0
    vertex_A = at_A - np.linalg.solve(bend_AA, coefficient_K[1 : len(at_A) + 1]) if is_bowl else None
    return Quadratic(
        at_A=at_A,
        vertex_A=vertex_A,
        coefficient_K=coefficient_K,
        solve_KR=solve_KR,
        weight_R=weight_R,
        square=float(weight_R @ (cell.log_loss_R - fitted_R) ** 2),
        spare=max(float(weight_R.sum() - np.sum(weighted_KR * solve_KR)), 0.0),
        fitted_R=fitted_R,
    )


def _terms(settings: int) -> int:
    return (settings + 1) * (settings + 2) // 2


def _pairs(settings: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(settings), 2))


def _design(away_RA: np.ndarray) -> np.ndarray:
    """Returns [R, K]: 1, the settings, their products; the half of a square, so that its factor is the curvature."""
    products = [away_RA[:, a] * away_RA[:, b] / (2 if a == b else 1) for a, b in _pairs(away_RA.shape[1])]
    return np.column_stack([np.ones(len(away_RA)), away_RA, *products])


def _triples(settings: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations_with_replacement(range(settings), 3))


def _cubic(away_RA: np.ndarray) -> np.ndarray:
    """Returns the cubic terms, [R, T]."""
    return np.column_stack([away_RA[:, list(triple)].prod(axis=1) for triple in _triples(away_RA.shape[1])])


def _bend(coefficient_K: np.ndarray, settings: int) -> np.ndarray:
    """Returns the second derivatives, [A, A]."""
    bend_AA = np.empty((settings, settings))
    for (a, b), value in zip(_pairs(settings), coefficient_K[settings + 1 :], strict=True):
        bend_AA[a, b] = bend_AA[b, a] = value
    return bend_AA


def minimum(cell: Cell, found: Quadratic, pooled_variance: float, run_variance: float) -> Minimum:
    """Judges the quadratic of a cell.

    Args:
      cell: the runs.
      found: their quadratic.
      pooled_variance: the variance of log loss around the quadratics of all cells.
      run_variance: the variance of a single run's log loss, for the bias of the lowest one.
    """
    settings = len(found.at_A)
    low_A, high_A = cell.log_RA.min(axis=0), cell.log_RA.max(axis=0)
    variance = (found.square + PRIOR_SPARE * pooled_variance) / (found.spare + PRIOR_SPARE)
    covariance_KK = variance * found.solve_KR @ found.solve_KR.T
    log_A, stderr_A = np.full(settings, np.nan), np.full(settings, np.nan)
    refused = None
    side_A: tuple[Side, ...]
    if found.vertex_A is not None and _is_resolved(found, covariance_KK):
        side_A = _sides(found.vertex_A, low_A, high_A)
        if set(side_A) == {"inside"}:
            log_A, stderr_A = found.vertex_A, _stderr(found, covariance_KK)
    else:
        lowest_A = cell.log_RA[int(np.argmin(cell.log_loss_R))]
        side_A = _sides(lowest_A, low_A + SAME, high_A - SAME)
        if set(side_A) == {"inside"}:
            refused = "the loss does not bend clearly around its lowest value; add seeds, or lower and higher values"
    outside = any(side in ("above", "below") for side in side_A)
    if outside or refused:  # the best value of a setting moves with the other one, which is not at its best here
        unknown: Side = "unknown"
        side_A = tuple(unknown if side == "inside" else side for side in side_A)
    edge = {"above": high_A, "below": low_A}
    log_A = np.array([edge[side][a] if side in edge else log_A[a] for a, side in enumerate(side_A)])
    bias = lowest_bias(found.fitted_R[found.weight_R > 0], float(np.sqrt(run_variance)))
    lowest = float(np.exp(cell.log_loss_R.min()))
    return Minimum(cell, log_A, stderr_A, side_A, low_A, high_A, lowest, bias, refused)


def _sides(place_A: np.ndarray, low_A: np.ndarray, high_A: np.ndarray) -> tuple[Side, ...]:
    return tuple(
        "below" if x < low else "above" if x > high else "inside"
        for x, low, high in zip(place_A, low_A, high_A, strict=True)
    )


def _is_resolved(found: Quadratic, covariance_KK: np.ndarray) -> bool:
    """Returns whether the smallest curvature is RESOLVED times its standard error, by first-order perturbation."""
    settings = len(found.at_A)
    value_A, axis_AA = np.linalg.eigh(_bend(found.coefficient_K, settings))
    u_A = axis_AA[:, 0]
    slope_K = np.zeros(len(found.coefficient_K))
    slope_K[settings + 1 :] = [u_A[a] * u_A[b] * (1 if a == b else 2) for a, b in _pairs(settings)]
    return bool(value_A[0] > RESOLVED * np.sqrt(slope_K @ covariance_KK @ slope_K))


def _stderr(found: Quadratic, covariance_KK: np.ndarray) -> np.ndarray:
    """Returns the standard errors of the vertex by the delta method, [A].

    At the vertex v the gradient g + H v is 0, so dv = -H^-1 (dg + dH v).
    """
    assert found.vertex_A is not None
    settings = len(found.at_A)
    v_A = found.vertex_A - found.at_A
    gradient_AK = np.zeros((settings, len(found.coefficient_K)))
    gradient_AK[:, 1 : settings + 1] = np.eye(settings)
    for place, (a, b) in enumerate(_pairs(settings), settings + 1):
        gradient_AK[a, place] = v_A[b]
        gradient_AK[b, place] = v_A[a]
    moves_AK = -np.linalg.solve(_bend(found.coefficient_K, settings), gradient_AK)
    return np.sqrt(np.einsum("AK,KL,AL->A", moves_AK, covariance_KK, moves_AK))


def lowest_bias(true_R: np.ndarray, sigma: float) -> float:
    """Returns the expected lowest of R values with Gaussian noise, minus the lowest without it; at most 0.

    Args:
      true_R: the values without noise.
      sigma: the standard deviation of the noise.
    """
    from scipy.special import log_ndtr

    if sigma <= 0 or not len(true_R):
        return 0.0
    t_T = np.linspace(-8.0, 8.0, 1601)
    above_RT = (true_R[:, None] - true_R.min()) / sigma - t_T
    survival_T = np.exp(log_ndtr(above_RT).sum(axis=0))  # the probability that all are above t
    return float(sigma * (t_T[0] + np.trapezoid(survival_T, t_T)))
