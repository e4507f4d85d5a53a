"""Users' histories cut into windows that fit a row, so that every session with a predecessor is scored exactly once.

Letters: W windows, U users, S sessions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Windows:
    """Consecutive sessions [first, last) of a user; those from `first_target` on with the wanted role are scored."""

    log: FlatLog
    role: int
    first_W: np.ndarray
    """Global session index, as are the next two."""
    last_W: np.ndarray
    first_target_W: np.ndarray
    user_W: np.ndarray
    """The stored log's user of each window."""
    session_S: np.ndarray
    """The stored log's session of each session of `log`."""

    def __len__(self) -> int:
        return len(self.first_W)

    @property
    def target_sessions(self) -> int:
        """Sessions that are scored in one pass."""
        return int((self.last_W - self.first_target_W).sum())

    @functools.cached_property
    def items_W(self) -> np.ndarray:
        """Exposures of each window."""
        offsets = self.log.session_item_offsets_S1
        return offsets[self.last_W] - offsets[self.first_W]


def windows(log: FlatLog, users: np.ndarray, role: int, sessions: int, items: int) -> Windows:
    """Cuts the histories of `users` so that every session of `role` with a predecessor is scored exactly once.

    A window holds at most `sessions` sessions and `items` items, and a scored session sees at least half a window of
    history where there is one. Sessions of a later role are never in it. Raises InputError where two neighbouring
    sessions do not fit a row.
    """
    begin_U = log.user_session_offsets_U1[users]
    last_U = log.user_session_offsets_U1[users + 1]
    end_U = begin_U + _before(log, begin_U, last_U, role + 1)
    target_U = np.maximum(begin_U + _before(log, begin_U, last_U, role), begin_U + 1)
    offsets = log.session_item_offsets_S1
    fits_U = (end_U - begin_U <= sessions) & (offsets[end_U] - offsets[begin_U] <= items)
    history_U3 = np.stack([begin_U, end_U, target_U], axis=1)
    whole_U = np.flatnonzero(fits_U & (target_U < end_U))
    cuts, user_W = [history_U3[whole_U]], [whole_U]
    for user in np.flatnonzero(~fits_U):
        cuts.append(_cut(offsets, *history_U3[user].tolist(), sessions, items))
        user_W.append(np.full(len(cuts[-1]), user))
    place_W = np.concatenate(user_W)  # in `users`
    in_order_W = np.argsort(place_W, kind="stable")
    first_W, last_W, first_target_W = np.concatenate(cuts)[in_order_W].T
    return Windows(
        log, role, first_W, last_W, first_target_W, users[place_W[in_order_W]], np.arange(len(log.session_items_S))
    )


def _before(log: FlatLog, begin_U: np.ndarray, end_U: np.ndarray, role: int) -> np.ndarray:
    """How many of each user's sessions have a role below `role`; they come first, for roles never decrease."""
    below_S1 = np.append(0, np.cumsum(log.session_role_S < role))
    return below_S1[end_U] - below_S1[begin_U]


def _cut(offsets: np.ndarray, begin: int, end: int, target: int, sessions: int, items: int) -> np.ndarray:
    """Windows [first, last) of one history that is too long for a row, each with its first target."""
    cut: list[tuple[int, int, int]] = []
    while target < end:
        if offsets[target + 1] - offsets[target - 1] > items:
            both = offsets[target + 1] - offsets[target - 1]
            raise InputError(
                f"two neighbouring sessions of {both} exposures do not fit a row of {items} item slots; raise "
                f"--data.items-per-row, or prepare the log with a smaller --max-session-items"
            )
        first = max(begin, target - sessions // 2)
        while offsets[target + 1] - offsets[first] > items:
            first += 1
        last = target + 1
        while last < end and last - first < sessions and offsets[last + 1] - offsets[first] <= items:
            last += 1
        while first > begin and last - first < sessions and offsets[last] - offsets[first - 1] <= items:
            first -= 1
        cut.append((first, last, target))
        target = last
    return np.array(cut, np.int64).reshape(-1, 3)
