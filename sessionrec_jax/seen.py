"""What a user was shown before a session, read off the whole log: for `data.eval_seen = "masked"`.

Letters: S sessions, V ids, X entries of ragged rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from sessionrec_jax.data.batches import CLICKED
from sessionrec_jax.data.store import FlatLog


def spans(first_S: Int[np.ndarray, " S"], last_S: Int[np.ndarray, " S"]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers first, ..., last - 1 of each span, one after the other, and the span of each."""
    length_S = last_S - first_S
    span_X = np.repeat(np.arange(len(length_S)), length_S)
    return np.arange(len(span_X)) + (first_S - (np.cumsum(length_S) - length_S))[span_X], span_X


def users_of(log: FlatLog, session_S: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    """The log's user of each of its sessions."""
    return np.searchsorted(log.user_session_offsets_U1, session_S, side="right") - 1


def seen_items(log: FlatLog, session_S: Int[np.ndarray, " S"], ids: int) -> csr_array:
    """[S, V]: the items that its user was exposed to, clicked or ignored, in any session before each one of
    `session_S` (indices in the log). Context is no exposure."""
    offsets = log.session_item_offsets_S1
    begin_S = log.user_session_offsets_U1[users_of(log, session_S)]
    exposure_X, row_X = spans(offsets[begin_S], offsets[session_S])
    is_exposure_X = log.feedback_N[exposure_X] <= CLICKED
    key_X = np.unique(row_X[is_exposure_X] * ids + log.item_N[exposure_X[is_exposure_X]])
    row_X, item_X = np.divmod(key_X, ids)
    offset_S1 = np.searchsorted(row_X, np.arange(len(session_S) + 1))
    return csr_array((np.ones(len(item_X)), item_X, offset_S1), shape=(len(session_S), ids))


def holds(rows: csr_array, row_X: Int[np.ndarray, " X"], item_X: Int[np.ndarray, " X"]) -> np.ndarray:
    """Whether each row holds the item."""
    row_N, ids = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.shape[1]
    return np.isin(row_X.astype(np.int64) * ids + item_X, row_N * ids + rows.indices)
