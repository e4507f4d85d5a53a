"""Predictors without parameters, measured like a model and on the same sessions; numpy and scipy on the log itself.

    evaluate_baselines(config, prepared, catalogue, TEST)["session_knn_ndcg_at_50"]

popularity_: training clicks. recent_popularity_: those of the last part of the training period. repeat_last_: the items
of the last session again, clicked ones first. session_knn_: items that followed similar training sessions (knn.py). A
predictor is a sparse positive score of some items, and an order of all items that ranks the rest and decides ties.

Letters: S held-out sessions, N their clicked items, V ids, X entries of ragged rows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_array

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.batches import counted_users, eval_users
from sessionrec_jax.data.catalogue import Catalogue, popularity_rank
from sessionrec_jax.data.codes import CLICKED, TRAIN, VALIDATION
from sessionrec_jax.data.ragged import spans
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.evaluation.knn import DECAYS, NEIGHBOURS, clicks, session_knn
from sessionrec_jax.evaluation.metrics import Metrics, add_ranking
from sessionrec_jax.evaluation.seen import holds, seen_items, users_of

BASELINES = ("popularity", "recent_popularity", "repeat_last", "session_knn")
RECENT_PARTS = (0.01, 0.03, 0.1, 0.3)
"""Shares of the training period that recent popularity may count the clicks of."""
_CHOSEN_BY = "ndcg_at_50"


def popularity_rank_nats(catalogue: Catalogue, item_N: np.ndarray, clicked_N: np.ndarray) -> np.ndarray:
    """Returns the binary cross-entropy of each exposure under its item's smoothed click rate, in nats."""
    rate_N = np.clip(catalogue.click_rate_V[item_N].astype(np.float64), 1e-9, 1 - 1e-9)
    return -np.where(clicked_N, np.log(rate_N), np.log1p(-rate_N))


@dataclass(frozen=True)
class HeldOutSessions:
    """S sessions of the log and their N distinct clicked items, sorted by session."""

    session_S: Int[np.ndarray, " S"]
    user_S: Int[np.ndarray, " S"]
    row_N: Int[np.ndarray, " N"]
    """Index among the S sessions."""
    item_N: Int[np.ndarray, " N"]
    seen_SV: csr_array
    """Items that are not candidates."""

    def blocks(self, sessions: int) -> Iterator[HeldOutSessions]:
        """Yields parts of at most `sessions` sessions."""
        for first in range(0, len(self.session_S), sessions):
            rows = slice(first, first + sessions)
            terms = slice(*np.searchsorted(self.row_N, [first, first + sessions]))
            row_N, item_N = self.row_N[terms] - first, self.item_N[terms]
            yield HeldOutSessions(
                session_S=self.session_S[rows], user_S=self.user_S[rows], row_N=row_N, item_N=item_N,
                seen_SV=self.seen_SV[rows],
            )  # fmt: skip


class Predictor(NamedTuple):
    """Ranks items with a positive score first, by score; equal ones and the rest by their place in an order of all."""

    score_SV: csr_array
    place_V: np.ndarray


def evaluate_baselines(
    config: Config, prepared: Prepared, catalogue: Catalogue, role: int
) -> dict[str, float | int | str | None]:
    """Returns recall, NDCG, hit rate and MRR of each of BASELINES (popularity_recall_at_10 and so on) with standard
    errors over users; `seen_items`: kept or masked; and the settings chosen on the validation sessions by NDCG@50:
    `recent_popularity_part`, `session_knn_neighbours`, `session_knn_decay`."""
    metrics, chosen = measure_baselines(config, prepared, catalogue, role)
    return {"seen_items": config.data.eval_seen, **metrics.result(), **chosen}


