"""A law of size and data whose data exponent depends on the size, as Farseer's does.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.size_and_data import A_N
from scaling.laws.terms import Covariates, Derivatives, Natural, Points, Term, columns, exp_capped

POWER_LIMITS = (-5.0, 5.0)


@dataclass(frozen=True)
class DataPower(Term):
    """size * N^-fall * D^-(exponent * N^growth), with the size and the log of the exponent taken at the centre."""

    size: str
    fall: str
    exponent: str
    growth: str

    @property
    def axes(self) -> tuple[str, ...]:
        return ("n", "d")

    @property
    def logs(self) -> tuple[str, ...]:
        return (self.exponent,)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.fall: POWER_LIMITS, self.exponent: (np.log(1e-4), np.log(5.0)), self.growth: POWER_LIMITS}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        log_d = np.log(points["d"])
        return np.log(points["n"] / centre["n"]), log_d, np.full_like(log_d, np.log(centre["d"]))

    def _parts(self, theta_Sk: np.ndarray, at: Covariates) -> tuple[np.ndarray, ...]:
        """Returns the log of the term, exponent * log D at the row's N, and the same less its value at the centre."""
        s, fall, log_exponent, growth = columns(theta_Sk)
        exponent = np.exp(log_exponent)
        steep = exponent * np.exp(growth * at[0]) * at[1]
        drop = steep - exponent * at[2]
        return s - fall * at[0] - drop, steep, drop

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return self._parts(theta_Sk, at)[0]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        log_SR, steep, drop = self._parts(theta_Sk, at)
        x = at[0]
        slopes = (np.ones_like(x), -x, -drop, -x * steep)
        return Derivatives(log_SR, slopes, {(2, 2): -drop, (2, 3): -x * steep, (3, 3): -(x**2) * steep})

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        n, d = np.log(centre["n"]), np.log(centre["d"])
        fall, growth = theta[self.fall], theta[self.growth]
        return {
            self.size: exp_capped(theta[self.size] + fall * n + np.exp(theta[self.exponent]) * d),
            self.fall: fall,
            self.exponent: exp_capped(theta[self.exponent] - growth * n),
            self.growth: growth,
        }


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    return {
        "alpha": np.geomspace(0.05, 1.5, 6),
        "kappa": np.array([-0.2, 0.0, 0.2]),
        "beta": np.log(np.geomspace(0.05, 1.5, 6)),
        "delta": np.array([-0.1, 0.0, 0.1]),
    }


register_law(
    Law(
        name="data_exponent",
        formula="L = E + A / N^alpha + B / (N^kappa D^(beta N^delta))",
        terms=(A_N, DataPower("B", "kappa", "beta", "delta"), FLOOR),
        source=(
            "after Li et al. 2025 (2506.10972, Farseer): exp(a3 N^g3 + b3) + exp(a2 N^g2 + b2) D^-exp(a1 N^g1 + b1). "
            "This form is not theirs: it has powers of N, the limit of exp(a N^g + b) for small g, and a floor"
        ),
        assumptions="Larger models learn from data at another rate. The form depends on the unit of D.",
        shapes=_shapes,
    )
)
