"""Histories as the arrays that the program of answers reads. No jax in this file.

Letters: G shards of the batch (one a device that has a part of it), B histories of a shard, T exposures and L sessions
that are read of a history, M pairs of a history and an item that it must not get, W windows, N exposures, X sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sessionrec_jax.data.ragged import count_up, ranges
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.evaluation.seen import exposed_items
from sessionrec_jax.serving.limits import Limits


class HistoryBatch(NamedTuple):
    """The histories of a batch as the program reads them, oldest session first. Unused places are zero, unless a line
    says otherwise."""

    item_GBT: Int[Any, "*G B T"]
    """Dense ids of items."""
    feedback_GBT: Int[Any, "*G B T"]
    session_GBT: Int[Any, "*G B T"]
    """Number of the exposure's session, from 0, never decreasing; L where there is no exposure."""
    sessions_GB: Int[Any, "*G B"]
    """Number of sessions; 0 for an unused place, whose answer has no meaning."""
    seconds_GBL: Int[Any, "*G B L"]
    """Seconds from the start of the first session that is read to the start of this one."""
    context_GBL: dict[str, Int[Any, "*G B L"]]
    """Codes of each column of session context."""
    left_out_GM: tuple[Int[Any, "*G M"], Int[Any, "*G M"]]
    """Pairs (number of a history of the shard, dense id of an item that it must not get); number B is padding."""


def pack(
    recent: Windows, window_B: Int[np.ndarray, " W"], *, limits: Limits, context: Iterable[str], places: int
) -> HistoryBatch:
    """Returns some windows of `recent` as one shard of `places` histories, without pairs to leave out. `context` names
    the columns of session context that the model reads."""
    log, first_B, last_B = recent.log, recent.first_W[window_B], recent.last_W[window_B]
    offsets = log.session_item_offsets_S1
    session_X, length_B = ranges(first_B, last_B), last_B - first_B
    exposure_N, items_B = ranges(offsets[first_B], offsets[last_B]), offsets[last_B] - offsets[first_B]
    history_B = np.arange(len(window_B))
    item_at = np.repeat(history_B, items_B), count_up(items_B)
    session_at = np.repeat(history_B, length_B), count_up(length_B)

    def filled(width: int, at: tuple[np.ndarray, np.ndarray], values: np.ndarray, padding: int = 0) -> np.ndarray:
        array = np.full((places, width), padding, np.int32)
        array[at] = values
        return array

    seconds_X = log.session_seconds_S[session_X] - np.repeat(log.session_seconds_S[first_B], length_B)
    number_N = np.repeat(session_at[1], log.session_items_S[session_X])
    return HistoryBatch(
        item_GBT=filled(limits.exposures, item_at, log.item_N[exposure_N]),
        feedback_GBT=filled(limits.exposures, item_at, log.feedback_N[exposure_N]),
        session_GBT=filled(limits.exposures, item_at, number_N, limits.sessions),
        sessions_GB=np.pad(length_B, (0, places - len(window_B))).astype(np.int32),
        seconds_GBL=filled(limits.sessions, session_at, seconds_X),
        context_GBL={
            name: filled(limits.sessions, session_at, log.session_context[name][session_X]) for name in context
        },
        left_out_GM=(np.full(1, places, np.int32), np.zeros(1, np.int32)),
    )


def joined(ones: Sequence[HistoryBatch], places: int, pairs: int) -> HistoryBatch:
    """Returns batches of one place each as one of `places`, with room for `pairs` pairs."""
    sessions = ones[0].seconds_GBL.shape[-1]

    def stacked(arrays: Sequence[np.ndarray], padding: int = 0) -> np.ndarray:
        rows = np.concatenate(arrays)
        return np.pad(rows, ((0, places - len(rows)), *((0, 0),) * (rows.ndim - 1)), constant_values=padding)

    left_out = [one.left_out_GM[1][one.left_out_GM[0] == 0] for one in ones]
    history_M, item_M = np.full(pairs, places, np.int32), np.zeros(pairs, np.int32)
    numbers = np.repeat(np.arange(len(ones)), [len(items) for items in left_out])
    history_M[: len(numbers)], item_M[: len(numbers)] = numbers, np.concatenate(left_out)
    return HistoryBatch(
        item_GBT=stacked([one.item_GBT for one in ones]),
        feedback_GBT=stacked([one.feedback_GBT for one in ones]),
        session_GBT=stacked([one.session_GBT for one in ones], sessions),
        sessions_GB=stacked([one.sessions_GB for one in ones]),
        seconds_GBL=stacked([one.seconds_GBL for one in ones]),
        context_GBL={name: stacked([one.context_GBL[name] for one in ones]) for name in ones[0].context_GBL},
        left_out_GM=(history_M, item_M),
    )


def seen_pairs(log: FlatLog, user_B: Int[np.ndarray, " B"], ids: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs (number of the history, item) of the items that each user of `log` was shown, clicked or
    ignored."""
    users_U1 = log.user_session_offsets_U1
    seen_BV = exposed_items(log, users_U1[user_B], users_U1[user_B + 1], ids)
    history_M = np.repeat(np.arange(len(user_B)), np.diff(seen_BV.indptr))
    return history_M.astype(np.int32), seen_BV.indices.astype(np.int32)