def measure_baselines(
    config: Config, prepared: Prepared, catalogue: Catalogue, role: int
) -> tuple[Metrics, dict[str, float | int]]:
    """Returns the metrics of `evaluate_baselines` as sums by user, and the chosen settings.

    Without validation sessions the first of each list of choices is taken.
    """
    log, popular_V = prepared.arrays(), popularity_rank(catalogue)
    ids = len(popular_V)
    is_trained_S = trained_sessions(config, prepared)
    recent = {part: recent_popularity_rank(log, is_trained_S, part, popular_V) for part in RECENT_PARTS}
    knn = session_knn(log, is_trained_S, ids)

    def nothing(block: HeldOutSessions) -> csr_array:
        return csr_array((len(block.session_S), ids))

    def recents(block: HeldOutSessions) -> Iterator[Predictor]:
        return (Predictor(nothing(block), place_V) for place_V in recent.values())

    def knns(block: HeldOutSessions) -> Iterator[Predictor]:
        for decay in DECAYS:
            for vote_SV in knn.votes(block.session_S, decay, NEIGHBOURS):
                yield Predictor(vote_SV, popular_V)

    validation = held_out(config, prepared, VALIDATION)
    measured = functools.partial(_measured, log, at_once=knn.sessions_at_once)
    part = _best(measured(validation, RECENT_PARTS, recents), RECENT_PARTS)
    choices = tuple(itertools.product(DECAYS, NEIGHBOURS))
    decay, neighbours = _best(measured(validation, choices, knns), choices)

    def predictors(block: HeldOutSessions) -> Iterator[Predictor]:
        yield Predictor(nothing(block), popular_V)
        yield Predictor(nothing(block), recent[part])
        yield Predictor(last_session(log, block.session_S, ids), popular_V)
        yield Predictor(next(knn.votes(block.session_S, decay, (neighbours,))), popular_V)

    metrics = measured(held_out(config, prepared, role), BASELINES, predictors)
    return metrics, {
        "recent_popularity_part": part, "session_knn_neighbours": neighbours, "session_knn_decay": decay,
    }  # fmt: skip


def held_out(config: Config, prepared: Prepared, role: int) -> HeldOutSessions:
    """Returns the sessions of `role` that have a session before them and a clicked item, which must be new to the user
    if `data.eval_seen` is masked."""
    log, ids = prepared.arrays(), prepared.items + 1
    is_scored_S = log.session_role_S == role
    is_scored_S &= np.isin(users_of(log, np.arange(len(is_scored_S))), eval_users(config, prepared, role))
    is_scored_S[_first_sessions(log)] = False
    clicked_SV = clicks(log, np.flatnonzero(is_scored_S), ids)
    row_N, item_N = clicked_SV.nonzero()
    session_S = np.flatnonzero(is_scored_S)
    seen_SV = csr_array(clicked_SV.shape)
    if config.data.eval_seen == "masked":
        seen_SV = seen_items(log, session_S, ids)
        is_new_N = ~holds(seen_SV, row_N, item_N)
        row_N, item_N = row_N[is_new_N], item_N[is_new_N]
    asked_S, row_N = np.unique(row_N, return_inverse=True)
    session_S = session_S[asked_S]
    return HeldOutSessions(
        session_S=session_S, user_S=users_of(log, session_S), row_N=row_N, item_N=item_N.astype(np.int64),
        seen_SV=seen_SV[asked_S],
    )  # fmt: skip


def ranks(block: HeldOutSessions, predictor: Predictor) -> Int[np.ndarray, " N"]:
    """Returns the number of other candidates that the predictor ranks before each clicked item."""
    score_SV, place_V = predictor
    score_SV = csr_array(score_SV - score_SV * (block.seen_SV > 0))
    score_SV.eliminate_zeros()
    score_SV.sort_indices()
    row_X, item_X, ids = _rows(score_SV), score_SV.indices, score_SV.shape[1]
    position_X = _places(np.lexsort((place_V[item_X], -score_SV.data, row_X)))
    own_N = block.row_N * ids + block.item_N
    entry_N = np.searchsorted(row_X * ids + item_X, own_N)
    is_scored_N = np.append(row_X * ids + item_X, -1)[entry_N] == own_N
    first_N, scored_N = score_SV.indptr[block.row_N], np.diff(score_SV.indptr)[block.row_N]
    place_N = place_V[block.item_N]
    counted_N = sum(_before(items, place_V, block.row_N, place_N) for items in (score_SV, block.seen_SV))
    return np.where(is_scored_N, np.append(position_X, 0)[entry_N] - first_N, scored_N + place_N - counted_N)


