"""What can be known about a synthetic log before any model sees it: loss floors, exponents and learning curves.

    truth = Truth(ZipfIntent(users=1))
    truth.rank_floor_nats_per_exposure, truth.bayes_excess([1e5, 1e6])

All sums are exact and in float64. They hold for one draw of the process (its seed fixes who is popular, the categories
and the coins), and floors differ by tens of per cent between seeds, since the most popular item alone has a third of
the mass at alpha 0.5: always compare with the truth of the same seed.

The interest z is visible as a session's anchor and moves as a Markov chain, so that the anchor of the last session is
all of the history that helps. Letters: Z anchors and K items (both index the catalogue), C categories, N exposures,
D data sizes, L Poisson means, T numbers of exposures seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import ArrayLike
from scipy.special import entr, expit, gammaln, rel_entr, xlogy

from sessionrec_jax.data.synthetic import ZipfIntent, coin_table
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Truth:
    """The exact truth of one process. Everything is computed on first use and kept."""

    process: ZipfIntent

    def to_dict(self) -> dict[str, Any]:
        """The process's settings, its floors and its exponents, for a JSON file beside the log."""
        names = [
            "rank_floor_nats_per_exposure",
            "rank_no_history_nats_per_exposure",
            "retrieval_floor_nats_per_item",
            "retrieval_no_history_nats_per_item",
            "data_exponent",
            "capacity_exponent",
            "compute_exponent",
        ]
        return {"process": dataclasses.asdict(self.process), **{name: getattr(self, name) for name in names}}

    @property
    def popularity_K(self) -> Float64[np.ndarray, " K"]:
        """Probability of each item to be shown, and to be drawn as an interest; sums to 1."""
        return self.process.catalogue.popularity_K

    @property
    def category_K(self) -> Int64[np.ndarray, " K"]:
        return self.process.catalogue.category_K

    @cached_property
    def category_mass_C(self) -> Float64[np.ndarray, " C"]:
        """Popularity of each category; sums to 1."""
        return np.bincount(self.category_K, self.popularity_K, self.process.categories)

    @cached_property
    def coin_ZC(self) -> Bool[np.ndarray, "Z C"]:
        """Whether the click probability of (interest, category) is the high one."""
        return coin_table(self.process.seed, self.process.item_count, self.process.categories)

    @cached_property
    def click_rate_C(self) -> Float64[np.ndarray, " C"]:
        """Click probability of an exposure of each category when nothing is known of the user."""
        high_C = self.popularity_K @ self.coin_ZC
        return self.process.click_low * (1 - high_C) + self.process.click_high * high_C

    @cached_property
    def click_probability_2C(self) -> Float64[np.ndarray, "2 C"]:
        """The two values that a category's click probability can take in the next session: coin low, coin high."""
        keep, theta_2 = self.process.keep_interest, np.array([self.process.click_low, self.process.click_high])
        return keep * theta_2[:, None] + (1 - keep) * self.click_rate_C

    @cached_property
    def click_probability_ZC(self) -> Float64[np.ndarray, "Z C"]:
        """Click probability in the session after one with anchor z, for an exposure of category c."""
        return np.where(self.coin_ZC, self.click_probability_2C[1], self.click_probability_2C[0])

    # Floors: the loss of the predictor that knows the process, and of the best one that does not see the history.

    @cached_property
    def rank_floor_nats_per_exposure(self) -> float:
        return float(self.popularity_K @ _binary_entropy(self.click_probability_ZC) @ self.category_mass_C)

    @cached_property
    def rank_no_history_nats_per_exposure(self) -> float:
        return float(_binary_entropy(self.click_rate_C) @ self.category_mass_C)

    @cached_property
    def retrieval_floor_nats_per_item(self) -> float:
        """A clicked item of the next session has P(i | z) = p_i q[z, c_i] / sum_c pi_c q[z, c]."""
        clicks_Z = self.click_probability_ZC @ self.category_mass_C
        return float(
            np.average(self._clicked_item_entropy(self.click_probability_ZC), weights=self.popularity_K * clicks_Z)
        )

    @cached_property
    def retrieval_no_history_nats_per_item(self) -> float:
        return float(self._clicked_item_entropy(self.click_rate_C))

    def _clicked_item_entropy(self, click_probability_xC: np.ndarray) -> np.ndarray:
        surprise_C = np.bincount(self.category_K, entr(self.popularity_K), self.process.categories)
        q_xC, clicks_x = click_probability_xC, click_probability_xC @ self.category_mass_C
        return np.log(clicks_x) + (q_xC @ surprise_C + entr(q_xC) @ self.category_mass_C) / clicks_x

    # The loss of the predictor that knows the process, exposure by exposure: to be subtracted from a model's.

    def rank_nats(self, anchor_N: ArrayLike, item_N: ArrayLike, clicked_N: ArrayLike) -> Float64[np.ndarray, " N"]:
        """Its rank loss on shown items, given the anchor of the session before. Ids are item_id, 0..K-1."""
        q_N = self.click_probability_ZC[self._ids(anchor_N, "anchor"), self.category_K[self._ids(item_N, "item")]]
        return -np.log(np.where(np.asarray(clicked_N, bool), q_N, 1 - q_N))

    def retrieval_nats(self, anchor_N: ArrayLike, item_N: ArrayLike) -> Float64[np.ndarray, " N"]:
        """Its retrieval loss on clicked items, given the anchor of the session before. Ids are item_id, 0..K-1."""
        anchor_N, item_N = self._ids(anchor_N, "anchor"), self._ids(item_N, "item")
        q_N = self.click_probability_ZC[anchor_N, self.category_K[item_N]]
        return -np.log(self.popularity_K[item_N] * q_N / (self.click_probability_ZC[anchor_N] @ self.category_mass_C))

    def _ids(self, ids_N: ArrayLike, what: str) -> np.ndarray:
        ids_N = np.asarray(ids_N)
        if ids_N.size and not 0 <= ids_N.min() <= ids_N.max() < self.process.item_count:
            raise InputError(
                f"{what} ids run from {ids_N.min()} to {ids_N.max()}; wanted the log's own item_id, "
                f"0 to {self.process.item_count - 1} (dense ids must be mapped back)"
            )
        return ids_N

    # Exponents of the excess over the floor, for an endless catalogue.

    @property
    def data_exponent(self) -> float:
        """excess ~ D^-this when data is what is lacking (Hutter 2021)."""
        return self.process.alpha / (1 + self.process.alpha)

    @property
    def capacity_exponent(self) -> float:
        """excess ~ N^-this when parameters are what is lacking: each stores about one coin, the popular ones first."""
        return self.process.alpha

    @property
    def compute_exponent(self) -> float:
        """The best N grows as C^this: N^(1 + alpha) data for N parameters, and C ~ N * D."""
        return 1 / (2 + self.process.alpha)

    # Learning curves for this catalogue, with its end.

    def bayes_excess(self, exposures_D: ArrayLike) -> Float64[np.ndarray, " D"]:
        """Excess rank loss (nats per exposure) of the Bayes learner after D exposures with known last anchors.

        It knows the two values that each category's click probability can take and starts from even odds for every
        coin; after k clicks in n exposures of a cell (anchor, category) it predicts the posterior mean. The n are
        independent Poisson(D p_z pi_c) and the clicks independent. Averaged over coins, no learner does better from
        such data. A log is a little different: the exposures of a session share one interest and a user's next
        anchor is a fresh look at it, so a learner on a log follows the curve's shape but not to the last per cent.
        """
        return self._excess(exposures_D, self._bayes_risk)

    def counting_excess(self, exposures_D: ArrayLike) -> Float64[np.ndarray, " D"]:
        """The same for a learner that knows nothing of two values: it predicts (k + 2 m_c) / (n + 2).

        m_c is the category's click rate: two imagined exposures that shrink a rare anchor to the rate without
        history. The reference for a model, which is not told of the two values either.
        """
        return self._excess(exposures_D, self._counting_risk)

    def _excess(self, exposures_D: ArrayLike, risk: RiskTable) -> Float64[np.ndarray, " D"]:
        exposures_D = np.atleast_1d(np.asarray(exposures_D, float))
        if not (exposures_D > 0).all():
            raise InputError(f"exposures are {exposures_D}; wanted numbers above 0")
        excess_D = np.zeros(len(exposures_D))
        for c, mass in enumerate(self.category_mass_C):
            for coin in (0, 1):
                p_z = self.popularity_K[self.coin_ZC[:, c] == coin]
                excess_D += [mass * (p_z @ risk.at(exposures * mass * p_z, coin, c)) for exposures in exposures_D]
        return excess_D

    @cached_property
    def _bayes_risk(self) -> RiskTable:
        low_C, high_C = self.click_probability_2C
        per_click_C, per_pass_C = np.log(high_C / low_C), np.log((1 - high_C) / (1 - low_C))

        def posterior_mean(clicks: np.ndarray, seen: int) -> np.ndarray:
            odds = np.multiply.outer(per_click_C, clicks) + np.multiply.outer(per_pass_C, seen - clicks)
            return low_C[:, None] + expit(odds) * (high_C - low_C)[:, None]

        return RiskTable.of(posterior_mean, self.click_probability_2C)

    @cached_property
    def _counting_risk(self) -> RiskTable:
        def shrunk(clicks: np.ndarray, seen: int) -> np.ndarray:
            return (clicks + 2 * self.click_rate_C[:, None]) / (seen + 2)

        return RiskTable.of(shrunk, self.click_probability_2C)


