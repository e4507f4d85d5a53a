"""Single runs that decide a fit: those far off the law, and the one whose absence moves an exponent most.

Letters: R rows, C candidates, P parameters, K exponents and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.minimize import Objective, robust_sigma, row_weights
from scaling.fitting.problem import Problem
from scaling.fitting.profile import local_errors, noise_scale
from scaling.fitting.sensitivity import Variant, variant
from scaling.fitting.trend import EXACT
from scaling.laws.registry import natural
from scaling.table import checks
from scaling.table.run_table import RunTable

FAR = 8.0
"""A run is far off the law beyond this many robust standard deviations."""
MOST_FAR = 0.1
"""If a larger part of the runs is far off, they are no outliers: the law does not hold."""
CANDIDATES = 64
"""Only this many runs, those of largest pull, are left out one by one."""
MOVES = 3.0
"""A single run decides the fit if an exponent moves by more standard errors without it."""


@dataclass(frozen=True)
class Influence:
    """The same law without certain runs."""

    runs: tuple[str, ...]
    deviations: tuple[float, float] | None
    """The smallest and the largest distance of runs that are far off, in robust standard deviations of the others'
    residuals. None for a run that is left out only because it moves an exponent."""
    exponent: str
    """The exponent or shape that moves most, in standard errors."""
    value: float
    """That exponent with all runs."""
    without: float
    """The same without those runs."""

    @property
    def sentence(self) -> str:
        is_one = len(self.runs) == 1
        named = self.runs[0] if is_one else f"{len(self.runs)} runs"
        change = f"{self.exponent} is {self.value:.3g} with {'it' if is_one else 'them'} and {self.without:.3g} without"
        if self.deviations is None:
            return f"{named} alone decides the fit: {change}"
        low, high = (f"{x:.2g}" for x in self.deviations)
        off = low if low == high else f"{low} to {high}"
        return f"{named} {'is' if is_one else 'are'} {off} robust standard deviations off the law: {change}"


def influences(
    table: RunTable, problem: Problem, objective: Objective, theta_P: np.ndarray
) -> tuple[tuple[Influence, Variant], ...]:
    """Fits without the runs that are far off, and without the one run that moves an exponent most.

    Either is missing where there are no such runs, or where the others cannot carry the law.
    """
    shapes_K = np.array([p for p, name in enumerate(problem.free) if name not in problem.law.sizes])
    residual_R = problem.residual(theta_P)
    if not len(shapes_K) or np.abs(residual_R).max() < EXACT:
        return ()
    weight_R = row_weights(objective, np.log(problem.response))
    scale = noise_scale(objective, residual_R, table.cluster, len(theta_P), weight_R)
    error_K = local_errors(problem, theta_P, scale)[0][shapes_K]
    fitted = _Fitted(table, problem, objective, theta_P, shapes_K, error_K)
    far_R, deviation_R = fitted.far()
    strongest_R = fitted.strongest()
    sets: list[tuple[np.ndarray, tuple[float, float] | None]] = []
    if far_R.any():
        sets.append((far_R, (float(deviation_R[far_R].min()), float(deviation_R[far_R].max()))))
    if strongest_R is not None and not (strongest_R & far_R).any():
        sets.append((strongest_R, None))
    return tuple(one for rows_R, off in sets if (one := fitted.without(rows_R, off)) is not None)


@dataclass(frozen=True)
class _Fitted:
    """A fit, and the places and standard errors of its exponents in theta."""

    table: RunTable
    problem: Problem
    objective: Objective
    theta_P: np.ndarray
    shapes_K: np.ndarray
    error_K: np.ndarray

    def far(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns [R] which runs are far off the law that is fitted without them, and [R] every run's distance."""
        theta_P, far_R = self.theta_P, np.zeros(len(self.table), bool)
        while True:
            residual_R = self.problem.residual(theta_P)
            deviation_R = np.abs(residual_R) / max(robust_sigma(residual_R[~far_R]), EXACT)
            again_R = far_R | (deviation_R > FAR)
            if again_R.sum() > MOST_FAR * len(again_R):
                return np.zeros_like(far_R), deviation_R
            if (again_R == far_R).all():
                return far_R, deviation_R
            far_R = again_R
            kept_SR = (~far_R)[None].astype(float)
            theta_P = self.problem.minimize(self.objective, theta_P[None], weight_SR=kept_SR).theta_SP[0]

    def strongest(self) -> np.ndarray | None:
        """Returns [R] the rows of the run without which an exponent moves most, if that is more than MOVES errors."""
        cluster = self.table.cluster
        cluster_C = np.unique(cluster[np.argsort(-self._pull())[:CANDIDATES]])
        weight_CR = (cluster != cluster_C[:, None]).astype(float)
        begin_CP = np.tile(self.theta_P, (len(cluster_C), 1))
        refit = self.problem.minimize(self.objective, begin_CP, weight_SR=weight_CR)
        moved_C = (np.abs(refit.theta_SP - self.theta_P)[:, self.shapes_K] / self.error_K).max(axis=1)
        moved_C[~refit.converged_S] = 0
        at = int(np.argmax(moved_C))
        return cluster == cluster_C[at] if moved_C[at] > MOVES else None

    def _pull(self) -> np.ndarray:
        """Returns [R]: how far an exponent moves without the row, to first order (DFBETAS, Belsley et al. 1980)."""
        J_RP = self.problem.bound.expand(self.theta_P[None]).jacobian()[0].T
        step_RP = J_RP @ np.linalg.pinv(J_RP.T @ J_RP, hermitian=True)
        leverage_R = np.minimum((step_RP * J_RP).sum(axis=1), 1 - 1e-6)
        left_out_R = np.abs(self.problem.residual(self.theta_P)) / (1 - leverage_R)
        return left_out_R * (np.abs(step_RP[:, self.shapes_K]) / self.error_K).max(axis=1)

    def without(self, rows_R: np.ndarray, deviations: tuple[float, float] | None) -> tuple[Influence, Variant] | None:
        rest, problem = self.table.take(~rows_R), self.problem
        runs = tuple(name for name, out in zip(self.table.row_id, rows_R, strict=True) if out)
        name = f"without {runs[0]}" if len(runs) == 1 else f"without {len(runs)} runs"
        try:
            checks.refuse(rest, problem.law, problem.known_floor)
            found = variant(name, Problem.of(rest, problem.law, problem.known_floor), self.objective)
        except Refusal:
            return None
        before = natural(problem.law, self.theta_P[None], problem.centre, problem.known_floor)
        names = [problem.free[k] for k in self.shapes_K]
        moved_K = [abs(found.params[name] - before[name][0]) for name in names] / self.error_K
        exponent = names[int(np.argmax(moved_K))]
        return Influence(runs, deviations, exponent, float(before[exponent][0]), found.params[exponent]), found
