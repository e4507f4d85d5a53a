"""Counts over the training sessions of some users, some users at a time: they take as much memory for any log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64

from sessionrec_jax.data.codes import CLICKED, TRAIN
from sessionrec_jax.data.flat_log import FlatLog, blocks


class _Stretch(NamedTuple):
    """Neighbouring users of a log."""

    item_N: Int32[np.ndarray, " N"]
    feedback_N: Int8[np.ndarray, " N"]
    items_S: Int32[np.ndarray, " S"]
    is_training_S: Bool[np.ndarray, " S"]
    """True for the training sessions of the users who are counted."""
    opens_S: Bool[np.ndarray, " S"]
    """True for the first session of a user."""


def item_counts(
    log: FlatLog, users: Int64[np.ndarray, " U"], ids: int
) -> tuple[Int64[np.ndarray, " V"], Int64[np.ndarray, " V"]]:
    """Returns clicks, and clicked and ignored exposures, of each item in the training sessions of `users`, which
    ascend.

    `ids` is V, the number of items and one for padding.
    """
    clicks_V, exposures_V = np.zeros(ids, np.int64), np.zeros(ids, np.int64)
    for part in _stretches(log, users):
        counted_N = np.repeat(part.is_training_S, part.items_S)
        clicks_V += np.bincount(part.item_N[counted_N & (part.feedback_N == CLICKED)], minlength=ids)
        exposures_V += np.bincount(part.item_N[counted_N & (part.feedback_N <= CLICKED)], minlength=ids)
    return clicks_V, exposures_V


def target_counts(log: FlatLog, users: Int64[np.ndarray, " U"]) -> tuple[int, int]:
    """Returns the number of training sessions of `users`, which ascend, that follow another session, and the number of
    their labelled exposures."""
    sessions = exposures = 0
    for part in _stretches(log, users):
        is_target_S = part.is_training_S & ~part.opens_S
        sessions += int(np.count_nonzero(is_target_S))
        is_counted_N = np.repeat(is_target_S, part.items_S) & (part.feedback_N <= CLICKED)
        exposures += int(np.count_nonzero(is_counted_N))
    return sessions, exposures


def _stretches(log: FlatLog, users: np.ndarray) -> Iterator[_Stretch]:
    """Yields all users from the first to the last of `users`, some at a time."""
    if not len(users):
        return
    for block in blocks(np.arange(users[0], users[-1] + 1)):
        bounds_U1 = log.user_session_offsets_U1[block[0] : block[-1] + 2]
        first, last = bounds_U1[[0, -1]]
        items = slice(*log.session_item_offsets_S1[[first, last]])
        is_counted_U = np.zeros(len(block), bool)
        is_counted_U[users[slice(*np.searchsorted(users, [block[0], block[-1] + 1]))] - block[0]] = True
        opens_S = np.zeros(last - first + 1, bool)
        opens_S[bounds_U1[:-1] - first] = True
        yield _Stretch(
            item_N=log.item_N[items],
            feedback_N=log.feedback_N[items],
            items_S=log.session_items_S[first:last],
            is_training_S=np.repeat(is_counted_U, np.diff(bounds_U1)) & (log.session_role_S[first:last] == TRAIN),
            opens_S=opens_S[:-1],
        )