def local_slope(curve: Callable[[ArrayLike], np.ndarray], exposures_low: float, exposures_high: float) -> float:
    """The exponent -d log excess / d log D of a curve, such as `truth.bayes_excess`, between two data sizes."""
    excess_low, excess_high = curve([exposures_low, exposures_high])
    return float(np.log(excess_low / excess_high) / np.log(exposures_high / exposures_low))


@dataclass(frozen=True)
class RiskTable:
    """Expected KL(truth || estimate) in nats of one cell whose number of exposures is Poisson, by the Poisson mean."""

    log_mean_L: Float64[np.ndarray, " L"]
    risk_2CL: Float64[np.ndarray, "2 C L"]
    tail_2C2: Float64[np.ndarray, "2 C 2"]
    """Past the table's end the risk of seeing exactly n is a/n + b/n^2; both are 0 for a learner with two values."""

    SEEN_MAX = 2_048
    LOWEST_MEAN = 1e-6

    @classmethod
    def of(cls, estimate: Callable[[np.ndarray, int], np.ndarray], truth_2C: np.ndarray) -> RiskTable:
        """`estimate(clicks_k, seen)` gives the prediction [C, k], or [1, k] for all categories, after k clicks of n."""
        log_factorial_T = gammaln(np.arange(cls.SEEN_MAX + 1) + 1.0)
        truth_2C1 = truth_2C[..., None]
        risk_T2C = np.empty((cls.SEEN_MAX, *truth_2C.shape))
        for seen in range(cls.SEEN_MAX):
            clicks = np.arange(seen + 1)
            ways = log_factorial_T[seen] - log_factorial_T[: seen + 1] - log_factorial_T[seen::-1]
            chance_2Ck = np.exp(ways + xlogy(clicks, truth_2C1) + xlogy(seen - clicks, 1 - truth_2C1))
            guess_Ck = estimate(clicks, seen)
            nats_2Ck = rel_entr(truth_2C1, guess_Ck) + rel_entr(1 - truth_2C1, 1 - guess_Ck)
            risk_T2C[seen] = (chance_2Ck * nats_2Ck).sum(-1)

        # Up to half the table's end, the Poisson mass past the end is nothing.
        log_mean_L = np.linspace(np.log(cls.LOWEST_MEAN), np.log(cls.SEEN_MAX / 2), 2_000)
        seen_T = np.arange(cls.SEEN_MAX)
        poisson_LT = np.exp(seen_T * log_mean_L[:, None] - np.exp(log_mean_L)[:, None] - log_factorial_T[:-1])
        # a/n + b/n^2 through the last entry and the one half way.
        half, last = cls.SEEN_MAX // 2, cls.SEEN_MAX - 1
        powers_22 = np.array([[1 / half, half**-2.0], [1 / last, last**-2.0]])
        tail_22C = np.linalg.solve(powers_22, risk_T2C[[half, last]].reshape(2, -1)).reshape(2, *truth_2C.shape)
        return cls(log_mean_L, np.moveaxis(np.tensordot(poisson_LT, risk_T2C, 1), 0, -1), np.moveaxis(tail_22C, 0, -1))

    def at(self, mean_N: Float64[np.ndarray, " N"], coin: int, category: int) -> Float64[np.ndarray, " N"]:
        """Risk (nats) of cells with these Poisson means of exposures seen."""
        a, b = self.tail_2C2[coin, category]
        inside_N = np.interp(np.log(mean_N), self.log_mean_L, self.risk_2CL[coin, category])
        # E[1/n] = 1/mean + 1/mean^2 + ... under a Poisson law.
        past_N = a / mean_N + (a + b) / mean_N**2
        return np.where(mean_N > np.exp(self.log_mean_L[-1]), past_N, inside_N)


def _binary_entropy(probability: np.ndarray) -> np.ndarray:
    return entr(probability) + entr(1 - probability)
