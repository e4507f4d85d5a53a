"""Computes L(N, D) of the Zipf-intent process without noise, to 1e-9: theory knows its floor and exponents.

    ZipfSurface(alpha=0.5).loss(n, d)           # arrays, broadcast
    ZipfSurface(items=32**3).excess(np.inf, d)  # a finite catalogue, capacity without end

The learner is a table of facts. A fact is a pair (interest, category): one fair coin that sets the click probability.
N parameters store N facts, those of the most popular interests. A stored fact that was shown n times in D exposures
(n is Poisson, its clicks binomial) is predicted by the posterior mean from even odds; any other by the mean of both.
So L is averaged over the coins and the exposures seen, with categories of equal mass: no seed, no draw.

    L(N, D) = E + sum_{z <= N/C} p_z risk(D p_z / C) + risk(0) sum_{z > N/C} p_z,    p_z ~ z^-(1 + alpha)

Over an endless catalogue L - E ~ N^-alpha where data is endless, and ~ D^-(alpha/(1 + alpha)) where capacity is
(Hutter 2021, 2102.04074; Michaud et al. 2023, 2303.13506). Numpy and scipy only, as in `scaling`.

Letters: R points, Z ranks of the catalogue, Q quadrature nodes, L Poisson means (I of them inside the table),
T numbers of exposures seen, 2 coins.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import entr, expit, gammaln, rel_entr, xlogy, zeta

HEAD_RANKS = 8_192
"""Ranks that are summed one by one. Past them the sum is an integral by the midpoint rule, 5e-10 off at most."""
QUADRATURE = np.polynomial.legendre.leggauss(256)
SMALLEST_MEAN = 1e-12
"""Facts that are expected to be shown less often than this are as good as unseen, to the same relative error."""
SEEN_MAX = 512


@dataclass(frozen=True)
class ZipfSurface:
    """The names are those of `sessionrec_jax.data.synthetic.process.ZipfIntent`. `items` may be finite."""

    alpha: float = 0.5
    categories: int = 8
    click_low: float = 0.05
    click_high: float = 0.5
    keep_interest: float = 0.9
    items: float = np.inf

    def loss(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        """Returns nats per exposure at N = `n` facts and D = `d` exposures, broadcast; infinity is allowed for both."""
        return self.floor + self.excess(n, d)

    @property
    def floor(self) -> float:
        """Returns the loss (nats per exposure) of the predictor that knows every coin."""
        q_2 = np.array(self.click_probabilities)
        return float((entr(q_2) + entr(1 - q_2)).mean())

    @property
    def click_probabilities(self) -> tuple[float, float]:
        """Returns the click probabilities in the next session for a low and a high coin: drift pulls both to the
        mean.
        """
        mean, keep = (self.click_low + self.click_high) / 2, self.keep_interest
        return keep * self.click_low + (1 - keep) * mean, keep * self.click_high + (1 - keep) * mean

    def excess(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        """Returns `loss` - `floor`, without the rounding of the subtraction."""
        n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
        if not (np.all(n >= 0) and np.all(d >= 0)):
            raise ValueError(f"N {n} and D {d}; wanted numbers from 0 on, and no NaN")
        excess = np.empty(n.shape)
        for exposures in np.unique(d):
            at = d == exposures
            excess[at] = self._excess_at(n[at], exposures)
        return excess

    def _excess_at(self, n_R: np.ndarray, d: float) -> np.ndarray:
        stored_R = np.minimum(n_R / self.categories, self.items)
        unseen = risk(np.zeros(1), *self.click_probabilities)[0]
        if d == np.inf:
            return unseen * self._mass_past(stored_R)

        # Facts too rare to be shown are unseen, stored or not: no integral need go further.
        shown = (d / self.categories / self._norm / SMALLEST_MEAN) ** (1 / (1 + self.alpha))
        stored_R = np.minimum(stored_R, max(shown, 1.0))
        head_Z = np.arange(1.0, min(HEAD_RANKS, np.ceil(stored_R.max())) + 1)
        known_Z = np.concatenate([[0.0], np.cumsum(self._nats(head_Z, d))])
        known_R = np.interp(stored_R, np.arange(len(known_Z)), known_Z)
        for r in np.flatnonzero(stored_R > HEAD_RANKS):
            known_R[r] += self._integral(HEAD_RANKS + 0.5, stored_R[r] + 0.5, d)
        return known_R + unseen * self._mass_past(stored_R)

    def _nats(self, rank_Z: np.ndarray, d: float) -> np.ndarray:
        """Returns the share of the excess that the facts of these ranks add when they are stored."""
        p_Z = rank_Z ** -(1 + self.alpha) / self._norm
        return p_Z * risk(d * p_Z / self.categories, *self.click_probabilities)

    def _integral(self, first: float, last: float, d: float) -> float:
        node_Q, weight_Q = QUADRATURE
        half = np.log(last / first) / 2
        rank_Q = first * np.exp(half * (node_Q + 1))
        return float(half * (weight_Q * rank_Q) @ self._nats(rank_Q, d))

    @property
    def _norm(self) -> float:
        return _zipf_sum_past(0.0, self.items, self.alpha)

    def _mass_past(self, rank_R: np.ndarray) -> np.ndarray:
        """Returns the popularity of the ranks past these; a fraction of a rank counts as that share of its facts."""
        part_R, whole_R = np.modf(rank_R)
        next_R = (whole_R + 1) ** -(1 + self.alpha) * (whole_R < self.items)
        return (_zipf_sum_past(whole_R, self.items, self.alpha) - part_R * next_R) / self._norm


def _zipf_sum_past(rank, items, alpha):
    """Returns the sum of z^-(1 + alpha) over rank < z <= items."""
    return zeta(1 + alpha, rank + 1) - (zeta(1 + alpha, items + 1) if np.isfinite(items) else 0.0)


def risk(mean_L: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns the expected KL(truth || posterior mean) in nats, averaged over the coin, after Poisson(mean)
    exposures; [L].
    """
    risk_T = _risk_after(low, high)
    seen_T = np.arange(SEEN_MAX)
    # Past half the table nothing is left to learn, and the Poisson mass past its end is nothing.
    risk_L = np.zeros(len(mean_L))
    inside = mean_L < SEEN_MAX / 2
    mean_I1 = mean_L[inside, None]
    log_poisson_IT = xlogy(seen_T, mean_I1) - mean_I1 - gammaln(seen_T + 1.0)
    risk_L[inside] = np.exp(log_poisson_IT) @ risk_T
    return risk_L


@cache
def _risk_after(low: float, high: float) -> np.ndarray:
    """Returns the same after exactly 0, 1, ..., SEEN_MAX - 1 exposures, [T]."""
    risk_T = np.empty(SEEN_MAX)
    for seen in range(SEEN_MAX):
        clicks = np.arange(seen + 1)
        log_ways = gammaln(seen + 1.0) - gammaln(clicks + 1.0) - gammaln(seen - clicks + 1.0)
        log_odds = clicks * np.log(high / low) + (seen - clicks) * np.log((1 - high) / (1 - low))
        guess = low + (high - low) * expit(log_odds)
        risk_T[seen] = np.mean(
            [
                np.exp(log_ways + clicks * np.log(q) + (seen - clicks) * np.log1p(-q))
                @ (rel_entr(q, guess) + rel_entr(1 - q, 1 - guess))
                for q in (low, high)
            ]
        )
    if risk_T[SEEN_MAX // 2] > 1e-12:
        raise ValueError(f"click probabilities {low} and {high} are too near to be separated in {SEEN_MAX} exposures")
    return risk_T
