"""A metric that is at chance without skill: a sigmoid of the loss between two levels, neither of them above 1.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import Law, register_law
from scaling.laws.terms import Covariates, Derivatives, Natural, Points, Term, columns, logistic

LOGIT_LIMIT = 25.0
"""A level closer to 0 or 1 than exp(-25) is there."""


@dataclass(frozen=True)
class ChanceSigmoid(Term):
    """chance + (1 - chance) skill / (1 + exp(steepness (x - midpoint))). Theta has logits of `chance` and `skill`.

    As x grows it falls from chance + (1 - chance) skill, which is below 1 for every theta, to chance.
    """

    chance: str
    skill: str
    steepness: str
    midpoint: str
    axis: str

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        return {}

    @property
    def logits(self) -> tuple[str, ...]:
        return (self.chance, self.skill)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        ends = (-LOGIT_LIMIT, LOGIT_LIMIT)
        return {self.chance: ends, self.skill: ends, self.steepness: (0.0, np.inf)}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (points[self.axis] - centre[self.axis],)

    def _parts(self, theta_Sk: np.ndarray, at: Covariates) -> tuple[np.ndarray, ...]:
        """Returns (chance, skill, steepness, x - midpoint, the share of the skill that is left, the metric)."""
        u, t, k, mid = columns(theta_Sk)
        c, h, far = logistic(u), logistic(t), at[0] - mid
        q = logistic(-k * far)
        return c, h, k, far, q, c + (1 - c) * h * q

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return np.log(self._parts(theta_Sk, at)[-1])

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        c, h, k, far, q, m = self._parts(theta_Sk, at)
        dc, dh, dq = c * (1 - c), h * (1 - h), -q * (1 - q)
        # slopes of the metric in (logit of chance, logit of skill, z = steepness * far), and their slopes
        by = (dc * (1 - h * q), (1 - c) * dh * q, (1 - c) * h * dq)
        bend = {
            (0, 0): by[0] * (1 - 2 * c), (0, 1): -dc * dh * q, (0, 2): -dc * h * dq,
            (1, 1): by[1] * (1 - 2 * h), (1, 2): (1 - c) * dh * dq, (2, 2): by[2] * (2 * q - 1),
        }  # fmt: skip
        f = [slope / m for slope in by]
        g = {(i, j): value / m - f[i] * f[j] for (i, j), value in bend.items()}
        slopes = (f[0], f[1], f[2] * far, -f[2] * k)
        curvature = {
            (0, 0): g[0, 0], (0, 1): g[0, 1], (0, 2): g[0, 2] * far, (0, 3): -g[0, 2] * k,
            (1, 1): g[1, 1], (1, 2): g[1, 2] * far, (1, 3): -g[1, 2] * k,
            (2, 2): g[2, 2] * far**2, (2, 3): -g[2, 2] * far * k - f[2], (3, 3): g[2, 2] * k**2,
        }  # fmt: skip
        return Derivatives(np.log(m), slopes, curvature)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        return {
            self.chance: logistic(theta[self.chance]),
            self.skill: logistic(theta[self.skill]),
            self.steepness: theta[self.steepness],
            self.midpoint: theta[self.midpoint] + centre[self.axis],
        }


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    loss_R = points["l"]
    reach = np.ptp(loss_R)
    return {
        "M_0": np.array([-4.0, -2.0, -1.0, 0.0]),
        "S": np.array([-1.0, 1.0, 4.0]),
        "k": np.geomspace(0.3, 30, 8) / reach,
        "L_0": np.linspace(loss_R.min() - reach / 2, loss_R.max() + reach / 2, 7) - centre["l"],
    }


register_law(
    Law(
        name="metric_chance",
        formula="M = M_0 + (1 - M_0) S / (1 + exp(k (L - L_0)))",
        terms=(ChanceSigmoid("M_0", "S", "k", "L_0", "l"),),
        source="Bhagia et al. 2024 (2412.04403), eq. 3: b = M_0, a = (1 - M_0) S, so that a + b is at most 1",
        assumptions="The metric is a function of the loss alone; M_0 is its value without any skill, such as a guess.",
        response="metric",
        shapes=_shapes,
    )
)
