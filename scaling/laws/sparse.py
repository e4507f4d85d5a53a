"""A law of size, data and sparsity: the size term has a part that falls with the density of the parameters.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.size_and_data import A_N, B_D
from scaling.laws.terms import EXPONENT_LIMITS, Covariates, Derivatives, Natural, Points, Term, exp_capped


@dataclass(frozen=True)
class DensePower(Term):
    """size * density^rise * N^-exponent."""

    size: str
    rise: str
    exponent: str

    @property
    def axes(self) -> tuple[str, ...]:
        return ("s", "n")

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        return {self.size: (self.rise,)}  # the exponent belongs to the size term too

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.rise: EXPONENT_LIMITS, self.exponent: EXPONENT_LIMITS}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        log_density = np.log(points["s"] / centre["s"])
        return np.ones_like(log_density), log_density, -np.log(points["n"] / centre["n"])

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return theta_Sk[:, :1] + theta_Sk[:, 1:2] * at[1] + theta_Sk[:, 2:] * at[2]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        return Derivatives(self.log(theta_Sk, at), at)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        rise, exponent = theta[self.rise], theta[self.exponent]
        shift = exponent * np.log(centre["n"]) - rise * np.log(centre["s"])
        return {self.size: exp_capped(theta[self.size] + shift), self.rise: rise, self.exponent: exponent}


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    exponents = np.geomspace(0.05, 1.5, 8)
    return {"alpha": exponents, "beta": exponents, "rho": np.array([0.2, 0.5, 1.0, 2.0])}


register_law(
    Law(
        name="sparse",
        formula="L = E + (A + A_s s^rho) / N^alpha + B / D^beta",
        terms=(A_N, DensePower("A_s", "rho", "alpha"), B_D, FLOOR),
        source="Frantar et al. 2023 (2309.08520), eq. 1, with s = 1 - S and B = a_D^b_D",
        assumptions=(
            "N counts the parameters that are not zero or active, s is their part of all parameters. The paper prunes "
            "weights; that the law holds for the experts of a mixture is not its claim."
        ),
        shapes=_shapes,
    )
)
