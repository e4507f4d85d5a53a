"""One law on one table as a minimisation: its minima from many starts, its bootstrap, its parameters' bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling import laws
from scaling.errors import Refusal
from scaling.laws import Design, Law
from scaling.minimize import Objective, Solution, adaptive_delta, minimize, starts
from scaling.table import RunTable

SCREEN_STEPS = 15
SCREEN_KEEPS = 96
BOOTSTRAP_STARTS = 3
EXPONENT_LIMIT = 5.0
"""Steeper than this a term has vanished after the first step of a design: the data do not bound its exponent."""
NEGLIGIBLE_SHARE = 1e-6
"""A term that is nowhere more than this share of the loss has run to size 0."""


@dataclass(frozen=True)
class Problem:
    """What is minimised: everything but the objective's delta and the rows' weights."""

    law: Law
    free: tuple[str, ...]
    """The P parameters in theta's order."""
    design: Design
    loss: np.ndarray

    @classmethod
    def of(cls, table: RunTable, law: Law, centre: dict[str, float], known_floor: float | None) -> Problem:
        points = {axis: getattr(table, axis) for axis in law.axes}
        return cls(law, law.free_params(known_floor), laws.design(law, points, centre, known_floor), table.loss)

    def residual(self, theta_P: np.ndarray) -> np.ndarray:
        """log loss - log law, [R]."""
        return np.log(self.loss) - self.design.log_loss(theta_P[None])[0]

    def minima(self, objective: Objective) -> Solution:
        """The distinct minima from many starts, the lowest first. Raises Refusal if no start converged."""
        screen = Objective("ls") if objective.name == "lad" else objective
        begin = starts(self.design, self.loss, len(self.law.axes))
        screened = minimize(self.design, np.log(self.loss), screen, begin, max_steps=SCREEN_STEPS)
        best = np.argsort(screened.objective_S)[:SCREEN_KEEPS]
        found = minimize(self.design, np.log(self.loss), objective, screened.theta_SP[best])
        found = found.take(found.converged_S)
        if not len(found.objective_S):
            raise Refusal(
                f"no start of {self.law.name} converged to a minimum: the runs do not determine it. "
                "Fit a law with fewer parameters, or add runs."
            )
        return self._distinct(found)

    def _distinct(self, found: Solution) -> Solution:
        found = found.take(np.argsort(found.objective_S, kind="stable"))
        curves = self.design.log_loss(found.theta_SP)
        kept: list[int] = []
        for i in range(len(curves)):
            # by their curves: parameters of a vanished term differ without meaning
            if all(np.abs(curves[i] - curves[j]).max() > 1e-6 for j in kept):
                kept.append(i)
        return found.take(np.array(kept))

    def adaptive(self) -> tuple[Objective, bool]:
        """Huber with delta refreshed to the fixed point of its own residuals, and whether that was reached."""
        objective = Objective("ls")
        minima = self.minima(objective)
        for _ in range(50):
            delta = adaptive_delta(self.residual(minima.theta_SP[0]))
            settled = abs(delta - objective.delta) <= 1e-9 * delta
            objective = Objective("huber", delta)
            if settled:
                return objective, True
            refreshed = minimize(self.design, np.log(self.loss), objective, minima.theta_SP)
            minima = self._distinct(refreshed)
        return objective, False

    def bootstrap(
        self, objective: Objective, minima: Solution, cluster: np.ndarray, draws: int, seed: tuple[int, ...]
    ) -> np.ndarray:
        """[S, P] minima of `draws` resamplings of whole clusters (as weights), each the lowest from a few starts.

        The starts are the lowest minima of the full table. Draws that did not converge are left out, so S may be less
        than `draws`.
        """
        if not draws:
            return np.empty((0, len(self.free)))
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        _, member = np.unique(cluster, return_inverse=True)
        clusters = member.max() + 1
        weight_SR = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)[:, member].astype(float)
        runs = [
            minimize(self.design, np.log(self.loss), objective, np.tile(theta, (draws, 1)), weight_SR)
            for theta in minima.theta_SP[:BOOTSTRAP_STARTS]
        ]
        value = np.array([np.where(run.converged_S, run.objective_S, np.inf) for run in runs])
        best = np.argmin(value, axis=0)
        theta_SP = np.array([run.theta_SP for run in runs])[best, np.arange(draws)]
        return theta_SP[np.isfinite(value.min(axis=0))]

    def at_bound(self, theta_SP: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{parameter: ([S] ran to its lower end, [S] ran to its upper end)} of the free parameters."""
        _, share_STR = self.design.shares(theta_SP)
        ends = {}
        for t, term in enumerate(self.law.terms):
            gone = share_STR[:, t].max(axis=1) < NEGLIGIBLE_SHARE
            steep = np.zeros(len(theta_SP), bool)
            if term.exponent:
                steep = theta_SP[:, self.free.index(term.exponent)] > EXPONENT_LIMIT
                ends[term.exponent] = (gone, gone | steep)
            if term.size in self.free:
                ends[term.size] = (gone, steep)
        return ends


def geometric_centre(table: RunTable, law: Law) -> dict[str, float]:
    """Geometric mean of the data on each of the law's axes."""
    return {axis: float(np.exp(np.log(getattr(table, axis)).mean())) for axis in law.axes}


def predict_band(
    law: Law,
    points: dict[str, np.ndarray],
    centre: dict[str, float],
    known_floor: float | None,
    theta_P: np.ndarray,
    cloud_SP: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The law's loss at R `points`, and the 95 % band of the bootstrap's cloud: 3 x [R]; NaN without a cloud."""
    design = laws.design(law, points, centre, known_floor)
    value = np.exp(design.log_loss(theta_P[None])[0])
    if not len(cloud_SP):
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    low, high = np.percentile(np.exp(design.log_loss(cloud_SP)), [2.5, 97.5], axis=0)
    return value, low, high
