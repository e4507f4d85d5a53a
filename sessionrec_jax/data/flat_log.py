"""A log as flat arrays, in memory or mapped from files. Letters: N exposures, S sessions, U users."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int8, Int32, Int64

from sessionrec_jax.data.ragged import offsets

_USERS_OF_BLOCK = 16_384


@dataclass(frozen=True)
class FlatLog:
    """A log as flat arrays: N exposures in S sessions of U users, each in order."""

    item_N: Int32[np.ndarray, " N"]
    """Dense item id, from 1."""
    feedback_N: Int8[np.ndarray, " N"]
    """Feedback codes, see codes.py."""
    session_items_S: Int32[np.ndarray, " S"]
    """Number of exposures of a session."""
    session_seconds_S: Int64[np.ndarray, " S"]
    """Start of a session, UTC seconds."""
    session_role_S: Int8[np.ndarray, " S"]
    """Session roles, see codes.py; they never decrease along a user's history."""
    user_session_offsets_U1: Int64[np.ndarray, " U1"]
    """User u has the sessions from entry u up to entry u + 1."""
    session_context: dict[str, Int32[np.ndarray, " S"]] = field(default_factory=dict)
    """Codes by column. During preparation they are codes of the records, later those of the training vocabulary."""
    click_probability_N: Float32[np.ndarray, " N"] | None = None
    """Soft label of each clicked or ignored exposure; 0 for context. None if the log has no such column."""
    stored_offsets_S1: Int64[np.ndarray, " S1"] | None = None
    """`session_item_offsets_S1`, if a file has it. None: it is computed when it is first used."""

    @functools.cached_property
    def session_item_offsets_S1(self) -> Int64[np.ndarray, " S1"]:
        """Session s has the exposures from entry s up to entry s + 1."""
        return offsets(self.session_items_S) if self.stored_offsets_S1 is None else self.stored_offsets_S1

    @functools.cached_property
    def user_item_offsets_U1(self) -> Int64[np.ndarray, " U1"]:
        """User u has the exposures from entry u up to entry u + 1."""
        return self.session_item_offsets_S1[self.user_session_offsets_U1]

    @property
    def users(self) -> int:
        return len(self.user_session_offsets_U1) - 1

    def context_of(self, session: slice | np.ndarray) -> dict[str, Int32[np.ndarray, " X"]]:
        """Returns the session context of some sessions."""
        return {name: code_S[session] for name, code_S in self.session_context.items()}

    def click_probability_of(self, exposure: slice | np.ndarray) -> Float32[np.ndarray, " X"] | None:
        """Returns the soft labels of some exposures; None if the log has none."""
        return None if self.click_probability_N is None else self.click_probability_N[exposure]


def blocks(user_U: Int64[np.ndarray, " U"]) -> Iterator[Int64[np.ndarray, " B"]]:
    """Yields the users in blocks, at least one, so that what is computed of a block is small next to a long log."""
    for first in range(0, max(len(user_U), 1), _USERS_OF_BLOCK):
        yield user_U[first : first + _USERS_OF_BLOCK]


def joined(parts: Sequence[FlatLog]) -> FlatLog:
    """Returns the log of the users of all parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    soft, context = parts[0].click_probability_N is not None, parts[0].session_context
    return FlatLog(
        item_N=whole("item_N"),
        feedback_N=whole("feedback_N"),
        session_items_S=whole("session_items_S"),
        session_seconds_S=whole("session_seconds_S"),
        session_role_S=whole("session_role_S"),
        user_session_offsets_U1=offsets(np.concatenate([np.diff(part.user_session_offsets_U1) for part in parts])),
        session_context={name: np.concatenate([part.session_context[name] for part in parts]) for name in context},
        click_probability_N=whole("click_probability_N") if soft else None,
    )
