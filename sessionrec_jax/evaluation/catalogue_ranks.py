"""Ranks and likelihoods of clicked items in the whole catalogue: each held-out session is scored once, for all its
clicked items.

    queue = CatalogueQueue(mesh, table, record)
    queue.add(sessions_G)  # of every batch
    queue.score()

Sessions wait in the queue until there are thousands of them, because the few of one batch would leave most of a block
of queries empty. Letters: G shards, B waiting sessions of a shard, N their clicked items, Q queries of one call, K
clicked items of a query, M pairs, V ids, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse import csr_array, vstack

from sessionrec_jax.data.ragged import count_up
from sessionrec_jax.devices.mesh import shards_here
from sessionrec_jax.devices.placement import held_shards, put_shards
from sessionrec_jax.devices.processes import max_over_processes
from sessionrec_jax.evaluation.metrics import ClickedItems
from sessionrec_jax.evaluation.scoring import (
    BLOCK,
    ITEMS_AT_ONCE,
    HeldRows,
    ItemTable,
    log_sum_and_ranks,
    over_rows,
    padded_width,
    pairs_scores,
    stack_pairs,
)

QUERIES = 4 * BLOCK
"""The number of queries of a shard that one call of the program takes."""
_TOGETHER = 8 * QUERIES
"""The number of sessions of a shard that wait for each other."""


class ClickedSessions(NamedTuple):
    """B sessions of one shard and their N clicked items, sorted by session."""

    query_BD: Float[np.ndarray, "B D"]
    row_N: Int[np.ndarray, " N"]
    """Index among the B sessions; each has an item."""
    item_N: Int[np.ndarray, " N"]
    score_N: Float[np.ndarray, " N"]
    tie_N: Float[np.ndarray, " N"]
    """Distance within which another item's score counts as equal (`scoring.pair_scores`)."""
    session_N: Int[np.ndarray, " N"]
    """Index in the log, as is the user's."""
    user_N: Int[np.ndarray, " N"]
    ranked_N: Bool[np.ndarray, " N"]
    """The ranking metrics count the item."""
    seen_BV: csr_array | None
    """Items that are not candidates of the ranking metrics."""

    @property
    def least_N(self) -> Float[np.ndarray, " N"]:
        """The score from which on another item is ranked before this one; every item is before one whose own is NaN."""
        lowest = np.finfo(np.float32).min  # above the -inf of rows that are not items
        return np.nan_to_num(self.score_N - self.tie_N, nan=lowest, posinf=np.inf, neginf=lowest)

    def scored(self, log_sum_N: Float[np.ndarray, " N"], rank_N: Int[np.ndarray, " N"]) -> ClickedItems:
        """Returns the items with their nats, from the log of the sum of exp(score) over the catalogue, and ranks."""
        nats_N = (log_sum_N - self.score_N).astype(np.float64)
        return ClickedItems(nats_N, rank_N, self.ranked_N, self.item_N, self.session_N, self.user_N)


def _joined(parts: list[ClickedSessions]) -> ClickedSessions:
    """Returns the sessions of all parts, one part after the other."""
    sessions = [len(part.query_BD) for part in parts]
    before = np.cumsum(sessions) - sessions
    columns = [np.concatenate(column) for column in list(zip(*parts, strict=True))[:-1]]
    whole = ClickedSessions(*columns, seen_BV=None)
    seen = [part.seen_BV for part in parts if part.seen_BV is not None]
    return whole._replace(
        row_N=whole.row_N + np.repeat(before, [len(part.row_N) for part in parts]),
        seen_BV=vstack(seen, format="csr") if seen else None,
    )


class CatalogueQueue:
    """Sessions that wait to be scored; every process adds the shards that it holds, and all call in step."""

    def __init__(self, mesh: jax.sharding.Mesh, table: ItemTable, record: Callable[[ClickedItems], None]):
        """`record` gets the scored items of each shard that this process counts."""
        self.mesh, self.table, self.record = mesh, table, record
        self.waiting_G: list[list[ClickedSessions]] = [[] for _ in shards_here(mesh)[0]]

    def add(self, sessions_G: list[ClickedSessions]) -> None:
        for waiting, sessions in zip(self.waiting_G, sessions_G, strict=True):
            waiting.append(sessions)
        most = max(sum(len(sessions.query_BD) for sessions in waiting) for waiting in self.waiting_G)
        if max_over_processes(most) >= _TOGETHER:
            self.score()

    def score(self) -> None:
        """Scores the sessions that wait."""
        sessions_G = [_joined(waiting) for waiting in self.waiting_G if waiting]
        self.waiting_G = [[] for _ in self.waiting_G]
        if not sessions_G:
            return
        answers_G = _answers(self.mesh, self.table, sessions_G)
        counted_G = shards_here(self.mesh)[1]
        for sessions, (log_sum_N, rank_N), counted in zip(sessions_G, answers_G, counted_G, strict=True):
            if counted:
                self.record(sessions.scored(log_sum_N, rank_N))