def _rows(items_SV: csr_array) -> np.ndarray:
    return np.repeat(np.arange(items_SV.shape[0]), np.diff(items_SV.indptr))


def _before(items_SV: csr_array, place_V: np.ndarray, row_N: np.ndarray, place_N: np.ndarray) -> np.ndarray:
    """Returns how many entries of each term's row have a place before the term's own."""
    ids = len(place_V)
    sorted_X = np.sort(_rows(items_SV) * ids + place_V[items_SV.indices])
    return np.searchsorted(sorted_X, row_N * ids + place_N) - items_SV.indptr[row_N]


def recent_popularity_rank(
    log: FlatLog, is_trained_S: Bool[np.ndarray, " S"], part: float, popular_V: Int[np.ndarray, " V"]
) -> Int[np.ndarray, " V"]:
    """Ranks the items by their clicks in the last `part` of the time between the first and the last training session.

    Ties are decided by popularity in all of it. Padding comes last.
    """
    seconds_S = log.session_seconds_S
    first, last = seconds_S[is_trained_S].min(), seconds_S[is_trained_S].max()
    is_recent_N = np.repeat(is_trained_S & (seconds_S >= last - part * (last - first)), log.session_items_S)
    clicks_V = np.bincount(log.item_N[is_recent_N & (log.feedback_N == CLICKED)], minlength=len(popular_V))
    return _places(np.lexsort((popular_V, -clicks_V)))


def last_session(log: FlatLog, session_S: Int[np.ndarray, " S"], ids: int) -> csr_array:
    """Returns [S, V]: 2 for the items clicked in the session before, 1 for its others."""
    offsets = log.session_item_offsets_S1
    exposure_X, row_X = spans(offsets[session_S - 1], offsets[session_S])
    clicked_SV = clicks(log, session_S - 1, ids)
    shown_SV = csr_array((np.ones(len(row_X)), (row_X, log.item_N[exposure_X])), shape=clicked_SV.shape)
    return csr_array((shown_SV > 0).astype(np.float64) + clicked_SV)


def _measured(
    log: FlatLog,
    sessions: HeldOutSessions,
    names: Iterable[Any],
    predictors: Callable[[HeldOutSessions], Iterator[Predictor]],
    *,
    at_once: int,
) -> Metrics:
    """Returns NAME_recall_at_10 and so on of the predictors; `names` are in the same order."""
    metrics = Metrics(log.users)
    for block in sessions.blocks(at_once):
        session_N, user_N = block.session_S[block.row_N], block.user_S[block.row_N]
        for name, predictor in zip(names, predictors(block), strict=True):
            add_ranking(metrics, ranks(block, predictor), session_N, user_N, prefix=f"{name}_")
    return metrics


def _best(metrics: Metrics, choices: tuple[Any, ...]) -> Any:
    return max(choices, key=lambda choice: metrics.mean(f"{choice}_{_CHOSEN_BY}") or 0.0)


def trained_sessions(config: Config, prepared: Prepared) -> Bool[np.ndarray, " S"]:
    """Returns the training sessions in which this run counts popularity."""
    log = prepared.arrays()
    user_S = users_of(log, np.arange(len(log.session_role_S)))
    return (log.session_role_S == TRAIN) & np.isin(user_S, counted_users(config, prepared))


def _first_sessions(log: FlatLog) -> np.ndarray:
    begin_U, end_U = log.user_session_offsets_U1[:-1], log.user_session_offsets_U1[1:]
    return begin_U[begin_U < end_U]


def _places(order_V: np.ndarray) -> Int[np.ndarray, " V"]:
    place_V = np.empty(len(order_V), np.int64)
    place_V[order_V] = np.arange(len(order_V))
    return place_V
