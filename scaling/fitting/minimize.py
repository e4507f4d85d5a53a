"""The objective and its minimiser: damped Newton with the exact Hessian, for many starts and weightings at once.

The fit, the bootstrap and the held-out check use one Objective. A result counts as a minimum by its gradient and
curvature, not because of an iteration limit or a small change; nothing here depends on the objective's scale.

Letters: S parameter sets (starts or bootstrap draws), R rows, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from scaling.laws.registry import Bound, Curve

BLOCK = 256
"""The largest number of parameter sets that are computed together."""
BLOCK_NUMBERS = 1 << 14
"""The largest number of sets times rows in a block, unless a single set has more: small enough for the cache."""
REFILL = 4
"""A block is filled up when one in this many of its places is empty."""
HEAP_BYTES = 30 << 20
"""A block that glibc keeps after it is freed (it keeps up to 32 MiB), see `minimize`."""
FIRST_DAMPING, DAMP_MORE, DAMP_LESS = 0.1, 20, 3
"""The damping in units of the majoriser, and its factors after a step that failed and after one that succeeded."""
CLOSE_DAMPING = 1e-4
"""The first damping of starts that are close to their minimum, where the undamped step is nearly right."""
LONGEST_STEP = 2.0
"""The longest step, in logs and exponents."""
LONGEST_FIRST_STEP = 0.5
"""A longer step to a resampling's minimum is not taken blindly, see `first_steps`."""
DECREMENT_TOLERANCE = 1e-15
"""A point is stationary where the Newton decrement over the objective is below this."""
STEP_TOLERANCE = 1e-10
"""A point is stationary too where the undamped Newton step, in logs and exponents, is below this."""
ROUNDING = 1e-15
"""The error of a row's log loss in float64, in nats. A step that changes no row by more leads nowhere."""
VANISHED = 1e-30
"""The objective no longer depends on a parameter whose curvature over the largest one is below this."""
GAUSSIAN_EFFICIENCY = 1.345
"""Huber's threshold in robust standard deviations: 95 % efficient under Gaussian noise."""


