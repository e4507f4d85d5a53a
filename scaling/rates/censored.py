"""Regression of values of which some are only bounds: Gaussian, with known standard errors and an unknown scatter.

    value_G ~ Normal(design_GP @ beta_P, stderr_G^2 + scatter^2)

A bound "at or above" counts by the probability that the value is there (Tobin 1958; Amemiya 1984). The scatter is the
maximum of the adjusted profile likelihood (Cox and Reid 1987), which without bounds is restricted maximum likelihood.

Letters: S data sets of one design, G cells, P parameters, T scatters that are tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SCATTERS_T = np.geomspace(1e-3, 3.0, 30)
"""In logs: from a thousandth to a factor of 20."""
NEWTON_STEPS = 25
CLOSE = 1e-6
"""Newton's last step, in logs."""
BLOCK = 2_000_000
"""At most this many numbers in one array."""


class Observed(NamedTuple):
    """S data sets with the same cells."""

    value_SG: np.ndarray
    """The value, or the bound."""
    side_SG: np.ndarray
    """0 for a value, 1 for "at or above", -1 for "at or below"."""


class Regression(NamedTuple):
    beta_SP: np.ndarray
    scatter_S: np.ndarray


def regress(observed: Observed, design_GP: np.ndarray, stderr_G: np.ndarray) -> Regression:
    """Returns the parameters and the scatter of each data set. Each has more values than parameters."""
    S, G = observed.value_SG.shape
    beta_SP, scatter_S = np.empty((S, design_GP.shape[1])), np.empty(S)
    has_bound_S = np.any(observed.side_SG, axis=1)
    step = max(1, BLOCK // (G * len(SCATTERS_T)))
    for kind in (has_bound_S, ~has_bound_S):  # without bounds one step is enough
        rows_S = np.flatnonzero(kind)
        for some in (rows_S[s : s + step] for s in range(0, len(rows_S), step)):
            part = Observed(observed.value_SG[some], observed.side_SG[some])
            beta_SP[some], scatter_S[some] = _regress(part, design_GP, stderr_G)
    return Regression(beta_SP, scatter_S)


def _regress(observed: Observed, design_GP: np.ndarray, stderr_G: np.ndarray) -> Regression:
    sigma_TG = np.sqrt(stderr_G**2 + SCATTERS_T[:, None] ** 2)
    value_S1G, side_S1G = observed.value_SG[:, None], observed.side_SG[:, None]
    beta_STP = _least_squares(observed.value_SG, design_GP, sigma_TG)
    for _ in range(NEWTON_STEPS if np.any(observed.side_SG) else 1):
        _, slope_STG, bend_STG = _terms(value_S1G, side_S1G, beta_STP @ design_GP.T, sigma_TG)
        move_STP = np.linalg.solve(_information(bend_STG, design_GP), (slope_STG @ design_GP)[..., None])[..., 0]
        beta_STP = beta_STP + move_STP
        if np.abs(move_STP).max() < CLOSE:
            break
    log_STG, _, bend_STG = _terms(value_S1G, side_S1G, beta_STP @ design_GP.T, sigma_TG)
    adjusted_ST = log_STG.sum(axis=2) - 0.5 * np.linalg.slogdet(_information(bend_STG, design_GP))[1]
    best_S = np.argmax(adjusted_ST, axis=1)
    return Regression(beta_STP[np.arange(len(best_S)), best_S], SCATTERS_T[best_S])


def _least_squares(value_SG: np.ndarray, design_GP: np.ndarray, sigma_TG: np.ndarray) -> np.ndarray:
    """Returns [S, T, P], with bounds taken for values."""
    weighted_TGP = design_GP / sigma_TG[..., None]
    solve_TPG = np.linalg.pinv(weighted_TGP) / sigma_TG[:, None]
    return np.einsum("TPG,SG->STP", solve_TPG, value_SG)


def _information(bend_STG: np.ndarray, design_GP: np.ndarray) -> np.ndarray:
    return np.einsum("STG,GP,GQ->STPQ", bend_STG, design_GP, design_GP, optimize=True)


def _terms(
    value: np.ndarray, side: np.ndarray, mean_STG: np.ndarray, sigma_TG: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each cell's log likelihood, its slope in the mean, and minus its second derivative, 3 x [S, T, G]."""
    from scipy.special import log_ndtr

    z = (value - mean_STG) / sigma_TG
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    log_STG, slope_STG = log_density - np.log(sigma_TG), z / sigma_TG
    bend_STG = np.broadcast_to(sigma_TG**-2, z.shape)
    if not np.any(side):
        return log_STG, slope_STG, bend_STG
    beyond = side * z  # in standard deviations past the mean, on the side of the bound
    log_tail = log_ndtr(-beyond)
    hazard = np.exp(log_density - log_tail)
    return (
        np.where(side, log_tail, log_STG),
        np.where(side, side * hazard / sigma_TG, slope_STG),
        np.where(side, hazard * (hazard - beyond) / sigma_TG**2, bend_STG),
    )
