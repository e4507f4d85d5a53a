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
from sessionrec_jax.data.flat_log import FlatLog, blocks
from sessionrec_jax.data.ragged import ranges
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
    session_S: np.ndarray | None = None
    """The stored log's session of each session of `log`. None: `log` is the stored log."""

    def __len__(self) -> int:
        return len(self.first_W)

    @property
    def target_sessions(self) -> int:
        """The number of sessions that one pass scores."""
        return int((self.last_W - self.first_target_W).sum())

    def stored_session(self, session_X: np.ndarray) -> np.ndarray:
        """Returns the stored log's session of some sessions of `log`."""
        return session_X if self.session_S is None else self.session_S[session_X]

    @functools.cached_property
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
    parts = [_windows_of(log, block, role, sessions=sessions, items=items) for block in blocks(users)]
    user_W, first_W, last_W, first_target_W = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Windows(log=log, role=role, first_W=first_W, last_W=last_W, first_target_W=first_target_W, user_W=user_W)


def _windows_of(
    log: FlatLog, users: np.ndarray, role: int, *, sessions: int, items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns user, first session, end and first target of each window of some users."""
    begin_U, last_U = log.user_session_offsets_U1[users], log.user_session_offsets_U1[users + 1]
    role_S, user_S = log.session_role_S[ranges(begin_U, last_U)], np.repeat(np.arange(len(users)), last_U - begin_U)

    def before(role: int) -> np.ndarray:
        """Returns the end of each user's sessions of earlier roles, which come first, because roles never decrease."""
        return begin_U + np.bincount(user_S[role_S < role], minlength=len(users))

    end_U, target_U = before(role + 1), np.maximum(before(role), begin_U + 1)
    place_X = np.flatnonzero(target_U < end_U)
    found = [(place_X[:0],) * 4]
    while len(place_X):  # each turn makes the next window of every user who has sessions left to score
        begin_X, end_X, target_X = begin_U[place_X], end_U[place_X], target_U[place_X]
        first_X, last_X = _window_at(
            log.session_item_offsets_S1, begin_X, end_X, target_X, sessions=sessions, items=items
        )
        found.append((place_X, first_X, last_X, target_X))
        target_U[place_X] = last_X
        place_X = place_X[last_X < end_X]
    place_W, first_W, last_W, target_W = (np.concatenate(part) for part in zip(*found, strict=True))
    by_user_W = np.argsort(place_W, kind="stable")
    return users[place_W[by_user_W]], first_W[by_user_W], last_W[by_user_W], target_W[by_user_W]


def _window_at(
    offsets: np.ndarray, begin_X: np.ndarray, end_X: np.ndarray, target_X: np.ndarray, *, sessions: int, items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first session and the end of the window whose first target is `target_X`, of some histories.

    The target gets half a window of history; then later targets join; then room that is left takes more history.
    """
    both_X = offsets[target_X + 1] - offsets[target_X - 1]
    if both_X.max() > items:
        raise InputError(
            f"two neighbouring sessions of {both_X[both_X > items][0]} exposures do not fit a row of {items} item "
            "slots; raise --data.items-per-row, or prepare the log with a smaller --max-session-items"
        )

    def earliest(last_X: np.ndarray) -> np.ndarray:
        """Returns the first session from which the items up to `last_X` fit."""
        return np.searchsorted(offsets, offsets[last_X] - items, side="left")

    half_X = np.maximum(np.maximum(begin_X, target_X - sessions // 2), earliest(target_X + 1))
    last_X = np.searchsorted(offsets, offsets[half_X] + items, side="right") - 1
    last_X = np.minimum(np.minimum(last_X, half_X + sessions), end_X)
    return np.maximum(np.maximum(begin_X, last_X - sessions), earliest(last_X)), last_X


def items_per_row(config: Config, log: FlatLog, items_per_session_mean: float) -> int:
    """Returns the default of `data.items_per_row`: what the log's mean session needs, and 6 % more."""
    slots = config.data.sessions_per_row
    if config.paradigm != "nspp":
        return slots  # one item a slot
    both = 0  # the most items of two neighbouring sessions, which must fit together
    for block in blocks(np.arange(log.users)):
        first, last = log.user_session_offsets_U1[[block[0], block[-1] + 1]].tolist()
        items_S, begins_S = log.session_items_S[first:last], np.zeros(last - first + 1, bool)
        begins_S[log.user_session_offsets_U1[block] - first] = True
        neighbours_S = (items_S[1:] + items_S[:-1])[~begins_S[1:-1]]
        both = max(both, int(neighbours_S.max(initial=0)))
    return max(roomy(slots * items_per_session_mean), both)


def roomy(items: float) -> int:
    """Returns the item slots for an expected number of items: 6 % more, to a multiple of eight."""
    return math.ceil(items * 1.06 / 8) * 8
