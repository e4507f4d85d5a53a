"""Users' histories split into windows that fit a row, and the item slots of a row.

Every session that follows another is a target exactly once.

Letters: W windows, U users, S sessions.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Windows:
    """Consecutive sessions [first, last) of a user. Those from `first_target` on that have the role are scored."""

    log: FlatLog
    role: int
    first_W: np.ndarray
    """Index of a session in `log`, like the next two."""
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
        """The number of sessions that one pass scores."""
        return int((self.last_W - self.first_target_W).sum())

    @property
    def sessions_W(self) -> np.ndarray:
        return self.last_W - self.first_W

    @functools.cached_property
    def items_W(self) -> np.ndarray:
        """Number of exposures in each window."""
        offsets = self.log.session_item_offsets_S1
        return offsets[self.last_W] - offsets[self.first_W]


def make_windows(log: FlatLog, users: np.ndarray, role: int, *, sessions: int, items: int) -> Windows:
    """Splits the histories of `users` so that every session of `role` that follows another is scored exactly once.

    A window holds at most `sessions` sessions and `items` items. A scored session sees at least half a window of
    history if the user has that much. Sessions of a later role are left out. Raises InputError if two neighbouring
    sessions do not fit a row.
    """
    begin_U = log.user_session_offsets_U1[users]
    last_U = log.user_session_offsets_U1[users + 1]
    end_U = begin_U + _sessions_below(log, begin_U, last_U, role + 1)
    target_U = np.maximum(begin_U + _sessions_below(log, begin_U, last_U, role), begin_U + 1)
    offsets = log.session_item_offsets_S1
    fits_U = (end_U - begin_U <= sessions) & (offsets[end_U] - offsets[begin_U] <= items)
    history_U3 = np.stack([begin_U, end_U, target_U], axis=1)
    whole_U = np.flatnonzero(fits_U & (target_U < end_U))
    bounds, user_W = [history_U3[whole_U]], [whole_U]
    for user in np.flatnonzero(~fits_U):
        begin, end, target = history_U3[user].tolist()
        bounds.append(_split(offsets, begin, end, target, sessions=sessions, items=items))
        user_W.append(np.full(len(bounds[-1]), user))
    place_W = np.concatenate(user_W)  # in `users`
    in_order_W = np.argsort(place_W, kind="stable")
    first_W, last_W, first_target_W = np.concatenate(bounds)[in_order_W].T
    return Windows(
        log=log,
        role=role,
        first_W=first_W,
        last_W=last_W,
        first_target_W=first_target_W,
        user_W=users[place_W[in_order_W]],
        session_S=np.arange(len(log.session_items_S)),
    )


def _sessions_below(log: FlatLog, begin_U: np.ndarray, end_U: np.ndarray, role: int) -> np.ndarray:
    """Counts each user's sessions with a role below `role`. They come first, because roles never decrease."""
    below_S1 = np.append(0, np.cumsum(log.session_role_S < role))
    return below_S1[end_U] - below_S1[begin_U]


def _split(offsets: np.ndarray, begin: int, end: int, target: int, *, sessions: int, items: int) -> np.ndarray:
    """Splits one history that is too long for a row; returns rows of (first, last, first target)."""
    windows: list[tuple[int, int, int]] = []
    while target < end:
        if (both := offsets[target + 1] - offsets[target - 1]) > items:
            raise InputError(
                f"two neighbouring sessions of {both} exposures do not fit a row of {items} item slots; raise "
                f"--data.items-per-row, or prepare the log with a smaller --max-session-items"
            )
        # The target gets half a window of history; then later targets join; then room that is left takes more history.
        first = max(begin, target - sessions // 2)
        while offsets[target + 1] - offsets[first] > items:
            first += 1
        last = target + 1
        while last < end and last - first < sessions and offsets[last + 1] - offsets[first] <= items:
            last += 1
        while first > begin and last - first < sessions and offsets[last] - offsets[first - 1] <= items:
            first -= 1
        windows.append((first, last, target))
        target = last
    return np.array(windows, np.int64).reshape(-1, 3)


def items_per_row(config: Config, log: FlatLog, items_per_session_mean: float) -> int:
    """Returns the default of `data.items_per_row`: what the log's mean session needs, and 6 % more."""
    slots = config.data.sessions_per_row
    if config.paradigm != "nspp":
        return slots  # one item a slot
    is_first_S = np.zeros(len(log.session_items_S) + 1, bool)
    is_first_S[log.user_session_offsets_U1] = True
    neighbours_S = (log.session_items_S[1:] + log.session_items_S[:-1])[~is_first_S[1:-1]]  # they must fit together
    return max(roomy(slots * items_per_session_mean), int(neighbours_S.max(initial=0)))


def roomy(items: float) -> int:
    """Returns the item slots for an expected number of items: 6 % more, to a multiple of eight."""
    return math.ceil(items * 1.06 / 8) * 8