class _Laid:
    """The sessions of a shard laid out as queries, and the answers.

    An item that a session has twice is asked once. The sessions with the most items come first, so that the queries of
    a block have about as many.
    """

    def __init__(self, sessions: ClickedSessions):
        # Items are sorted by session, and then by `least_N`.
        key_N = sessions.row_N << 32 | sessions.item_N
        _, first_D, distinct_N = np.unique(key_N, return_index=True, return_inverse=True)
        row_D, least_D = sessions.row_N[first_D], sessions.least_N[first_D]
        sorted_D = np.lexsort((least_D, row_D))
        items_B = np.bincount(row_D, minlength=len(sessions.query_BD))
        order_B = np.argsort(-items_B, kind="stable")
        at_D = _inverse(order_B)[row_D], count_up(items_B)[_inverse(sorted_D)]
        self.sessions = sessions
        self.at_N = tuple(x_D[distinct_N] for x_D in at_D)
        """The query of each item, and the item's number among the query's."""
        self.order_B = order_B
        self.most = int(items_B.max(initial=0))

    def lay(self, queries: int, width: int) -> None:
        sessions, order_B = self.sessions, self.order_B
        self.query_QD = np.zeros((queries, sessions.query_BD.shape[1]), np.float32)
        self.query_QD[: len(order_B)] = sessions.query_BD[order_B]
        self.item_QK = np.zeros((queries, width), np.int32)
        self.item_QK[self.at_N] = sessions.item_N
        self.least_QK = np.full((queries, width), np.inf, np.float32)
        self.least_QK[self.at_N] = sessions.least_N
        self.seen_BV = None if sessions.seen_BV is None else sessions.seen_BV[order_B]
        self.log_sum_Q, self.rank_QK = np.zeros(queries, np.float32), np.zeros((queries, width), np.int64)

    def pairs(self, queries: slice) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pairs (number among `queries`, item that is no candidate)."""
        seen = self.seen_BV[queries]
        return np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.indices

    def answer(self, queries: slice, log_sum_Q: np.ndarray, rank_QK: np.ndarray, score_M: np.ndarray | None) -> None:
        """Takes the numbers of `queries`, with the scores of their pairs, which must not count in the ranks."""
        self.log_sum_Q[queries], self.rank_QK[queries] = log_sum_Q, rank_QK
        if score_M is not None:
            number_M, _ = self.pairs(queries)
            above_MK = ~(score_M[: len(number_M), None] < self.least_QK[queries][number_M])
            np.subtract.at(self.rank_QK[queries], number_M, above_MK)

    def answers(self) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        return self.log_sum_Q[self.at_N[0]], self.rank_QK[self.at_N]


def _inverse(order_X: Int[np.ndarray, " X"]) -> Int[np.ndarray, " X"]:
    place_X = np.empty(len(order_X), np.int64)
    place_X[order_X] = np.arange(len(order_X))
    return place_X


def _answers(
    mesh: jax.sharding.Mesh, table: ItemTable, sessions_G: list[ClickedSessions]
) -> list[tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]]:
    """Returns for each clicked item the log of the sum of exp(score) over the catalogue, and its rank among the
    candidates."""
    laid_G = [_Laid(sessions) for sessions in sessions_G]
    calls = max_over_processes(max(-(-len(sessions.query_BD) // QUERIES) for sessions in sessions_G))
    width = padded_width(max_over_processes(max(laid.most for laid in laid_G)), ITEMS_AT_ONCE)
    for laid in laid_G:
        laid.lay(calls * QUERIES, width)
    for call in range(calls):
        part = slice(call * QUERIES, (call + 1) * QUERIES)
        pairs = None
        if laid_G[0].seen_BV is not None:
            pairs = stack_pairs([laid.pairs(part) for laid in laid_G], QUERIES)
        asked_G = [(laid.query_QD[part], laid.item_QK[part], laid.least_QK[part]) for laid in laid_G]
        asked = [np.stack(x_G) for x_G in zip(*asked_G, strict=True)]
        found = held_shards(_ranks(mesh, table, *put_shards((*asked, pairs), mesh)), mesh)
        for shard, laid in enumerate(laid_G):
            laid.answer(part, *jax.tree.map(lambda x_G, shard=shard: x_G[shard], found))
    return [laid.answers() for laid in laid_G]


@functools.partial(jax.jit, static_argnums=0)
def _ranks(
    mesh: jax.sharding.Mesh,
    table: ItemTable,
    query_GQD: Float[Array, "G Q D"],
    item_GQK: Int[Array, "G Q K"],
    least_GQK: Float[Array, "G Q K"],
    pairs: tuple[Int[Array, "G M"], Int[Array, "G M"]] | None,
) -> tuple[Float[Array, "G Q"], Int[Array, "G Q K"], Float[Array, "G M"] | None]:
    """Returns `log_sum_and_ranks` of every shard, and the scores of its pairs."""

    def of_shard(rows: HeldRows, query_QD: Array, item_QK: Array, least_QK: Array, pairs: Any) -> tuple[Any, ...]:
        seen_score_M = None if pairs is None else pairs_scores(rows, query_QD, pairs)
        return *log_sum_and_ranks(rows, query_QD, item_QK, least_QK), seen_score_M

    return over_rows(mesh, of_shard, table, (query_GQD, item_GQK, least_GQK, pairs))
