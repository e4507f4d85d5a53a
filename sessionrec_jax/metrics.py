"""Metrics as sums and counts that merge, with standard errors over users; numpy only.

Every metric is a ratio of sums over *clusters* (a user's packed window), because the clicks of one user are not
independent. A metric without a term is missing (None), never zero.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

import numpy as np

CUTOFFS = (10, 50, 500)


@dataclass(frozen=True)
class Ratio:
    """sum(x) / sum(n) over clusters c, with the sums its standard error needs."""

    clusters: int = 0
    x: float = 0.0
    n: float = 0.0
    xx: float = 0.0
    xn: float = 0.0
    nn: float = 0.0

    @classmethod
    def of(cls, x_N: np.ndarray, n_N: np.ndarray, cluster_N: np.ndarray) -> Ratio:
        """From terms x_N with weights n_N of clusters named by `cluster_N`."""
        _, cluster_N = np.unique(cluster_N, return_inverse=True)
        x_C, n_C = np.bincount(cluster_N, x_N), np.bincount(cluster_N, n_N)
        return cls(len(x_C), *map(float, (x_C.sum(), n_C.sum(), x_C @ x_C, x_C @ n_C, n_C @ n_C)))

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def mean(self) -> float | None:
        return self.x / self.n if self.n else None

    @property
    def stderr(self) -> float | None:
        """Of the ratio, by the delta method over clusters."""
        if self.clusters < 2 or not self.n:
            return None
        mean = self.x / self.n
        squares = max(self.xx - 2 * mean * self.xn + mean**2 * self.nn, 0.0)
        return float(np.sqrt(squares * self.clusters / (self.clusters - 1)) / self.n)


@dataclass
class Metrics:
    """Named ratios, filled batch by batch."""

    ratios: dict[str, Ratio] = field(default_factory=dict)

    def add(self, name: str, x_N: np.ndarray, cluster_N: np.ndarray, n_N: np.ndarray | None = None) -> None:
        weight_N = np.ones(len(x_N)) if n_N is None else n_N
        self.ratios[name] = self.ratios.get(name, Ratio()) + Ratio.of(np.asarray(x_N, np.float64), weight_N, cluster_N)

    def mean(self, name: str) -> float | None:
        return self.ratios.get(name, Ratio()).mean

    def stderr(self, name: str) -> float | None:
        return self.ratios.get(name, Ratio()).stderr


def add_ranking(metrics: Metrics, rank_N: np.ndarray, session_N: np.ndarray, cluster_of_session: np.ndarray) -> None:
    """Recall, NDCG and MRR of sessions from the catalogue rank (0 = best) of each of their distinct clicked items.

    Recall@k = clicked items within the top k / clicked items. NDCG@k with the ideal order of all clicked items
    (Jarvelin & Kekalainen 2002, binary gains). MRR = 1 / (1 + best rank). One term a session with a click.
    """
    session_S, session_N, clicked_S = np.unique(session_N, return_inverse=True, return_counts=True)
    cluster_S, sessions = cluster_of_session[session_S], len(session_S)
    longest = int(clicked_S.max(initial=0))
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(longest) + 2))])
    for k in CUTOFFS:
        hit_N = rank_N < k
        metrics.add(f"recall_at_{k}", np.bincount(session_N, hit_N, sessions) / clicked_S, cluster_S)
        gain_S = np.bincount(session_N, np.where(hit_N, 1 / np.log2(rank_N + 2.0), 0.0), sessions)
        metrics.add(f"ndcg_at_{k}", gain_S / ideal[np.minimum(clicked_S, k)], cluster_S)
    best_S = np.full(sessions, np.inf)
    np.minimum.at(best_S, session_N, rank_N)
    metrics.add("mrr", 1 / (1 + best_S), cluster_S)


def add_auc(
    metrics: Metrics, score_N: np.ndarray, clicked_N: np.ndarray, session_N: np.ndarray, cluster_of_session: np.ndarray
) -> None:
    """Within-session AUC: the share of (clicked, ignored) pairs in the right order, ties a half; one term a session
    that has both."""
    order = np.lexsort((score_N, session_N))
    score, clicked, session = score_N[order], clicked_N[order].astype(np.float64), session_N[order]
    _, start, session = np.unique(session, return_index=True, return_inverse=True)
    place = np.arange(len(score)) - start[session]
    tie = np.concatenate([[0], np.cumsum((np.diff(score) != 0) | (np.diff(session) != 0))]) if len(score) else place
    mean_place = (np.bincount(tie, place) / np.bincount(tie))[tie]  # tied scores share their mean rank
    positives = np.bincount(session, clicked)
    negatives = np.bincount(session) - positives
    both = (positives > 0) & (negatives > 0)
    rank_sum = np.bincount(session, clicked * mean_place)
    wins = rank_sum - positives * (positives - 1) / 2
    auc = wins[both] / (positives[both] * negatives[both])
    metrics.add("rank_auc", auc, cluster_of_session[session_N[order][start][both]])
