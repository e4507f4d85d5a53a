"""Answers in the publisher's ids, from histories and from whatever ranks the items: a run or an exported model.

No jax in this file. Letters: U users, W windows, B histories of a batch, K recommendations, V ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from sessionrec_jax.data.ragged import offsets
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.histories import Histories
from sessionrec_jax.serving.limits import Limits, newest

Seen = Literal["kept", "masked"]
Best = tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]
Rank = Callable[[Windows, FlatLog | None], Iterable[Best]]
"""Called with the windows to answer and, where the items of a history are left out, with the log that has them. Gives
for each window the dense ids of the best items and their scores, best first."""


@dataclass(frozen=True)
class Answering:
    """Everything that turns histories into answers, except the ranking."""

    limits: Limits
    published: list[Any]
    """The publisher's id of each dense id; that of 0, padding, is None."""
    log_popularity_V: Float[np.ndarray, " V"]
    context_values: dict[str, int]
    """Columns of session context that the model reads, with their number of values."""
    scores_as: Literal["scores", "logits"] = "scores"
    """The key of the scores: "scores" are log probabilities; "logits" lack the normaliser, which is another number for
    each history."""

    @functools.cached_property
    def _by_popularity_V(self) -> Int[np.ndarray, " V"]:
        return np.argsort(-self.log_popularity_V, kind="stable")

    def answers(
        self, histories: Histories, k: int, seen: Seen, rank: Rank, recent: Windows | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields one answer a user, as `recommend` describes them. `recent` is what `newest` gives for the histories,
        where it is known. Raises InputError for a `k` above the number of items, and for a session that the model
        cannot read."""
        items = len(self.published) - 1
        if not 1 <= k <= items:
            raise InputError(f"--k {k}: the catalogue has {items} items; expected a number from 1 to {items}")
        recent = newest(histories, self.limits) if recent is None else recent
        return self._named(histories, recent, k, seen, rank)

    def _named(self, histories: Histories, recent: Windows, k: int, seen: Seen, rank: Rank) -> Iterator[dict[str, Any]]:
        popular_K = self._by_popularity_V[:k]
        slots_U = recent.last_W - recent.first_W
        used_U = slots_U if self.limits.paradigm == "nspp" else recent.items_W
        ranked = iter(rank(_take(recent, slots_U > 0), histories.log if seen == "masked" else None))
        unknown_UK = zip(histories.unknown_items_U, self._unknown_context(histories.log), strict=True)
        for user, slots, count, unknown in zip(histories.users, slots_U, used_U, unknown_UK, strict=True):
            # A user who gets the popular items has no known item in the history, so none of them is seen.
            item_K, score_K = next(ranked) if slots else (popular_K, self.log_popularity_V[popular_K])
            line = {
                "user": user,
                "items": [self.published[item] for item in item_K],
                self.scores_as: [round(float(score), 6) for score in score_K],
                "seen_items": seen,
                "unknown_items": int(unknown[0]),
                self.limits.counted_as: int(count),
            }
            if self.context_values:
                line["unknown_context"] = int(unknown[1])
            yield line if slots else line | {"fallback": "popularity"}

    def _unknown_context(self, log: FlatLog) -> Int[np.ndarray, " U"]:
        """Counts the values out of the vocabulary in each user's sessions."""
        if not self.context_values:
            return np.zeros(log.users, np.int64)
        unknown_S = np.zeros(len(log.session_items_S), np.int64)
        for name, values in self.context_values.items():
            unknown_S += log.session_context[name] > values
        return np.diff(offsets(unknown_S)[log.user_session_offsets_U1])


def _take(windows: Windows, which_W: np.ndarray) -> Windows:
    names = ("first_W", "last_W", "first_target_W", "user_W")
    return dataclasses.replace(windows, **{name: getattr(windows, name)[which_W] for name in names})


def found(item_BK: np.ndarray, score_BK: np.ndarray) -> Iterator[Best]:
    """Yields the answer of each history without the places that have no item."""
    for item_K, score_K in zip(item_BK, score_BK, strict=True):
        there_K = score_K > -np.inf
        yield item_K[there_K], score_K[there_K]
