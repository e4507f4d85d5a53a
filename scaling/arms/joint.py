"""Several arms with one form of law: a curve over the rows of all of them, whose parameters are shared or separate.

Letters: G arms, S parameter sets, R rows of all arms, P parameters of the joint theta.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.errors import Refusal
from scaling.fitting import progress
from scaling.fitting.minimize import CLOSE_DAMPING, Objective, minimize
from scaling.fitting.problem import Problem, in_blocks
from scaling.laws.registry import Bound, Sums
from scaling.table.run_table import RunTable


@dataclass(frozen=True)
class Arm:
    """The rows of one arm, with the law at them. All arms have the same centre, so that their sizes can be compared."""

    name: str
    table: RunTable
    problem: Problem


@dataclass(frozen=True)
class JointCurve:
    """The curves of the arms, one after the other."""

    bounds: tuple[Bound, ...]
    index_G: tuple[tuple[int, ...], ...]
    """The places in the joint theta of each arm's parameters. Arms have the place of a shared parameter in common."""
    rows_G: tuple[slice, ...]
    params: int

    def log(self, theta_SP: np.ndarray) -> np.ndarray:
        """Returns [S, R]."""
        parts = zip(self.bounds, self.index_G, strict=True)
        return np.concatenate([bound.log(theta_SP[:, list(index)]) for bound, index in parts], axis=1)

    def expand(self, theta_SP: np.ndarray) -> JointSums:
        parts = zip(self.bounds, self.index_G, strict=True)
        return JointSums(self, tuple(bound.expand(theta_SP[:, list(index)]) for bound, index in parts))


@dataclass(frozen=True)
class JointSums:
    """The sums over rows of each arm, added where a parameter is shared."""

    curve: JointCurve
    parts: tuple[Sums, ...]

    @property
    def log_SR(self) -> np.ndarray:
        return np.concatenate([part.log_SR for part in self.parts], axis=1)

    def gradient(self, weight_SR: np.ndarray) -> np.ndarray:
        total_SP = np.zeros((len(weight_SR), self.curve.params))
        for part, index, rows in zip(self.parts, self.curve.index_G, self.curve.rows_G, strict=True):
            total_SP[:, list(index)] += part.gradient(weight_SR[:, rows])
        return total_SP

    def hessian(self, outer_SR: np.ndarray | None, bend_SR: np.ndarray | None = None) -> np.ndarray:
        P = self.curve.params
        total_SPP = np.zeros((len(self.log_SR), P, P))
        for part, index, rows in zip(self.parts, self.curve.index_G, self.curve.rows_G, strict=True):
            weights = (None if weight is None else weight[:, rows] for weight in (outer_SR, bend_SR))
            total_SPP[:, np.array(index)[:, None], np.array(index)] += part.hessian(*weights)
        return total_SPP


@dataclass(frozen=True)
class JointProblem:
    """The fit of all arms as one minimisation."""

    arms: tuple[Arm, ...]
    shared: tuple[str, ...]
    """The parameters that all arms have in common."""
    curve: JointCurve
    log_response_R: np.ndarray

    @classmethod
    def of(cls, arms: Sequence[Arm], shared: Sequence[str]) -> JointProblem:
        """Returns the problem with the parameters `shared` in common and all others separate."""
        place: dict[tuple[str, str], int] = {}
        index_G = tuple(
            tuple(place.setdefault((name, "" if name in shared else arm.name), len(place)) for name in arm.problem.free)
            for arm in arms
        )
        ends = np.cumsum([0, *(len(arm.table) for arm in arms)]).tolist()
        rows_G = tuple(slice(low, high) for low, high in itertools.pairwise(ends))
        curve = JointCurve(tuple(arm.problem.bound for arm in arms), index_G, rows_G, len(place))
        log_response_R = np.log(np.concatenate([arm.problem.response for arm in arms]))
        return cls(tuple(arms), tuple(shared), curve, log_response_R)

    def lowest(self, objective: Objective, own_GP: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        """Returns the joint theta [P] of the lowest minimum, and its objective.

        Args:
          objective: the function that is minimised.
          own_GP: the theta of each arm fitted alone. The shared parameters start from their mean and from each arm's.

        Raises Refusal if no start converged.
        """
        count_P = np.zeros(self.curve.params)
        mean_P = np.zeros(self.curve.params)
        for theta, index in zip(own_GP, self.curve.index_G, strict=True):
            mean_P[list(index)] += theta
            count_P[list(index)] += 1
        begin = [mean_P / count_P]
        for first in range(len(own_GP)):
            theta_P = np.zeros(self.curve.params)
            for g in [*(g for g in range(len(own_GP)) if g != first), first]:
                theta_P[list(self.curve.index_G[g])] = own_GP[g]
            begin.append(theta_P)
        found = minimize(self.curve, self.log_response_R, objective, np.stack(begin))
        value_S = np.where(found.converged_S, found.objective_S, np.inf)
        at = int(np.argmin(value_S))
        if not np.isfinite(value_S[at]):
            shares = f" with {' and '.join(self.shared)} in common" if self.shared else ""
            raise Refusal(f"the fit of all arms{shares} did not converge: share less, or fit a law of fewer parameters")
        return found.theta_SP[at], float(value_S[at])

    def bootstrap(self, objective: Objective, theta_P: np.ndarray, weight_SR: np.ndarray) -> np.ndarray:
        """Returns the minimum under each of the weightings, [S, P], without those that did not converge."""
        found, done = [], 0
        for some_SR in in_blocks(weight_SR, len(self.log_response_R)):
            progress.step(f"all arms: {done} of {len(weight_SR)} bootstrap draws")
            begin_SP = np.tile(theta_P, (len(some_SR), 1))
            draws = minimize(
                self.curve, self.log_response_R, objective, begin_SP, weight_SR=some_SR, damping=CLOSE_DAMPING
            )
            found.append(draws.theta_SP[draws.converged_S])
            done += len(some_SR)
        return np.concatenate(found) if found else np.empty((0, len(theta_P)))
