"""What can be known about a synthetic log before any model sees it: loss floors, exponents and learning curves.

    truth = Truth(ZipfIntent(users=1))
    truth.rank_floor_nats_per_exposure, truth.bayes_excess([1e5, 1e6])

All sums are exact and in float64. They hold for one draw of the process (its seed fixes who is popular, the categories
and the coins), and floors differ by tens of per cent between seeds, since the most popular item alone has a third of
the mass at alpha 0.5: always compare with the truth of the same seed.

The interest z is visible as a session's anchor and moves as a Markov chain, so that to a predictor that knows the coins
the anchor of the last session is all of the history that helps. Letters: Z anchors and K items (both index the
catalogue), C categories, N exposures, D data sizes, L Poisson means, T numbers of exposures seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64, Integer
from scipy.special import entr, expit, gammaln, rel_entr

from sessionrec_jax.data.synthetic.process import ZipfIntent, coin_table
from sessionrec_jax.errors import InputError

Ids: TypeAlias = Integer[np.ndarray, " N"]
DataSizes: TypeAlias = Sequence[float | int] | np.ndarray
Estimate: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(clicks, exposures seen) of cells -> estimated click probability; the last axis is the category."""


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
        entropy_Z = self._clicked_item_entropy(self.click_probability_ZC)
        return float(np.average(entropy_Z, weights=self.popularity_K * clicks_Z))

    @cached_property
    def retrieval_no_history_nats_per_item(self) -> float:
        return float(self._clicked_item_entropy(self.click_rate_C[None])[0])

    def _clicked_item_entropy(self, q_ZC: Float64[np.ndarray, "Z C"]) -> Float64[np.ndarray, " Z"]:
        surprise_C = np.bincount(self.category_K, entr(self.popularity_K), self.process.categories)
        clicks_Z = q_ZC @ self.category_mass_C
        return np.log(clicks_Z) + (q_ZC @ surprise_C + entr(q_ZC) @ self.category_mass_C) / clicks_Z

    # The loss of the predictor that knows the process, exposure by exposure: to be subtracted from a model's.

    def rank_nats(self, anchor_N: Ids, item_N: Ids, clicked_N: Bool[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Its rank loss on shown items, given the anchor of the session before. Ids are item_id, 0..K-1."""
        q_N = self.click_probability_ZC[self._ids(anchor_N, "anchor"), self.category_K[self._ids(item_N, "item_id")]]
        return -np.log(np.where(clicked_N, q_N, 1 - q_N))

    def retrieval_nats(self, anchor_N: Ids, item_N: Ids) -> Float64[np.ndarray, " N"]:
        """Its retrieval loss on clicked items, given the anchor of the session before. Ids are item_id, 0..K-1."""
        anchor_N, item_N = self._ids(anchor_N, "anchor"), self._ids(item_N, "item_id")
        q_N = self.click_probability_ZC[anchor_N, self.category_K[item_N]]
        return -np.log(self.popularity_K[item_N] * q_N / (self.click_probability_ZC[anchor_N] @ self.category_mass_C))

    def _ids(self, ids_N: Ids, what: str) -> Ids:
        if ids_N.size and not 0 <= ids_N.min() <= ids_N.max() < self.process.item_count:
            raise InputError(
                f"{what} runs from {ids_N.min()} to {ids_N.max()}; wanted the log's own item_id, "
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

    # Learning curves for this catalogue, with its end. A cell is a pair (anchor z, category c): one coin to learn.

    def bayes_excess(self, exposures_D: DataSizes) -> Float64[np.ndarray, " D"]:
        """Excess rank loss (nats per exposure) of the Bayes learner after D independent exposures with last anchors.

        It knows the two values that each category's click probability can take and starts from even odds for every
        coin; after k clicks in n exposures of a cell it predicts the posterior mean. Closed form: n is
        Poisson(D p_z pi_c), k is binomial, both independent between cells. Averaged over coins nothing beats it on
        such data. It has the exponent but not the level of a log: there a user's run of one interest fills the same
        cells again and again, so that D exposures teach like fewer (see `bayes_excess_on`); and a model that reads
        a user's earlier clicks under the same interest sees coins that training has not shown it.
        """
        return self._excess(exposures_D, self._bayes_risk)

    def counting_excess(self, exposures_D: DataSizes) -> Float64[np.ndarray, " D"]:
        """The same for a learner that is not told of two values: it predicts (k + 2 m_c) / (n + 2).

        m_c is the category's click rate: two imagined exposures shrink a rare anchor to the rate without history.
        """
        return self._excess(exposures_D, self._counting_risk)

    def bayes_excess_on(self, log: pl.DataFrame) -> tuple[int, float]:
        """(D, excess rank loss in nats per exposure) of the learner of `bayes_excess` after counting this very log.

        `log` is an exposure table from `process.exposures`; D counts its exposures that have a session before
        theirs. The excess is the exact sum over all anchors and categories, without test noise.
        """
        return self._excess_on(log, self._posterior_mean)

    def bayes_excess_after(self, anchor_N: Ids, item_N: Ids, clicked_N: Bool[np.ndarray, " N"]) -> float:
        """The same after counting these exposures: item and click, and the anchor of the session before. Ids are
        item_id, 0..K-1."""
        return self._excess_after(anchor_N, item_N, clicked_N, self._posterior_mean)

    def counting_excess_on(self, log: pl.DataFrame) -> tuple[int, float]:
        """The same for the learner of `counting_excess`."""
        return self._excess_on(log, self._shrunk_rate)

    def _posterior_mean(self, clicks_xC: np.ndarray, seen_xC: np.ndarray) -> np.ndarray:
        low_C, high_C = self.click_probability_2C
        log_odds_xC = clicks_xC * np.log(high_C / low_C) + (seen_xC - clicks_xC) * np.log((1 - high_C) / (1 - low_C))
        return low_C + (high_C - low_C) * expit(log_odds_xC)

    def _shrunk_rate(self, clicks_xC: np.ndarray, seen_xC: np.ndarray) -> np.ndarray:
        return (clicks_xC + 2 * self.click_rate_C) / (seen_xC + 2)

    @cached_property
    def _bayes_risk(self) -> RiskTable:
        risk = RiskTable.of(self._posterior_mean, self.click_probability_2C)
        if risk.risk_2CL[..., -1].max() > 1e-9:
            raise InputError(
                f"click_low {self.process.click_low} and click_high {self.process.click_high} at keep_interest "
                f"{self.process.keep_interest} are so near that {RiskTable.SEEN_MAX // 2} exposures do not tell them "
                "apart: the closed form does not reach so far. Set them further apart, or use bayes_excess_on"
            )
        return risk

    @cached_property
    def _counting_risk(self) -> RiskTable:
        return RiskTable.of(self._shrunk_rate, self.click_probability_2C)

    def _excess(self, exposures_D: DataSizes, risk: RiskTable) -> Float64[np.ndarray, " D"]:
        exposures_D = np.asarray(exposures_D, float)
        if not (exposures_D > 0).all():
            raise InputError(f"exposures are {exposures_D}; wanted numbers above 0")
        excess_D = np.zeros(len(exposures_D))
        for c in np.flatnonzero(self.category_mass_C):
            mass = self.category_mass_C[c]
            for coin in (0, 1):
                p_z = self.popularity_K[self.coin_ZC[:, c] == coin]
                excess_D += [mass * (p_z @ risk.at(exposures * mass * p_z, coin, c)) for exposures in exposures_D]
        return excess_D

    def _excess_on(self, log: pl.DataFrame, estimate: Estimate) -> tuple[int, float]:
        last_anchor = log.filter(pl.col("feedback") == "anchor").select(
            "user_id", pl.col("session_id") + 1, anchor="item_id"
        )
        targets = log.filter(pl.col("clicked").is_not_null()).join(last_anchor, on=["user_id", "session_id"])
        anchor_N, item_N, clicked_N = (targets[name].to_numpy() for name in ("anchor", "item_id", "clicked"))
        return len(targets), self._excess_after(anchor_N, item_N, clicked_N, estimate)

    def _excess_after(self, anchor_N: Ids, item_N: Ids, clicked_N: np.ndarray, estimate: Estimate) -> float:
        anchor_N, item_N = self._ids(anchor_N, "anchor"), self._ids(item_N, "item_id")
        shape_ZC = self.coin_ZC.shape
        cell_N = anchor_N * shape_ZC[1] + self.category_K[item_N]
        seen_ZC = np.bincount(cell_N, minlength=self.coin_ZC.size).reshape(shape_ZC)
        clicks_ZC = np.bincount(cell_N, clicked_N, self.coin_ZC.size).reshape(shape_ZC)
        excess_ZC = _bernoulli_kl(self.click_probability_ZC, estimate(clicks_ZC, seen_ZC))
        return float(self.popularity_K @ excess_ZC @ self.category_mass_C)


def local_slope(
    curve: Callable[[DataSizes], np.ndarray], exposures_low: float | int, exposures_high: float | int
) -> float:
    """The exponent -d log excess / d log D of a curve, such as `truth.bayes_excess`, between two data sizes."""
    excess_low, excess_high = curve([exposures_low, exposures_high])
    return float(np.log(excess_low / excess_high) / np.log(exposures_high / exposures_low))


@dataclass(frozen=True)
class RiskTable:
    """Expected KL(truth || estimate) in nats of one cell whose number of exposures is Poisson, by the Poisson mean."""

    log_mean_L: Float64[np.ndarray, " L"]
    risk_2CL: Float64[np.ndarray, "2 C L"]
    tail_2C2: Float64[np.ndarray, "2 C 2"]
    """Past the table's end the risk after exactly n exposures is a/n + b/n^2 (all but 0 for the Bayes learner)."""

    SEEN_MAX = 1_024
    LOWEST_MEAN = 1e-6

    @classmethod
    def of(cls, estimate: Estimate, truth_2C: Float64[np.ndarray, "2 C"]) -> RiskTable:
        """The table of a learner for cells whose click probability is truth_2C (by coin and category)."""
        log_factorial_T = gammaln(np.arange(cls.SEEN_MAX + 1) + 1.0)
        truth_21C = truth_2C[:, None, :]
        risk_T2C = np.empty((cls.SEEN_MAX, *truth_2C.shape))
        for seen in range(cls.SEEN_MAX):
            clicks_k1 = np.arange(seen + 1)[:, None]
            ways_k1 = (log_factorial_T[seen] - log_factorial_T[: seen + 1] - log_factorial_T[seen::-1])[:, None]
            chance_2kC = np.exp(ways_k1 + clicks_k1 * np.log(truth_21C) + (seen - clicks_k1) * np.log1p(-truth_21C))
            nats_2kC = _bernoulli_kl(truth_21C, estimate(clicks_k1, np.array(seen)))
            risk_T2C[seen] = (chance_2kC * nats_2kC).sum(1)

        # Up to half the table's end, the Poisson mass past the end is nothing.
        log_mean_L = np.linspace(np.log(cls.LOWEST_MEAN), np.log(cls.SEEN_MAX / 2), 2_000)
        seen_T = np.arange(cls.SEEN_MAX)
        poisson_LT = np.exp(seen_T * log_mean_L[:, None] - np.exp(log_mean_L)[:, None] - log_factorial_T[:-1])
        # a/n + b/n^2 through the last entry and the one half way.
        half, last = cls.SEEN_MAX // 2, cls.SEEN_MAX - 1
        powers_22 = np.array([[1 / half, half**-2.0], [1 / last, last**-2.0]])
        tail_22C = np.linalg.solve(powers_22, risk_T2C[[half, last]].reshape(2, -1)).reshape(2, *truth_2C.shape)
        return cls(log_mean_L, np.moveaxis(np.tensordot(poisson_LT, risk_T2C, 1), 0, -1), np.moveaxis(tail_22C, 0, -1))

    def at(self, mean_N: Float64[np.ndarray, " N"], coin: int, category: np.integer) -> Float64[np.ndarray, " N"]:
        """Risk (nats) of cells with these Poisson means of exposures seen."""
        a, b = self.tail_2C2[coin, category]
        inside_N = np.interp(np.log(mean_N), self.log_mean_L, self.risk_2CL[coin, category])
        # E[1/n] = 1/mean + 1/mean^2 + ... under a Poisson law.
        past_N = a / mean_N + (a + b) / mean_N**2
        return np.where(mean_N > np.exp(self.log_mean_L[-1]), past_N, inside_N)


def _bernoulli_kl(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    return rel_entr(truth, estimate) + rel_entr(1 - truth, 1 - estimate)


def _binary_entropy(probability: np.ndarray) -> np.ndarray:
    return entr(probability) + entr(1 - probability)
