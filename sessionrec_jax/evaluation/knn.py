"""Session kNN: the sessions that followed the training sessions most like a user's history (V-SKNN, Ludewig & Jannach
1803.09587; we carry it over to next-session prediction).

Letters: S sessions, M transitions (a training session and its next one), V ids, X entries of ragged rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_array, diags_array

from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.ragged import spans
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.evaluation.seen import users_of

NEIGHBOURS = (100, 500, 2000)
DECAYS = (0.5, 0.8, 1.0)
_ENTRIES = 1 << 22
"""The number of similarities, and of votes, that are held at once."""
_MOST_SESSIONS = 1024
_DIGITS = 9
"""Similarities are rounded to this many decimal places, so that sums in another order stay equal."""


@dataclass(frozen=True)
class SessionKnn:
    """The transitions of the training sessions, most recent first."""

    log: FlatLog
    clicked_MV: csr_array
    """Distinct clicked items of the earlier session, of length one."""
    next_MV: csr_array
    """1 where the item was clicked in the later session."""

    @property
    def sessions_at_once(self) -> int:
        """The number of sessions whose votes are held at once: each may vote for the clicks of all its neighbours."""
        sessions, ids = self.next_MV.shape
        most = min(ids, max(NEIGHBOURS) * self.next_MV.nnz // max(sessions, 1) + 1)
        return min(max(_ENTRIES // most, 1), _MOST_SESSIONS)

    def votes(self, session_S: Int[np.ndarray, " S"], decay: float, neighbours: tuple[int, ...]) -> Iterator[csr_array]:
        """Yields, for each number of neighbours k, the score [S, V] of every item as the next click.

        The history ends before `session_S` (indices in the log). The score is a sum over the k transitions that are
        most similar to the history: the similarity, if the item was clicked in the later session. Similarity is the
        cosine of clicked items. In a history the weight of an item is the sum over its clicks of
        decay^(sessions between the click and the end). Of equally similar transitions the more recent are nearer.
        """
        query_SV = _clicks_before(self.log, session_S, decay, self.clicked_MV.shape[1])
        products_S = (query_SV > 0) @ np.bincount(self.clicked_MV.indices, minlength=query_SV.shape[1])
        part_S = np.cumsum(products_S) // _ENTRIES
        bounds = [*np.flatnonzero(np.diff(part_S, prepend=-1)), len(session_S)]
        similar = [_nearest(query_SV[a:b] @ self.clicked_MV.T, max(neighbours)) for a, b in pairwise(bounds)]
        sim_X, transition_X, place_X, row_X = (np.concatenate(parts) for parts in zip(*similar, strict=True))
        row_X = row_X + np.repeat(bounds[:-1], [len(part[0]) for part in similar])
        for k in neighbours:
            near = place_X < k
            shape = (len(session_S), self.clicked_MV.shape[0])
            near_SM = csr_array((sim_X[near], (row_X[near], transition_X[near])), shape=shape)
            vote_SV = near_SM @ self.next_MV
            vote_SV.data = vote_SV.data.round(_DIGITS)
            yield vote_SV


def session_knn(log: FlatLog, trained_S: Bool[np.ndarray, " S"], ids: int) -> SessionKnn:
    """Returns the transitions between two sessions of `trained_S` that both have a click."""
    session_N = np.repeat(np.arange(len(trained_S)), log.session_items_S)
    usable_S = trained_S & (np.bincount(session_N[log.feedback_N == CLICKED], minlength=len(trained_S)) > 0)
    user_S = users_of(log, np.arange(len(usable_S)))
    earlier_M = np.flatnonzero(usable_S[:-1] & usable_S[1:] & (user_S[:-1] == user_S[1:]))
    earlier_M = earlier_M[np.argsort(-log.session_seconds_S[earlier_M + 1], kind="stable")]
    clicked_MV, next_MV = (clicks(log, session_M, ids) for session_M in (earlier_M, earlier_M + 1))
    return SessionKnn(log, _unit(clicked_MV), next_MV)


def clicks(log: FlatLog, session_S: Int[np.ndarray, " S"], ids: int) -> csr_array:
    """Returns [S, V]: 1 where the session has a click on the item."""
    exposure_X, row_X = spans(log.session_item_offsets_S1[session_S], log.session_item_offsets_S1[session_S + 1])
    clicked = log.feedback_N[exposure_X] == CLICKED
    row_X, item_X = row_X[clicked], log.item_N[exposure_X[clicked]]
    rows_SV = csr_array((np.ones(len(row_X)), (row_X, item_X)), shape=(len(session_S), ids))
    rows_SV.data[:] = 1  # an item clicked twice was summed
    return rows_SV


def _clicks_before(log: FlatLog, session_S: np.ndarray, decay: float, ids: int) -> csr_array:
    """Returns [S, V]: the clicks of the histories, each with weight decay^(sessions after it); rows have length one."""
    begin_S = log.user_session_offsets_U1[users_of(log, session_S)]
    history_X, row_X = spans(begin_S, session_S)
    weight_X = decay ** (session_S[row_X] - 1.0 - history_X)
    exposure_Y, entry_Y = spans(log.session_item_offsets_S1[history_X], log.session_item_offsets_S1[history_X + 1])
    clicked = log.feedback_N[exposure_Y] == CLICKED
    exposure_Y, entry_Y = exposure_Y[clicked], entry_Y[clicked]
    return _unit(csr_array((weight_X[entry_Y], (row_X[entry_Y], log.item_N[exposure_Y])), shape=(len(session_S), ids)))


def _unit(rows: csr_array) -> csr_array:
    length = np.sqrt(rows.power(2).sum(axis=1))
    return csr_array(diags_array(1 / np.where(length > 0, length, 1)) @ rows)


def _nearest(sim_SM: csr_array, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the `most` largest entries of each row, ties by column: value, column, place in its row, row."""
    sim_SM.data = sim_SM.data.round(_DIGITS)
    parts = []
    for row, (start, stop) in enumerate(pairwise(sim_SM.indptr)):
        sim_X, column_X = sim_SM.data[start:stop], sim_SM.indices[start:stop]
        if len(sim_X) > most:
            near = sim_X >= np.partition(sim_X, -most)[-most]
            sim_X, column_X = sim_X[near], column_X[near]
        order = np.lexsort((column_X, -sim_X))[:most]
        parts.append((sim_X[order], column_X[order], np.arange(len(order)), np.full(len(order), row)))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
