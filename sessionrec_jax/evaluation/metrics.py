"""Metrics as sums and counts by user, with standard errors over users; numpy only.

Every metric is a ratio of sums over users, because the clicks of one user are not independent. A metric without a term
is missing (None), never zero. Letters: U users of the log, N terms, S sessions, P places of the sorted exposures.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Shaped

CUTOFFS = (10, 50, 100, 500)


@dataclass
class Metrics:
    """Named ratios sum(x) / sum(n), filled batch by batch; a user's terms may come in any number of batches."""

    users: int
    """Users of the log: terms name them by their index there."""
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """x_U and n_U of each metric."""
    totals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """x and n of metrics that are not known by user, so that they have no standard error."""

    def add(
        self,
        name: str,
        x_N: Shaped[np.ndarray, " N"],
        user_N: Int[np.ndarray, " N"],
        n_N: Shaped[np.ndarray, " N"] | None = None,
    ) -> None:
        """Adds terms of weight one, or of weight `n_N` where `x_N` holds them times that weight."""
        x_U, n_U = self.sums.setdefault(name, (np.zeros(self.users), np.zeros(self.users)))
        np.add.at(x_U, user_N, x_N)
        np.add.at(n_U, user_N, 1.0 if n_N is None else n_N)

    def add_total(self, name: str, x: float, n: float) -> None:
        """Adds to a metric that is not known by user."""
        before = self.totals.get(name, (0.0, 0.0))
        self.totals[name] = before[0] + x, before[1] + n

    def mean(self, name: str) -> float | None:
        if name in self.totals:
            x, n = self.totals[name]
            return x / n if n else None
        x_U, n_U = self.sums.get(name, (np.zeros(0), np.zeros(0)))
        return float(x_U.sum() / n_U.sum()) if n_U.any() else None

    def terms(self, name: str) -> int:
        """Returns the number of terms of a metric, or the sum of their weights; 0 if it has none."""
        _, n_U = self.sums.get(name, (np.zeros(0), np.zeros(0)))
        return round(float(n_U.sum()))

    def stderr(self, name: str) -> float | None:
        """Returns the standard error of the ratio by the delta method over users; None for fewer than two users."""
        mean = self.mean(name)
        if mean is None or name in self.totals:
            return None
        x_U, n_U = self.sums[name]
        users = np.count_nonzero(n_U)
        if users < 2:
            return None
        return float(np.sqrt(np.sum((x_U - mean * n_U) ** 2) * users / (users - 1)) / n_U.sum())

    def to_bytes(self) -> bytes:
        """Returns all terms, for `add_bytes` in another process."""
        columns = {}
        for name, (x_U, n_U) in self.sums.items():
            user = np.flatnonzero(n_U)
            columns |= {f"user {name}": user, f"x {name}": x_U[user], f"n {name}": n_U[user]}
        columns |= {f"total {name}": np.array(total) for name, total in self.totals.items()}
        file = io.BytesIO()
        np.savez(file, **columns)
        return file.getvalue()

    def add_bytes(self, data: bytes) -> None:
        """Adds the terms of the Metrics that wrote `data`."""
        with np.load(io.BytesIO(data)) as columns:
            for key in columns:
                kind, _, name = key.partition(" ")
                if kind == "user":
                    self.add(name, columns[f"x {name}"], columns[key], columns[f"n {name}"])
                elif kind == "total":
                    self.add_total(name, *columns[key].tolist())

    def result(self) -> dict[str, float | None]:
        """Returns NAME and NAME_stderr of every metric with a term, sorted by name."""
        return {
            f"{name}{kind}": value(name)
            for name in sorted(self.sums | self.totals)
            for kind, value in (("", self.mean), ("_stderr", self.stderr))
        }

    def by_user(self) -> pl.DataFrame:
        """Returns a row for each user with a term: user (index in the log), metric, x, n.

        With it two runs on one log can be compared user by user.
        """
        schema = {"user": pl.Int64, "metric": pl.String, "x": pl.Float64, "n": pl.Float64}
        frames = [pl.DataFrame(schema=schema)]
        for name in sorted(self.sums):
            x_U, n_U = self.sums[name]
            user = np.flatnonzero(n_U)
            columns = {"user": user, "metric": [name] * len(user), "x": x_U[user], "n": n_U[user]}
            frames.append(pl.DataFrame(columns, schema=schema))
        return pl.concat(frames)


