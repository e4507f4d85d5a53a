"""Windows are cut for all users at once; each history's are those that a loop over its sessions makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionrec_jax.data import flat_log
from sessionrec_jax.data.codes import TEST, TRAIN
from sessionrec_jax.data.flat_log import FlatLog
from sessionrec_jax.data.windows import make_windows

ITEMS = 12  # of a row; a session has at most half as many


def log_of(histories: list[list[tuple[int, int]]]) -> FlatLog:
    """Returns a log of histories of (items, role)."""
    items_S = np.array([items for history in histories for items, _ in history], np.int32)
    return FlatLog(
        item_N=np.ones(items_S.sum(), np.int32),
        feedback_N=np.zeros(items_S.sum(), np.int8),
        session_items_S=items_S,
        session_seconds_S=np.zeros(len(items_S), np.int64),
        session_role_S=np.array([role for history in histories for _, role in history], np.int8),
        user_session_offsets_U1=np.append(0, np.cumsum([len(history) for history in histories])),
    )


def by_loop(history: list[tuple[int, int]], role: int, sessions: int) -> list[tuple[int, int, int]]:
    """Returns (first, end, first target) of the windows of one history."""
    items = [items for items, _ in history]
    end = sum(of <= role for _, of in history)
    target = max(sum(of < role for _, of in history), 1)
    windows = []
    while target < end:
        first = max(0, target - sessions // 2)
        while sum(items[first : target + 1]) > ITEMS:
            first += 1
        last = target + 1
        while last < end and last - first < sessions and sum(items[first : last + 1]) <= ITEMS:
            last += 1
        while first > 0 and last - first < sessions and sum(items[first - 1 : last]) <= ITEMS:
            first -= 1
        windows.append((first, last, target))
        target = last
    return windows


sessions_of_a_user = st.lists(st.tuples(st.integers(0, ITEMS // 2), st.integers(TRAIN, TEST)), max_size=12)
a_history = sessions_of_a_user.map(lambda history: sorted(history, key=lambda session: session[1]))


@given(st.lists(a_history, min_size=1, max_size=8), st.integers(TRAIN, TEST), st.integers(2, 6), st.integers(1, 4))
def test_the_windows_of_each_history_are_those_of_a_loop(histories, role, sessions, users_of_block):
    log, users = log_of(histories), np.arange(len(histories))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_log, "_USERS_OF_BLOCK", users_of_block)
        windows = make_windows(log, users, role, sessions=sessions, items=ITEMS)
    wanted = [
        (user, *(begin + place for place in window))
        for user, begin, history in zip(users, log.user_session_offsets_U1, histories, strict=False)
        for window in by_loop(history, role, sessions)
    ]
    found = np.stack([windows.user_W, windows.first_W, windows.last_W, windows.first_target_W], axis=1)
    assert found.tolist() == [list(each) for each in wanted]
