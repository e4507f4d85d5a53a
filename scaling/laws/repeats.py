"""The law of repeated data and its terms (Muennighoff et al. 2023, 2305.16264, eqs. 5 to 7): a repetition counts less.

D data with U unique are worth D' = U + U R* (1 - exp(-R / R*)) with R = D / U - 1 repetitions. R* is the number of
repetitions after which more are worth little. Size beyond what is best for U decays in the same way, with its own R*.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.terms import EXPONENT_LIMITS, Covariates, Derivatives, Natural, Points, Term, columns, exp_capped

LOG_DECAY_LIMITS = (np.log(1e-2), np.log(1e4))
"""Limits of log R*: below, a repetition counts nothing; above, it counts in full."""
REPEATS = np.log([1.0, 5.0, 20.0])


def log_gain(repeats: np.ndarray, log_decay: np.ndarray) -> np.ndarray:
    """Returns log(D' / U), for R `repeats` and log R*."""
    decay = np.exp(log_decay)
    return np.log1p(-decay * np.expm1(-repeats / decay))


def log_gain_derivatives(repeats: np.ndarray, log_decay: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the derivatives (m_R, m_r, m_RR, m_Rr, m_rr) of m = log_gain(R, r)."""
    decay = np.exp(log_decay)
    left = np.exp(-repeats / decay)
    gain = 1 + decay * (1 - left)
    by_r = decay * (1 - left) - repeats * left
    m_R, m_r = left / gain, by_r / gain
    m_RR = -left / decay / gain - m_R**2
    m_Rr = repeats * left / decay / gain - m_R * m_r
    m_rr = (by_r - repeats**2 * left / decay) / gain - m_r**2
    return m_R, m_r, m_RR, m_Rr, m_rr


def _unique(points: Points) -> np.ndarray:
    """The distinct data, which are at most D in less than one epoch."""
    return np.minimum(points["u"], points["d"])


@dataclass(frozen=True)
class _Decaying(Term):
    """A power whose base counts repetitions less and less. Its size is taken at the centre of its first axis."""

    size: str
    exponent: str
    decay: str

    @property
    def logs(self) -> tuple[str, ...]:
        return (self.decay,)

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        return {self.size: (self.exponent, self.decay)}

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.exponent: EXPONENT_LIMITS, self.decay: LOG_DECAY_LIMITS}

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        exponent = theta[self.exponent]
        return {
            self.size: exp_capped(theta[self.size] + exponent * np.log(centre[self.axes[0]])),
            self.exponent: exponent,
            self.decay: exp_capped(theta[self.decay]),
        }


@dataclass(frozen=True)
class RepeatedData(_Decaying):
    """B / D'^beta. Its params are (size, exponent, decay = log R_D*), its axes d (seen) and u (unique)."""

    @property
    def axes(self) -> tuple[str, ...]:
        return ("d", "u")

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        unique = _unique(points)
        return np.log(unique / centre["d"]), points["d"] / unique - 1

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        b, beta, r = columns(theta_Sk)
        return b - beta * (at[0] + log_gain(at[1], r))

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        _, beta, r = columns(theta_Sk)
        _, m_r, _, _, m_rr = log_gain_derivatives(at[1], r)
        slopes = (np.ones_like(at[0]), -at[0] - log_gain(at[1], r), -beta * m_r)
        return Derivatives(self.log(theta_Sk, at), slopes, {(1, 2): -m_r, (2, 2): -beta * m_rr})


@dataclass(frozen=True)
class ExcessSize(_Decaying):
    """A / N'^alpha. Its params are (size, exponent, data's size, data's exponent, decay = log R_N*), its axes n, u, d.

    N' counts the part of N above the compute-optimal size for the unique data, alpha A / N^alpha = beta B / U^beta, as
    repetitions of that size. This is why the term has the parameters of the data's term too.
    """

    data_size: str
    data_exponent: str

    @property
    def params(self) -> tuple[str, ...]:
        return (self.size, self.exponent, self.data_size, self.data_exponent, self.decay)

    @property
    def axes(self) -> tuple[str, ...]:
        return ("n", "u", "d")

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return np.log(points["n"] / centre["n"]), np.log(_unique(points) / centre["d"])

    def _best(self, theta_Sk: np.ndarray, at: Covariates) -> tuple[np.ndarray, np.ndarray]:
        """Returns log(best N for the unique data / centre), and the repetitions of it in N (0 where N is below it)."""
        a, alpha, b, beta, _ = columns(theta_Sk)
        alpha, beta = np.where(alpha > 0, alpha, np.nan), np.where(beta > 0, beta, np.nan)
        best = (np.log(alpha) + a - np.log(beta) - b + beta * at[1]) / alpha
        return best, np.expm1(np.clip(at[0] - best, 0, 500))

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        a, alpha, _, _, r = columns(theta_Sk)
        best, repeats = self._best(theta_Sk, at)
        return a - alpha * np.where(repeats > 0, best + log_gain(repeats, r), at[0])

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        _, alpha, _, beta, r = columns(theta_Sk)
        q, repeats = self._best(theta_Sk, at)
        over = repeats > 0
        m_R, m_r, m_RR, m_Rr, m_rr = log_gain_derivatives(repeats, r)
        w = repeats + 1
        level = np.where(over, q + log_gain(repeats, r), at[0])
        by_q, by_r = (np.where(over, x, 0.0) for x in (1 - m_R * w, m_r))
        by_qq, by_qr, by_rr = (np.where(over, x, 0.0) for x in (m_RR * w**2 + m_R * w, -m_Rr * w, m_rr))
        q_of_one = (1 / alpha, (1 / alpha - q) / alpha, -1 / alpha, (at[1] - 1 / beta) / alpha)
        q_of_pair = {
            (0, 1): -1 / alpha**2, (1, 2): 1 / alpha**2, (1, 3): -(at[1] - 1 / beta) / alpha**2,
            (3, 3): 1 / (alpha * beta**2), (1, 1): (2 * q - 3 / alpha) / alpha**2,
        }  # fmt: skip
        slopes = [-alpha * by_q * x for x in q_of_one] + [-alpha * by_r]
        slopes[0] = slopes[0] + 1
        slopes[1] = slopes[1] - level
        curvature = {}
        for i in range(4):
            for j in range(i, 4):
                bend = by_qq * q_of_one[i] * q_of_one[j] + by_q * q_of_pair.get((i, j), 0.0)
                curvature[i, j] = -alpha * bend - by_q * ((i == 1) * q_of_one[j] + (j == 1) * q_of_one[i])
            curvature[i, 4] = -alpha * by_qr * q_of_one[i] - (i == 1) * by_r
        curvature[4, 4] = -alpha * by_rr
        return Derivatives(self.log(theta_Sk, at), slopes, curvature)


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    return {"R_D": REPEATS, "R_N": REPEATS}


register_law(
    Law(
        name="repeated",
        formula=(
            "L = E + A / N'^alpha + B / D'^beta, with D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' likewise with R_N"
        ),
        terms=(ExcessSize("A", "alpha", "R_N", "B", "beta"), RepeatedData("B", "beta", "R_D"), FLOOR),
        source="Muennighoff et al. 2023 (2305.16264), eqs. 5 to 7",
        assumptions=(
            "Repeated data, and size beyond what is best for the unique data, are worth exponentially less each time."
        ),
        simpler="chinchilla",
        shapes=_shapes,
    )
)