def add_ranking(
    metrics: Metrics,
    rank_N: Int[np.ndarray, " N"],
    session_N: Int[np.ndarray, " N"],
    user_N: Int[np.ndarray, " N"],
    *,
    prefix: str = "",
) -> None:
    """Adds recall, NDCG, hit rate and MRR of sessions, from the catalogue rank (0 = best) of each of their distinct
    clicked items. `session_N` gives each session a number of its own.

    Recall@k = clicked items within the top k / clicked items. NDCG@k with the ideal order of all clicked items
    (Jarvelin & Kekalainen 2002, binary gains). Hit@k = any clicked item within the top k. MRR = 1 / (1 + best rank).
    Each session with a click is one term.
    """
    _, first_S, row_N, clicked_S = np.unique(session_N, return_index=True, return_inverse=True, return_counts=True)
    user_S, sessions = user_N[first_S], len(first_S)
    longest = int(clicked_S.max(initial=0))
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(longest) + 2))])
    best_S = np.full(sessions, np.inf)
    np.minimum.at(best_S, row_N, rank_N)
    for k in CUTOFFS:
        in_top_N = rank_N < k
        gain_S = np.bincount(row_N, np.where(in_top_N, 1 / np.log2(rank_N + 2.0), 0.0), sessions)
        metrics.add(f"{prefix}recall_at_{k}", np.bincount(row_N, in_top_N, sessions) / clicked_S, user_S)
        metrics.add(f"{prefix}ndcg_at_{k}", gain_S / ideal[np.minimum(clicked_S, k)], user_S)
        metrics.add(f"{prefix}hit_at_{k}", (best_S < k).astype(np.float64), user_S)
    metrics.add(f"{prefix}mrr", 1 / (1 + best_S), user_S)


class ClickedItems(NamedTuple):
    """Scored clicked items of sessions; a session's are together."""

    nats_N: Shaped[np.ndarray, " N"]
    rank_N: Int[np.ndarray, " N"]
    """Its rank in the catalogue; 0 is the best."""
    is_ranked_N: Bool[np.ndarray, " N"]
    """The ranking metrics count the item."""
    item_N: Int[np.ndarray, " N"]
    session_N: Int[np.ndarray, " N"]
    user_N: Int[np.ndarray, " N"]


def add_clicked_items(metrics: Metrics, terms: ClickedItems, *, prefix: str = "") -> None:
    """Adds loss_nats_per_item, and what `add_ranking` adds."""
    metrics.add(f"{prefix}loss_nats_per_item", terms.nats_N, terms.user_N)
    ranked_N = terms.is_ranked_N
    add_ranking(metrics, terms.rank_N[ranked_N], terms.session_N[ranked_N], terms.user_N[ranked_N], prefix=prefix)


class Exposures(NamedTuple):
    """The labelled exposures that a score orders."""

    clicked_N: Bool[np.ndarray, " N"]
    session_N: Int[np.ndarray, " N"]
    user_N: Int[np.ndarray, " N"]


def add_within_session(metrics: Metrics, prefix: str, score_N: Shaped[np.ndarray, " N"], exposures: Exposures) -> None:
    """Adds how well a score orders the exposures of a session; a session with clicked and ignored ones is one term.

    {prefix}_auc: the share of (clicked, ignored) pairs in the right order, ties a half; the mean over sessions, which
    is GAUC with equal weights. {prefix}_gauc: the same, each session weighted by its exposures (Zhou et al. 1706.06978,
    with sessions in place of users). {prefix}_ndcg: NDCG of the whole session, binary gains; tied exposures each
    get the mean gain of the places that they share: its expected value if ties are ordered at random (McSherry &
    Najork 2008).
    """
    clicked_N, session_N, user_N = exposures
    order_P = np.lexsort((-score_N, session_N))
    score_P, clicked_P, session_P = score_N[order_P], clicked_N[order_P].astype(np.float64), session_N[order_P]
    _, start_S, row_P = np.unique(session_P, return_index=True, return_inverse=True)
    place_P = np.arange(len(score_P)) - start_S[row_P]
    is_new_P = (np.diff(score_P, prepend=np.nan) != 0) | (np.diff(session_P, prepend=-1) != 0)
    tie_P = np.cumsum(is_new_P) - 1

    def shared(values_P: np.ndarray) -> np.ndarray:
        """Returns the mean of each value over the exposures that tie."""
        return (np.bincount(tie_P, values_P) / np.bincount(tie_P))[tie_P]

    exposures_S, clicks_S = np.bincount(row_P), np.bincount(row_P, clicked_P)
    ignored_S = exposures_S - clicks_S
    both_S = (clicks_S > 0) & (ignored_S > 0)
    below_S = np.bincount(row_P, clicked_P * (exposures_S[row_P] - 1 - shared(place_P)))  # exposures below the clicks
    wins_S = below_S - clicks_S * (clicks_S - 1) / 2
    gain_S = np.bincount(row_P, clicked_P * shared(1 / np.log2(place_P + 2)))
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(max(exposures_S, default=0)) + 2)))

    user_S = user_N[order_P][start_S][both_S]
    auc_S = wins_S[both_S] / (clicks_S[both_S] * ignored_S[both_S])
    weight_S = exposures_S[both_S]
    metrics.add(f"{prefix}_auc", auc_S, user_S)
    metrics.add(f"{prefix}_gauc", auc_S * weight_S, user_S, weight_S)
    metrics.add(f"{prefix}_ndcg", gain_S[both_S] / ideal[clicks_S[both_S].astype(int)], user_S)
