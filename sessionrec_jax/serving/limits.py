"""The part of a history that a model reads: its newest sessions, as many as the model knows and as fit its row.

No jax in this file, because an exported model has the same limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sessionrec_jax.data import item_level
from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.item_level import Paradigm
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.histories import Histories


@dataclass(frozen=True)
class Limits:
    """The length of the history that one model reads."""

    paradigm: Paradigm
    sessions: int
    """The newest sessions that are read, or items under an item-level paradigm. One less than the slots of a training
    window: its last slot predicts nothing, so its position is not learnt."""
    exposures: int
    """Exposures that are read at most."""
    session_encoder: str
    session_exposures: int
    """Exposures of one session that the session encoder can read; 0: any number."""

    @property
    def counted_as(self) -> str:
        """The key of an answer that counts what was read."""
        return "sessions_used" if self.paradigm == "nspp" else "items_used"


def newest(histories: Histories, limits: Limits) -> Windows:
    """Returns one window a user: the newest slots that the model can read, or none for an empty history.

    Raises InputError for a session that the model cannot read.
    """
    log = item_level.slots(histories.log, limits.paradigm).log
    offsets, users_U1 = log.session_item_offsets_S1, log.user_session_offsets_U1
    begin_U, end_U = users_U1[:-1], users_U1[1:]
    first_U = np.maximum(begin_U, end_U - limits.sessions)
    first_U = np.maximum(first_U, np.searchsorted(offsets, offsets[end_U] - limits.exposures))
    for user in np.flatnonzero((first_U == end_U) & (begin_U < end_U))[:1]:
        raise InputError(
            f"the last session of user {histories.users[user]!r} has {log.session_items_S[end_U[user] - 1]} exposures, "
            f"but the model reads at most {limits.exposures} at once; leave out ignored ones"
        )
    recent = Windows(
        log=log,
        role=TRAIN,
        first_W=first_U,
        last_W=end_U,
        first_target_W=end_U,
        user_W=np.arange(log.users),
        session_S=np.arange(len(log.session_items_S)),
    )
    _refuse_long_sessions(histories, recent, limits)
    return recent


def _refuse_long_sessions(histories: Histories, recent: Windows, limits: Limits) -> None:
    """Raises InputError for a session that is longer than an encoder with a bound on the length can read."""
    log, most = recent.log, limits.session_exposures
    if not most:
        return
    for session in np.flatnonzero(log.session_items_S > most):
        user = np.searchsorted(log.user_session_offsets_U1, session, side="right") - 1
        if session >= recent.first_W[user]:
            raise InputError(
                f"a session of user {histories.users[user]!r} has {log.session_items_S[session]} exposures, but this "
                f"model's session encoder ({limits.session_encoder}) reads at most {most}, the most in the log it was "
                "trained on; leave out ignored ones"
            )