@dataclass(frozen=True)
class Objective:
    """A weighted sum over rows of rho(log loss - log law).

    huber: r^2/2 within delta, delta |r| - delta^2/2 beyond. ls: r^2/2. lad: |r|. ls_loss: (1 - exp(-r))^2 / 2, which
    with weights of loss^2 (`row_weights`) is (loss - law)^2 / 2.
    """

    name: str
    delta: float = np.inf
    """Huber's threshold in nats of log loss; infinite for least squares; the smoothing for LAD, see `minimize`."""

    def total(self, residual_SR: np.ndarray, weight_SR: np.ndarray) -> np.ndarray:
        """Returns the objective of each parameter set, [S]."""
        if self.name == "lad":
            return np.sum(weight_SR * np.abs(residual_SR), axis=1)
        return np.sum(weight_SR * self.rho(residual_SR)[0], axis=1)

    def rho(self, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns rho, its first and second derivative, and derivative / residual. LAD is smoothed by `delta`."""
        if self.name == "ls_loss":
            part = -np.expm1(-residual)
            left = 1 - part  # law / loss
            slope = part * left
            by_residual = np.divide(slope, residual, out=np.ones_like(slope), where=residual != 0)
            return part * part / 2, slope, left * (2 * left - 1), by_residual
        if self.name == "lad":
            smooth = np.hypot(residual, self.delta)
            return smooth, residual / smooth, (self.delta / smooth) ** 2 / smooth, 1 / smooth
        with np.errstate(divide="ignore"):
            by_residual = np.minimum(self.delta / np.abs(residual), 1)
        slope = residual * by_residual
        return slope * (residual - slope / 2), slope, (by_residual == 1).astype(float), by_residual


def row_weights(objective: Objective, log_response_R: np.ndarray) -> np.ndarray:
    """Returns the weight of each row in the objective, [R]: 1, but loss^2 for least squares of the loss itself."""
    return np.exp(2 * log_response_R) if objective.name == "ls_loss" else np.ones_like(log_response_R)


def robust_sigma(residual_R: np.ndarray, weight_R: np.ndarray | None = None) -> float:
    """Returns 1.4826 median |r|, the standard deviation of Gaussian residuals. A row of weight 2 counts twice."""
    return 1.4826 * _median(np.abs(residual_R), np.ones(len(residual_R)) if weight_R is None else weight_R)


def adaptive_delta(residual_R: np.ndarray, weight_R: np.ndarray | None = None) -> float:
    """Returns Huber's threshold for these residuals, in nats of log loss. It is above 0 even without any noise."""
    return GAUSSIAN_EFFICIENCY * max(robust_sigma(residual_R, weight_R), 1e-12)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    reach = np.cumsum(weights[order])
    half = reach[-1] / 2
    low = values[order][np.searchsorted(reach, half * (1 - 1e-12))]
    high = values[order][min(np.searchsorted(reach, half * (1 + 1e-12)), len(values) - 1)]
    return float(low + high) / 2


@dataclass(frozen=True)
class Solution:
    """The S results of a minimisation."""

    theta_SP: np.ndarray
    objective_S: np.ndarray
    converged_S: np.ndarray
    """True where the point is stationary, and not a saddle."""

    def take(self, rows: np.ndarray) -> Solution:
        return Solution(self.theta_SP[rows], self.objective_S[rows], self.converged_S[rows])


def minimize(
    bound: Curve,
    log_response: np.ndarray,
    objective: Objective,
    theta_SP: np.ndarray,
    weight_SR: np.ndarray | None = None,
    fixed_SP: np.ndarray | None = None,
    max_steps: int = 300,
    damping: float = FIRST_DAMPING,
) -> Solution:
    """Finds local minima from the starts `theta_SP`.

    LAD is the limit of sqrt(r^2 + delta^2) for delta -> 0. It is followed from delta = the residuals' spread down to
    1e-7 of it, where the error of the objective is smaller than that fraction.

    Args:
      bound: the law at the R points.
      log_response: of the rows, [R], or of the rows under each start, [S, R].
      objective: the function that is minimised.
      theta_SP: the starts.
      weight_SR: weights of the rows, [S, R] or [1, R], of any numeric type. Default: 1.
      fixed_SP: True for parameters that keep their value, [S, P] or [1, P].
      max_steps: the largest number of Newton steps.
      damping: the first damping, in units of the majoriser.
    """
    log_response_SR = np.atleast_2d(log_response)
    weight_SR = np.ones((1, log_response_SR.shape[1])) if weight_SR is None else weight_SR
    if objective.name == "ls_loss":
        weight_SR = weight_SR * row_weights(objective, log_response_SR)
    fixed_SP = np.broadcast_to(np.zeros((1, 1), bool) if fixed_SP is None else fixed_SP, theta_SP.shape)
    task = _Task(bound, log_response_SR, objective, weight_SR, fixed_SP)
    # glibc returns the pages of freed arrays to the system and gets them again for the next arrays, which doubles the
    # time of a fit. After it has freed one large block, it keeps that much.
    np.empty(HEAP_BYTES, np.uint8)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # steps out of a law's domain are refused
        if objective.name == "lad":
            spread = adaptive_delta((log_response_SR - bound.log(theta_SP[:1]))[0], weight_SR[0])
            for shrink in np.geomspace(1, 1e-7, 15)[:-1]:
                smooth = replace(objective, delta=spread * shrink)
                theta_SP = _newton(task._replace(objective=smooth), theta_SP, 40, damping).theta_SP
            task = task._replace(objective=replace(objective, delta=spread * 1e-7))
        return _newton(task, theta_SP, max_steps, damping)


def first_steps(
    bound: Bound, log_response_R: np.ndarray, objective: Objective, theta_P: np.ndarray, weight_SR: np.ndarray
) -> np.ndarray:
    """Returns [S, P] starts near the minima under S weightings, from the minimum `theta_P` without weights.

    They are where Newton's first steps lead, all by two matrix products: the gradient is exact, and of the Hessian only
    the curvature of the law itself, a small part near a minimum, is that without weights. A weighting whose step is
    long, or goes uphill, starts at `theta_P`.
    """
    begin_SP = np.tile(theta_P, (len(weight_SR), 1))
    if objective.name == "lad":
        return begin_SP
    law, R = bound.expand(theta_P[None]), len(log_response_R)
    jacobian_RP = law.jacobian()[0].T
    _, slope_1R, curvature_1R, _ = (
        part * row_weights(objective, log_response_R) for part in objective.rho(log_response_R - law.log_SR)
    )
    first, second = np.triu_indices(len(theta_P))
    outer_RK = curvature_1R[0][:, None] * jacobian_RP[:, first] * jacobian_RP[:, second]
    sums_SK = weight_SR.astype(float) @ np.concatenate([slope_1R[0][:, None] * jacobian_RP, outer_RK], axis=1)
    gradient_SP, more_SK = -sums_SK[:, : len(theta_P)], sums_SK[:, len(theta_P) :] - outer_RK.sum(axis=0)
    hessian_SPP = np.repeat(law.hessian(curvature_1R + slope_1R, -slope_1R), len(weight_SR), axis=0)
    hessian_SPP[:, first, second] += more_SK
    hessian_SPP[:, second, first] = hessian_SPP[:, first, second]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a size that ran to 0 has no curvature
        unit_P = 1 / np.sqrt(np.maximum(np.diag(hessian_SPP[0]) / R, 1e-300))
        step_SP, downhill_S = _solve_positive(hessian_SPP / R * unit_P[:, None] * unit_P, gradient_SP / R * unit_P)
        step_SP *= -unit_P
    near_S = downhill_S & (np.abs(step_SP).max(axis=1) <= LONGEST_FIRST_STEP)
    begin_SP[near_S] += step_SP[near_S]
    return begin_SP


def _newton(task: _Task, theta_SP: np.ndarray, max_steps: int, first_damping: float) -> Solution:
    """Minimises from all S starts, a block at a time. A start that is done makes room for the next one."""
    S = len(theta_SP)
    theta, fixed = theta_SP.copy(), task.fixed_SP
    parts = _Parts.empty(*theta.shape)
    damping, steps, converged = np.full(S, first_damping), np.zeros(S, int), np.zeros(S, bool)
    active, started = np.empty(0, int), 0
    block = min(BLOCK, max(BLOCK_NUMBERS // task.log_response_SR.shape[1], 1))
    while started < S or len(active):
        if started < S and len(active) <= block - max(block // REFILL, 1):
            fresh = np.arange(started, min(started + block - len(active), S))
            started += len(fresh)
            parts.put(fresh, task.around(theta[fresh], fresh))
            active = np.concatenate([active, fresh[parts.is_finite[fresh]]])
            continue
        step, stationary = _step(parts.take(active), damping[active])
        converged[active[stationary]] = True
        active, step = active[~stationary], step[~stationary]
        if not len(active):
            continue
        trial = theta[active] + np.where(fixed[active], 0.0, step)
        then = task.around(trial, active)
        better = then.is_finite & (then.value <= parts.value[active] + parts.rounding[active])
        hit = active[better]
        theta[hit] = trial[better]
        parts.put(hit, then.take(better))
        damping[active] = np.clip(damping[active] * np.where(better, 1 / DAMP_LESS, DAMP_MORE), 1e-15, 1e6)
        steps[active] += 1
        active = active[steps[active] < max_steps]
    converged[converged] = _no_saddle(parts.hessian[converged])
    if task.objective.name == "lad":  # the value so far is the smoothed one
        residual_SR = task.log_response_SR - task.bound.log(theta)
        return Solution(theta, task.objective.total(residual_SR, task.weight_SR), converged)
    return Solution(theta, parts.value, converged)


def _no_saddle(hessian_SPP: np.ndarray) -> np.ndarray:
    lowest = np.linalg.eigvalsh(hessian_SPP)
    return lowest[:, 0] >= -1e-7 * np.abs(lowest).max(axis=1)


@dataclass
class _Parts:
    """The objective at S points: value [S], gradient [S, P], Hessian and its majoriser [S, P, P]."""

    value: np.ndarray
    rounding: np.ndarray
    """[S]: differences of the value below this are rounding, and only the gradient gives the direction."""
    gradient: np.ndarray
    hessian: np.ndarray
    majoriser: np.ndarray
    """J' diag(rho' / r) J, the Hessian of reweighted least squares. It is positive and scaled like the objective. It
    damps the Newton step, and replaces the Hessian where no row is within delta and the Hessian vanishes."""

    @classmethod
    def empty(cls, S: int, P: int) -> _Parts:
        return cls(np.full(S, np.nan), np.empty(S), np.empty((S, P)), np.full((S, P, P), np.nan), np.empty((S, P, P)))

    @property
    def is_finite(self) -> np.ndarray:
        """True where all numbers of a point are finite, [S]."""
        return (
            np.isfinite(self.value)
            & np.isfinite(self.gradient).all(axis=1)
            & np.isfinite(self.hessian).all(axis=(1, 2))
        )

    def take(self, rows: np.ndarray) -> _Parts:
        return _Parts(*(values[rows] for values in vars(self).values()))

    def put(self, rows: np.ndarray, other: _Parts) -> None:
        for name, values in vars(other).items():
            getattr(self, name)[rows] = values


class _Task(NamedTuple):
    """Everything that a minimisation needs but its starts."""

    bound: Curve
    log_response_SR: np.ndarray
    objective: Objective
    weight_SR: np.ndarray
    fixed_SP: np.ndarray

    def around(self, theta_SP: np.ndarray, rows: np.ndarray) -> _Parts:
        """Returns the objective at `theta_SP`, which belong to the starts `rows`."""
        log_response_SR, weight_SR = (x if len(x) == 1 else x[rows] for x in (self.log_response_SR, self.weight_SR))
        fixed_SP = self.fixed_SP[rows]
        law = self.bound.expand(theta_SP)
        rho, slope, curvature, by_residual = self.objective.rho(log_response_SR - law.log_SR)
        for part in (rho, slope, curvature, by_residual):
            part *= weight_SR
        gradient = -law.gradient(slope)
        rounding = ROUNDING * (rho + np.abs(slope)).sum(axis=1)
        curvature += slope
        hessian = law.hessian(curvature, -slope)
        majoriser = law.hessian(by_residual)
        if fixed_SP.any():
            loose = ~fixed_SP
            both = loose[:, :, None] & loose[:, None]
            alone = np.eye(loose.shape[1]) * fixed_SP[:, None]
            gradient = gradient * loose
            hessian, majoriser = np.where(both, hessian, alone), np.where(both, majoriser, alone)
        return _Parts(rho.sum(axis=1), rounding, gradient, hessian, majoriser)


def _step(parts: _Parts, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the damped Newton step [S, P], which goes downhill everywhere, and which points are stationary [S]."""
    # In units of each parameter's own curvature, a floor on its way to 0 keeps its digits next to the other terms.
    # For a vanishing size the curvature in the Hessian is of first order and in the majoriser of second; far below
    # the curvatures of the other parameters both are rounding.
    diagonal = np.diagonal(parts.majoriser, axis1=1, axis2=2)
    own = np.maximum(diagonal, np.abs(np.diagonal(parts.hessian, axis1=1, axis2=2)))
    own = np.maximum(own, np.maximum(VANISHED * own.max(axis=1, keepdims=True), 1e-300))
    unit = 1 / np.sqrt(own)
    units = unit[:, :, None] * unit[:, None]
    hessian, gradient = parts.hessian * units, parts.gradient * unit
    undamped, positive = _solve_positive(hessian, gradient)
    if not positive.all():
        bent = ~positive
        hessian[bent], undamped[bent] = _turned_upwards(hessian[bent], gradient[bent])
    decrement = 0.5 * np.sum(undamped * gradient, axis=1)
    unresolved = DECREMENT_TOLERANCE * parts.value + ROUNDING**2 * diagonal.sum(axis=1)
    stationary = (decrement <= unresolved) | (np.abs(unit * undamped).max(axis=1) <= STEP_TOLERANCE)
    damper = parts.majoriser * units + (1 + 1e-9 - diagonal * unit**2)[:, None] * np.eye(unit.shape[1])
    damped = hessian + damping[:, None, None] * damper
    step = -unit * np.linalg.solve(damped, gradient[..., None])[..., 0]
    return step / np.maximum(np.abs(step).max(axis=1, keepdims=True) / LONGEST_STEP, 1), stationary


def _solve_positive(matrix_SPP: np.ndarray, right_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns matrix^-1 right [S, P], and where the matrix is safely positive definite [S], which it must be.

    It eliminates over all S together and looks at the pivots: numpy's Cholesky would stop at the first bad matrix.
    """
    S, P = right_SP.shape
    rows = np.concatenate([matrix_SPP, right_SP[..., None]], axis=2)
    positive = np.ones(S, bool)
    for p in range(P):
        positive &= rows[:, p, p] > 1e-12
        rows[:, p] /= rows[:, p, p, None].copy()
        factor = rows[:, :, p].copy()
        factor[:, p] = 0
        rows -= factor[:, :, None] * rows[:, None, p]
    return rows[:, :, P], positive


def _turned_upwards(matrix_SPP: np.ndarray, right_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix with the absolute values of its eigenvalues [S, P, P], and its inverse times right [S, P]."""
    eigenvalues, vectors = np.linalg.eigh(matrix_SPP)
    bend = np.maximum(np.abs(eigenvalues), 1e-14 * np.maximum(np.abs(eigenvalues).max(axis=1, keepdims=True), 1))
    along = np.einsum("SPQ,SP->SQ", vectors, right_SP)
    solution = np.einsum("SPQ,SQ->SP", vectors, along / bend)
    return (vectors * bend[:, None]) @ np.swapaxes(vectors, 1, 2), solution
