"""The item-level baselines as logs in which every item is a slot of its own. One model and one code path serve all.

    nspp        a slot is a session; its target is the next session (the log as it is)
    nipp        a slot is a clicked item; its target is the next clicked item
    nipp_plus   a slot is an exposure with its feedback, context included; its target is the next exposure

The paper does not define its "+"; this is our reading. Evaluation is at the borders of sessions: the history before a
held-out session becomes slots, and the session itself stays whole. So all paradigms answer the same question with the
same targets. Letters: N exposures, K kept ones, S sessions, U users, X targets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from sessionrec_jax.data.codes import CLICKED, TRAIN
from sessionrec_jax.data.ragged import offsets, ranges
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows

Paradigm = Literal["nspp", "nipp", "nipp_plus"]
SLOT = {"nspp": "session", "nipp": "clicked item", "nipp_plus": "exposure"}


class View(NamedTuple):
    """A log made of the stored one, with the origin of each user and session."""

    log: FlatLog
    user_U: Int64[np.ndarray, " U"]
    """The stored log's user of each user here."""
    session_S: Int64[np.ndarray, " S"] | None
    """The stored log's session of each session here. None: this is the stored log."""

    def to_stored(self, windows: Windows) -> Windows:
        """Returns windows of `log` whose `user_W` and `session_S` are indices into the stored log."""
        return dataclasses.replace(windows, user_W=self.user_U[windows.user_W], session_S=self.session_S)


@dataclass(frozen=True)
class _Kept:
    """The exposures that become slots."""

    index_K: Int64[np.ndarray, " K"]
    """Their indices among all exposures."""
    before_N1: Int64[np.ndarray, " N1"]
    """Entry n counts the kept ones among the first n exposures."""
    starts_U: Bool[np.ndarray, " U"]
    """Users that get an empty slot first, because nothing of their first session is kept. Without it their second
    session would have no query; with it every label of nspp exists here too."""


def _kept(log: FlatLog, paradigm: Paradigm) -> _Kept:
    is_kept_N = log.feedback_N == CLICKED if paradigm == "nipp" else np.ones(len(log.item_N), bool)
    before_N1 = offsets(is_kept_N)
    first_U, end_U = log.user_session_offsets_U1[:-1], log.user_session_offsets_U1[1:]
    item_S1, some_U = log.session_item_offsets_S1, first_U < end_U
    starts_U = np.zeros(log.users, bool)
    first_S = first_U[some_U]
    starts_U[some_U] = before_N1[item_S1[first_S]] == before_N1[item_S1[first_S + 1]]
    return _Kept(np.flatnonzero(is_kept_N), before_N1, starts_U)


def slots(log: FlatLog, paradigm: Paradigm) -> View:
    """Returns the log with every kept exposure as a session of one item; for nspp the log itself.

    Users stay the same. A slot has the time, context and role of its session. An empty start slot has the time and
    context of the user's first session, and trains.
    """
    if paradigm == "nspp":
        return View(log, np.arange(log.users), None)
    kept = _kept(log, paradigm)
    session_K = _session_of(log, kept.index_K)
    begin_U, end_U = kept.before_N1[log.user_item_offsets_U1[:-1]], kept.before_N1[log.user_item_offsets_U1[1:]]
    user_slots_U1 = offsets(end_U - begin_U + kept.starts_U)
    is_start_S = np.zeros(user_slots_U1[-1], bool)
    is_start_S[user_slots_U1[:-1][kept.starts_U]] = True
    session_S = np.empty(len(is_start_S), np.int64)
    session_S[~is_start_S], session_S[is_start_S] = session_K, log.user_session_offsets_U1[:-1][kept.starts_U]
    view = FlatLog(
        item_N=log.item_N[kept.index_K],
        feedback_N=log.feedback_N[kept.index_K],
        session_items_S=np.where(is_start_S, 0, 1).astype(np.int32),
        session_seconds_S=log.session_seconds_S[session_S],
        session_role_S=np.where(is_start_S, np.int8(TRAIN), log.session_role_S[session_S]),
        user_session_offsets_U1=user_slots_U1,
        session_context=log.context_of(session_S),
        click_probability_N=log.click_probability_of(kept.index_K),
    )
    return View(view, np.arange(log.users), session_S)


def _session_of(log: FlatLog, index_K: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(log.session_items_S)), log.session_items_S)[index_K]


def targets(log: FlatLog, users: np.ndarray, role: int, paradigm: Paradigm, *, history: int) -> View:
    """Makes a user of each session of `role` that follows another: at most `history` slots, then the whole session."""
    kept = _kept(log, paradigm)
    begin_X, target_X, user_X = _targets(log, users, role)
    item_S1 = log.session_item_offsets_S1
    first_K, last_K = kept.before_N1[item_S1[begin_X]], kept.before_N1[item_S1[target_X]]
    starts_X = kept.starts_U[user_X] & (last_K - first_K < history)
    first_K = np.maximum(first_K, last_K - history)
    slots_X = starts_X + (last_K - first_K) + 1
    user_slots_X1 = offsets(slots_X)
    past_N = kept.index_K[ranges(first_K, last_K)]

    session_items_S = np.ones(user_slots_X1[-1], np.int32)
    session_items_S[user_slots_X1[:-1][starts_X]] = 0
    session_items_S[user_slots_X1[1:] - 1] = log.session_items_S[target_X]
    role_S = np.full(user_slots_X1[-1], TRAIN, np.int8)
    role_S[user_slots_X1[1:] - 1] = role
    session_S = np.repeat(begin_X, slots_X)  # right for start slots; the others follow
    is_past_S = np.ones(len(session_S), bool)
    is_past_S[user_slots_X1[:-1][starts_X]] = is_past_S[user_slots_X1[1:] - 1] = False
    session_S[is_past_S] = _session_of(log, past_N)
    session_S[user_slots_X1[1:] - 1] = target_X

    # A user's exposures are the past ones and then the target's.
    own_N = ranges(item_S1[target_X], item_S1[target_X + 1])
    lengths_X2 = np.stack([last_K - first_K, log.session_items_S[target_X]], axis=1)
    is_past_N = np.repeat(np.tile([True, False], len(target_X)), lengths_X2.reshape(-1))
    index_N = np.empty(len(is_past_N), np.int64)
    index_N[is_past_N], index_N[~is_past_N] = past_N, own_N
    view = FlatLog(
        item_N=log.item_N[index_N],
        feedback_N=log.feedback_N[index_N],
        session_items_S=session_items_S,
        session_seconds_S=log.session_seconds_S[session_S],
        session_role_S=role_S,
        user_session_offsets_U1=user_slots_X1,
        session_context=log.context_of(session_S),
        click_probability_N=log.click_probability_of(index_N),
    )
    return View(view, user_X, session_S)


def _targets(log: FlatLog, users: np.ndarray, role: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (the user's first session, the target session, the user) of each session of `role` after the first."""
    begin_U, end_U = log.user_session_offsets_U1[users], log.user_session_offsets_U1[users + 1]
    session_X = ranges(np.minimum(begin_U + 1, end_U), end_U)
    place_X = np.repeat(np.arange(len(users)), np.maximum(end_U - begin_U - 1, 0))
    wanted_X = log.session_role_S[session_X] == role
    return begin_U[place_X][wanted_X], session_X[wanted_X], users[place_X][wanted_X]
