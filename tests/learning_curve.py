"""The closed form of the Bayes learner's curve on independent exposures: an oracle for fits and for synthetic logs.

Letters: D data sizes, L Poisson means, T numbers of exposures seen, and those of sessionrec_jax.data.synthetic.truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import gammaln

from sessionrec_jax.data.synthetic.truth import Truth, bernoulli_kl


def bayes_excess(truth: Truth, exposures_D: Sequence[float] | np.ndarray) -> Float64[np.ndarray, " D"]:
    """Returns the excess rank loss (nats per exposure) of the Bayes learner after D independent exposures.

    The number of exposures of a cell is Poisson(D p_z pi_c), its clicks are binomial, and cells are independent. On
    average over coins no learner is better on such data. A log has the same exponent at another level: a user's run of
    one interest fills the same cells again and again, so D exposures teach as much as fewer independent ones.
    """
    risk = RiskTable.of(truth.posterior_mean, truth.click_probability_2C)
    assert risk.risk_2CL[..., -1].max() < 1e-9, "the table must reach to the end of learning"
    excess_D = np.zeros(len(exposures_D))
    for c in np.flatnonzero(truth.category_mass_C):
        mass = truth.category_mass_C[c]
        for coin in (0, 1):
            p_z = truth.popularity_K[truth.coin_ZC[:, c] == coin]
            excess_D += [mass * (p_z @ risk.at(exposures * mass * p_z, coin, c)) for exposures in exposures_D]
    return excess_D


@dataclass(frozen=True)
class RiskTable:
    """Expected KL(truth || estimate) in nats of one cell whose number of exposures is Poisson, by the Poisson mean."""

    log_mean_L: Float64[np.ndarray, " L"]
    risk_2CL: Float64[np.ndarray, "2 C L"]

    SEEN_MAX = 1_024
    LOWEST_MEAN = 1e-6

    @classmethod
    def of(
        cls, estimate: Callable[[np.ndarray, np.ndarray], np.ndarray], truth_2C: Float64[np.ndarray, "2 C"]
    ) -> RiskTable:
        """Makes the table of a learner. `estimate` maps (clicks, exposures seen) to click probabilities by category;
        `truth_2C` are the true ones by coin and category."""
        log_factorial_T = gammaln(np.arange(cls.SEEN_MAX + 1) + 1.0)
        truth_21C = truth_2C[:, None, :]
        risk_T2C = np.empty((cls.SEEN_MAX, *truth_2C.shape))
        for seen in range(cls.SEEN_MAX):
            clicks_k1 = np.arange(seen + 1)[:, None]
            ways_k1 = (log_factorial_T[seen] - log_factorial_T[: seen + 1] - log_factorial_T[seen::-1])[:, None]
            chance_2kC = np.exp(ways_k1 + clicks_k1 * np.log(truth_21C) + (seen - clicks_k1) * np.log1p(-truth_21C))
            nats_2kC = bernoulli_kl(truth_21C, estimate(clicks_k1, np.array(seen)))
            risk_T2C[seen] = (chance_2kC * nats_2kC).sum(1)

        # The largest mean is half the table's end, so that no Poisson mass is past the end.
        log_mean_L = np.linspace(np.log(cls.LOWEST_MEAN), np.log(cls.SEEN_MAX / 2), 2_000)
        seen_T = np.arange(cls.SEEN_MAX)
        poisson_LT = np.exp(seen_T * log_mean_L[:, None] - np.exp(log_mean_L)[:, None] - log_factorial_T[:-1])
        return cls(log_mean_L, np.moveaxis(np.tensordot(poisson_LT, risk_T2C, 1), 0, -1))

    def at(self, mean_N: Float64[np.ndarray, " N"], coin: int, category: np.integer) -> Float64[np.ndarray, " N"]:
        """Returns the risk (nats) of cells with these Poisson means of exposures seen; 0 past the table's end."""
        return np.interp(np.log(mean_N), self.log_mean_L, self.risk_2CL[coin, category], right=0.0)
