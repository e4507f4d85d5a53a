"""The items that a user was shown before: for `data.eval_seen = "masked"` and for recommending only new items.

Letters: S sessions, V ids, X entries of ragged rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.ragged import spans
from sessionrec_jax.data.store import FlatLog


def users_of(log: FlatLog, session_S: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    """Returns the log's user of each session."""
    return np.searchsorted(log.user_session_offsets_U1, session_S, side="right") - 1


def seen_items(log: FlatLog, session_S: Int[np.ndarray, " S"], ids: int) -> csr_array:
    """Returns [S, V]: the items that the user was exposed to, clicked or ignored, in any session before each of
    `session_S` (indices in the log). Context is not an exposure."""
    return exposed_items(log, log.user_session_offsets_U1[users_of(log, session_S)], session_S, ids)


def exposed_items(log: FlatLog, first_S: Int[np.ndarray, " S"], last_S: Int[np.ndarray, " S"], ids: int) -> csr_array:
    """Returns [S, V]: the items that were exposed, clicked or ignored, in the log's sessions first, ..., last - 1."""
    offsets = log.session_item_offsets_S1
    exposure_X, row_X = spans(offsets[first_S], offsets[last_S])
    is_exposure_X = log.feedback_N[exposure_X] <= CLICKED
    key_X = np.unique(row_X[is_exposure_X] * ids + log.item_N[exposure_X[is_exposure_X]])
    row_X, item_X = np.divmod(key_X, ids)
    offset_S1 = np.searchsorted(row_X, np.arange(len(first_S) + 1))
    return csr_array((np.ones(len(item_X)), item_X, offset_S1), shape=(len(first_S), ids))


def holds(rows: csr_array, row_X: Int[np.ndarray, " X"], item_X: Int[np.ndarray, " X"]) -> np.ndarray:
    """Returns whether each row contains the item."""
    row_N, ids = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.shape[1]
    return np.isin(row_X.astype(np.int64) * ids + item_X, row_N * ids + rows.indices)
