"""A law that lives outside the library, as a user would write it: L = E + A / log(D)^beta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import FLOOR, Law
from scaling.laws.terms import Covariates, Derivatives, Natural, Points, Term


@dataclass(frozen=True)
class LogPower(Term):
    """A / log(D)^beta. It is linear in its two parameters, so that it has no curvature."""

    size: str = "A"
    exponent: str = "beta"
    axis: str = "d"

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        fall = np.log(np.log(centre["d"])) - np.log(np.log(points["d"]))
        return np.ones_like(fall), fall

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return theta_Sk[:, :1] + theta_Sk[:, 1:] * at[1]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        return Derivatives(self.log(theta_Sk, at), at)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        size = np.exp(theta["A"] + theta["beta"] * np.log(np.log(centre["d"])))
        return {"A": size, "beta": theta["beta"]}


LOG_LAW = Law(
    name="log_power",
    formula="L = E + A / log(D)^beta",
    terms=(LogPower(), FLOOR),
    source="a test",
    assumptions="The loss falls with the logarithm of the data.",
    family="data",
)
