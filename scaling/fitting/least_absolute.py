"""Least absolute deviation to the end: successive linear programs, where the smoothed objective stops short.

The minimum of a sum of |r| goes through as many runs as there are parameters, and has a corner there. Newton's method
on a smoothed objective may not settle at a corner; a linear program ends at it.

Letters: R rows, P parameters.
"""

from __future__ import annotations

import numpy as np

from scaling.laws.registry import Bound

FIRST_RADIUS, LARGEST_RADIUS = 0.1, 2.0
"""The trust region, in logs and exponents."""
LEAST_RADIUS = 1e-10
GAIN = 1e-10
"""A linear program that promises a smaller part of the objective ends the walk."""
THROUGH = 1e-6
"""The law goes through a run whose residual is below this part of the mean."""
CORRECTIONS = 2
MOST_PROGRAMS = 100
TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def least_absolute(bound: Bound, log_response_R: np.ndarray, theta_P: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Walks from `theta_P` to a minimum of sum |log response - log law|.

    In each step the law is replaced by its tangent within a box around the point, whose minimum is a linear program.
    Two corrections follow, and the lowest of the three points is kept: back to the runs that the program goes through,
    which the curved law has left, and Newton's method along these runs (Fletcher and Sainz de la Maza 1989).

    Returns (theta [P], the objective, True if no tangent promises a lower objective).
    """

    def residual(theta_P: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.nan_to_num(log_response_R - bound.log(theta_P[None])[0], nan=1e300, posinf=1e300, neginf=-1e300)

    residual_R, radius = residual(theta_P), FIRST_RADIUS
    for _ in range(MOST_PROGRAMS):
        value = float(np.abs(residual_R).sum())
        jacobian_RP = bound.expand(theta_P[None]).jacobian()[0].T
        step_P = _program(jacobian_RP, residual_R, radius)
        after_R = residual_R - jacobian_RP @ step_P
        promised = value - float(np.abs(after_R).sum())
        if promised <= GAIN * value:
            return theta_P, value, True
        through_R = np.abs(after_R) <= THROUGH * value / len(after_R)
        back_P = theta_P + step_P
        for _ in range(CORRECTIONS):
            back_P = back_P + np.linalg.lstsq(jacobian_RP[through_R], residual(back_P)[through_R], rcond=None)[0]
        along_P = theta_P + _along(bound, theta_P, residual_R, through_R)
        trials = [(trial_P, residual(trial_P)) for trial_P in (theta_P + step_P, back_P, along_P)]
        best_P, best_R = min(trials, key=lambda trial: float(np.abs(trial[1]).sum()))
        gain = value - float(np.abs(best_R).sum())
        radius = min(2 * radius, LARGEST_RADIUS) if gain > promised / 2 else radius / 4
        if gain > 0:
            theta_P, residual_R = best_P, best_R
        if radius < LEAST_RADIUS:
            break
    return theta_P, float(np.abs(residual_R).sum()), False


def _program(jacobian_RP: np.ndarray, residual_R: np.ndarray, radius: float) -> np.ndarray:
    """Returns the step within the box that minimises sum |residual - jacobian step|, [P]."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, hstack, identity

    R, P = jacobian_RP.shape
    unit = max(float(np.abs(residual_R).mean()), 1e-300)  # the solver's tolerances are absolute
    one = identity(R, format="csr")
    # the residual after the step is above - below, both at least 0, and the program makes one of them 0
    rows = hstack([csr_matrix(jacobian_RP / unit), one, -one], format="csr")
    bounds = [(-radius, radius)] * P + [(0, None)] * (2 * R)
    cost = np.r_[np.zeros(P), np.ones(2 * R)]
    found = linprog(cost, A_eq=rows, b_eq=residual_R / unit, bounds=bounds, method="highs", options=TOLERANCES)
    return np.zeros(P) if found.x is None else found.x[:P]


def _along(bound: Bound, theta_P: np.ndarray, residual_R: np.ndarray, through_R: np.ndarray) -> np.ndarray:
    """Returns Newton's step [P] for the sum of the other rows' |residuals|, with the residuals of `through_R` at 0."""
    law = bound.expand(theta_P[None])
    jacobian_RP = law.jacobian()[0].T
    sign_R = np.where(through_R, 0.0, np.sign(residual_R))
    slope_P, kept_AP = jacobian_RP.T @ sign_R, jacobian_RP[through_R]
    multiplier_R = sign_R.copy()
    multiplier_R[through_R] = np.linalg.lstsq(kept_AP.T, -slope_P, rcond=None)[0]
    hessian_PP = -law.hessian(-multiplier_R[None], multiplier_R[None])[0]
    A = len(kept_AP)
    system = np.block([[hessian_PP, -kept_AP.T], [kept_AP, np.zeros((A, A))]])
    return np.linalg.lstsq(system, np.r_[slope_P, residual_R[through_R]], rcond=None)[0][: len(theta_P)]
