"""A power of the data with a plateau at either end: a shift of D for little data, and a floor for much.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.terms import EXPONENT_LIMITS, Covariates, Derivatives, Natural, Points, Term, columns, exp_capped


@dataclass(frozen=True)
class ShiftedPower(Term):
    """size * (x + shift)^-exponent: flat far below `shift`. Theta has the log of shift / centre."""

    size: str
    exponent: str
    shift: str
    axis: str

    @property
    def logs(self) -> tuple[str, ...]:
        return (self.shift,)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.exponent: EXPONENT_LIMITS, self.shift: (-25.0, 25.0)}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (np.log(points[self.axis] / centre[self.axis]),)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        a, beta, s = columns(theta_Sk)
        return a - beta * np.logaddexp(at[0], s)

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        a, beta, s = columns(theta_Sk)
        y = np.logaddexp(at[0], s)
        p = np.exp(s - y)
        return Derivatives(
            a - beta * y, (np.ones_like(at[0]), -y, -beta * p), {(1, 2): -p, (2, 2): -beta * p * (1 - p)}
        )

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        x, exponent = np.log(centre[self.axis]), theta[self.exponent]
        return {
            self.size: exp_capped(theta[self.size] + exponent * x),
            self.exponent: exponent,
            self.shift: exp_capped(theta[self.shift] + x),
        }


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    log_d_R = np.log(points["d"] / centre["d"])
    return {
        "beta": np.geomspace(0.05, 3.0, 12),
        "D_0": np.linspace(log_d_R.min() - 3, log_d_R.max(), 6),
    }


register_law(
    Law(
        name="shifted",
        formula="L = E + A / (D + D_0)^beta",
        terms=(ShiftedPower("A", "beta", "D_0", "d"), FLOOR),
        source="Zhai et al. 2021 (2106.04560), section 2.2, E = a + b (C + c)^-d, here of D",
        assumptions="Below D_0 more data hardly help: a plateau at little data, a power law after it, a floor at much.",
        shapes=_shapes,
        distinct_to_spare=2,  # there must be points on the plateau and after it
    )
)
