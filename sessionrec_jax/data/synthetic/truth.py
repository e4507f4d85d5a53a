"""The exact truth of a synthetic log, known before any model sees it: loss floors and exponents.

    truth = Truth(ZipfIntent(users=1))
    truth.rank_floor_nats_per_exposure, truth.data_exponent

All sums are exact and in float64. They hold for one draw of the process: its seed fixes popularity, categories and
coins. Floors differ by tens of per cent between seeds, because at alpha 0.5 the most popular item alone has a third of
the mass. So always compare with the truth of the same seed.

The interest z is visible as a session's anchor and moves as a Markov chain. So a predictor that knows the coins needs
nothing from the history but the last session's anchor. Letters: Z anchors and K items (both index the catalogue),
C categories, N exposures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer
from scipy.special import entr, expit, rel_entr

from sessionrec_jax.data.synthetic.process import ZipfIntent, coin_table
from sessionrec_jax.errors import InputError

Ids: TypeAlias = Integer[np.ndarray, " N"]


@dataclass(frozen=True)
class Truth:
    """The exact truth of one process. Each value is computed when it is first used, and kept."""

    process: ZipfIntent

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
        """True where the click probability of (interest, category) is the high one."""
        return coin_table(self.process.seed, self.process.item_count, self.process.categories)

    @cached_property
    def click_rate_C(self) -> Float64[np.ndarray, " C"]:
        """Click probability of an exposure of each category if nothing is known about the user."""
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
        entropy_Z = self._clicked_item_entropy(self.click_probability_ZC)
        return float(np.average(entropy_Z, weights=self.popularity_K * clicks_Z))

    @cached_property
    def retrieval_no_history_nats_per_item(self) -> float:
        return float(self._clicked_item_entropy(self.click_rate_C[None])[0])

    def _clicked_item_entropy(self, q_ZC: Float64[np.ndarray, "Z C"]) -> Float64[np.ndarray, " Z"]:
        surprise_C = np.bincount(self.category_K, entr(self.popularity_K), self.process.categories)
        clicks_Z = q_ZC @ self.category_mass_C
        return np.log(clicks_Z) + (q_ZC @ surprise_C + entr(q_ZC) @ self.category_mass_C) / clicks_Z

    # The loss of the predictor that knows the process, exposure by exposure, to be subtracted from a model's.

    def rank_nats(self, anchor_N: Ids, item_N: Ids, clicked_N: Bool[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Returns its rank loss on shown items, given the anchor of the session before. Ids are item_id, 0..K-1."""
        q_N = self.click_probability_ZC[self._ids(anchor_N, "anchor"), self.category_K[self._ids(item_N, "item_id")]]
        return -np.log(np.where(clicked_N, q_N, 1 - q_N))

    def retrieval_nats(self, anchor_N: Ids, item_N: Ids) -> Float64[np.ndarray, " N"]:
        """Returns its retrieval loss on clicked items, given the previous anchor. Ids are item_id, 0..K-1."""
        anchor_N, item_N = self._ids(anchor_N, "anchor"), self._ids(item_N, "item_id")
        q_N = self.click_probability_ZC[anchor_N, self.category_K[item_N]]
        return -np.log(self.popularity_K[item_N] * q_N / (self.click_probability_ZC[anchor_N] @ self.category_mass_C))

    def _ids(self, ids_N: Ids, name: str) -> Ids:
        if ids_N.size and not 0 <= ids_N.min() <= ids_N.max() < self.process.item_count:
            raise InputError(
                f"{name} runs from {ids_N.min()} to {ids_N.max()}; wanted the log's own item_id, "
                f"0 to {self.process.item_count - 1} (dense ids must be mapped back)"
            )
        return ids_N

    # Exponents of the excess over the floor, for an endless catalogue.

    @property
    def data_exponent(self) -> float:
        """excess ~ D^-exponent while data is scarce (Hutter 2021)."""
        return self.process.alpha / (1 + self.process.alpha)

    @property
    def capacity_exponent(self) -> float:
        """excess ~ N^-exponent while parameters are scarce: each stores about one coin, the popular ones first."""
        return self.process.alpha

    # The learner that counts. A cell is a pair (anchor z, category c): one coin to learn.

    def bayes_excess_after(self, anchor_N: Ids, item_N: Ids, clicked_N: Bool[np.ndarray, " N"]) -> float:
        """Returns the excess rank loss (nats per exposure) of the Bayes learner after counting these exposures.

        Each is an item, its click, and the anchor of the session before. Ids are item_id, 0..K-1.
        """
        anchor_N, item_N = self._ids(anchor_N, "anchor"), self._ids(item_N, "item_id")
        shape_ZC = self.coin_ZC.shape
        cell_N = anchor_N * shape_ZC[1] + self.category_K[item_N]
        seen_ZC = np.bincount(cell_N, minlength=self.coin_ZC.size).reshape(shape_ZC)
        clicks_ZC = np.bincount(cell_N, clicked_N, self.coin_ZC.size).reshape(shape_ZC)
        return self.bayes_excess_of_counts(seen_ZC, clicks_ZC)

    def bayes_excess_of_counts(self, seen_ZC: np.ndarray, clicks_ZC: np.ndarray) -> float:
        """Returns the excess rank loss (nats per exposure) of the Bayes learner from the exposures and clicks of
        each cell.

        The learner knows the two values that each category's click probability can take and starts from even odds for
        every coin; after k clicks in n exposures of a cell it predicts the posterior mean. The excess is the exact sum
        over all anchors and categories, without test noise. A model can be better: a user's earlier clicks under the
        same interest show it coins that training did not.
        """
        excess_ZC = bernoulli_kl(self.click_probability_ZC, self.posterior_mean(clicks_ZC, seen_ZC))
        return float(self.popularity_K @ excess_ZC @ self.category_mass_C)

    def posterior_mean(self, clicks_xC: np.ndarray, seen_xC: np.ndarray) -> np.ndarray:
        """Returns click probabilities from the clicks in the exposures seen; the last axis is the category."""
        low_C, high_C = self.click_probability_2C
        log_odds_xC = clicks_xC * np.log(high_C / low_C) + (seen_xC - clicks_xC) * np.log((1 - high_C) / (1 - low_C))
        return low_C + (high_C - low_C) * expit(log_odds_xC)


def bernoulli_kl(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    return rel_entr(truth, estimate) + rel_entr(1 - truth, 1 - estimate)


def _binary_entropy(probability: np.ndarray) -> np.ndarray:
    return entr(probability) + entr(1 - probability)
