"""Metrics by segment: the same terms as in the whole evaluation, added up for each kind of item or session.

    segments = Segments(("item_popularity", "device"), model, TEST)
    measure(model, TEST, segments)
    segments.result()["item_popularity"]["10 to 99"]["ndcg_at_50"]

- item_popularity: training clicks of the clicked item.
- new_item: whether the user was shown the clicked item in an earlier session of the log.
- history_length: sessions of the user before the target, in the whole log.
- session_items: exposures of the target session, clicked or ignored.
- any column of session context: its value, the most frequent ones by name.

A segment of items counts the clicked items in it alone: recall, NDCG and the like of a session are then those of its
items of the segment, by their ranks in the whole catalogue. Letters: N terms, S sessions and V ids of the log, C codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.batches import eval_users
from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.evaluation.baselines import trained_sessions
from sessionrec_jax.evaluation.metrics import Metrics
from sessionrec_jax.evaluation.seen import holds, seen_items, users_of
from sessionrec_jax.evaluation.trained_model import TrainedModel

POPULARITY = (0, 1, 10, 100, 1_000, 10_000, 100_000)
"""The first number of training clicks of each segment; the same for every log, so that runs can be compared."""
HISTORY = (1, 2, 4, 8, 16, 32, 64)
EXPOSURES = (1, 2, 5, 10, 20, 50, 100)
VALUES = 10
"""Values of a context column that get a segment of their own."""
OF_ITEMS = ("item_popularity", "new_item")
BUILT_IN = (*OF_ITEMS, "history_length", "session_items")

Terms = Any
"""A NamedTuple of arrays [N], among them session_N, item_N and user_N, which are indices of the log."""
Codes = Callable[[np.ndarray, np.ndarray], Int[np.ndarray, " N"]]


class Dimension(NamedTuple):
    """One way to cut the terms into segments."""

    name: str
    of_items: bool
    """The segment depends on the clicked item, so that only its own terms can be cut."""
    labels: Sequence[str]
    codes: Codes
    """Returns the number of the segment, from the session in the log and the item of each term."""


class Segments:
    """Sums by user for every segment, filled by `measure`. Raises InputError for a name that the log does not have."""

    def __init__(self, names: Sequence[str], model: TrainedModel, role: int):
        check_segments("--by", names, model.log, model.config)
        log = model.log.arrays()
        self.user_M = np.sort(eval_users(model.config, model.log, role))
        """Only these users have terms; sums over all users of the log would take much memory."""
        self.metrics = Metrics(len(self.user_M))
        self.dimensions = [_dimension(name, model, log) for name in dict.fromkeys(names)]

    def add(self, terms: Terms, add: Callable[..., None], *, of_items: bool) -> None:
        """Calls `add(metrics, terms, prefix=...)` with the terms of each segment; segments of items only get terms that
        are `of_items`, because those of a whole session cannot be cut."""
        own = terms._replace(user_N=np.searchsorted(self.user_M, terms.user_N))
        for dimension in self.dimensions:
            if dimension.of_items and not of_items:
                continue
            code_N = dimension.codes(terms.session_N, terms.item_N)
            for code in np.unique(code_N):
                in_segment_N = code_N == code
                part = own._make(x_N[in_segment_N] for x_N in own)
                add(self.metrics, part, prefix=f"{dimension.name}\t{code}\t")

    def result(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Returns for each dimension and segment, in order: NAME and NAME_stderr of each metric, and over how many
        clicks and sessions they are means."""
        values: dict[tuple[str, int], dict[str, Any]] = {}
        for key, value in self.metrics.result().items():
            name, code, metric = key.split("\t")
            values.setdefault((name, int(code)), {})[metric] = value
        for (name, code), of_segment in values.items():
            of_segment["scored_clicks"] = self.metrics.terms(f"{name}\t{code}\tloss_nats_per_item")
            of_segment["ranked_sessions"] = self.metrics.terms(f"{name}\t{code}\tmrr")
        return {
            dimension.name: {
                label: values[dimension.name, code]
                for code, label in enumerate(dimension.labels)
                if (dimension.name, code) in values
            }
            for dimension in self.dimensions
        }


def check_segments(flag: str, names: Sequence[str], log: Prepared, config: Config) -> None:
    """Raises InputError, which names `flag`, for a kind of segments that the log does not have or `config` does not
    score."""
    known = [*BUILT_IN, *log.context_values]
    for name in names:
        if name not in known:
            raise InputError(f"{flag} {name}: this log has no such segments; {near_miss(name, known)}")
        if name in OF_ITEMS and config.data.eval_candidates == "shown":
            raise InputError(
                f"{flag} {name} cuts the clicks that are ranked in the catalogue, but --data.eval-candidates is shown, "
                "so none is; wanted --data.eval-candidates catalogue, or other segments"
            )


def segment_columns(by: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns the metrics of `Segments.result` as columns of a row, such as
    loss_nats_per_item__item_popularity__10_to_99 and the same name with _stderr at its end. Segments whose names differ
    in signs alone have a number at the end."""
    found = {}
    for kind, segments in by.items():
        names: list[str] = []
        for label, metrics in segments.items():
            plain = re.sub(r"\W+", "_", label.replace(",", "")).strip("_")
            names.append(plain)
            segment = plain if names.count(plain) == 1 else f"{plain}_{names.count(plain)}"
            for metric, value in metrics.items():
                name = metric.removesuffix("_stderr")
                found[f"{name}__{kind}__{segment}{metric.removeprefix(name)}"] = value
    return found


def _dimension(name: str, model: TrainedModel, log: FlatLog) -> Dimension:
    if name == "item_popularity":
        is_trained_N = np.repeat(trained_sessions(model.config, model.log), log.session_items_S)
        clicks_V = np.bincount(log.item_N[is_trained_N & (log.feedback_N == CLICKED)], minlength=model.spec.ids)
        return Dimension(name, True, _ranges(POPULARITY), lambda _, item_N: _bin(POPULARITY, clicks_V[item_N]))
    if name == "new_item":
        ids = model.spec.ids
        return Dimension(name, True, ("shown before", "new"), lambda *terms: _is_new(log, ids, *terms))
    if name == "history_length":
        begin_U = log.user_session_offsets_U1
        before = lambda session_N, _: session_N - begin_U[users_of(log, session_N)]  # noqa: E731
        return Dimension(name, False, _ranges(HISTORY), lambda *terms: _bin(HISTORY, before(*terms)))
    if name == "session_items":
        exposed_N1 = np.append(0, np.cumsum(log.feedback_N <= CLICKED))
        items_S = np.diff(exposed_N1[log.session_item_offsets_S1])
        return Dimension(name, False, _ranges(EXPOSURES), lambda session_N, _: _bin(EXPOSURES, items_S[session_N]))
    return _context(name, model, log)


def _context(name: str, model: TrainedModel, log: FlatLog) -> Dimension:
    """Cuts by the most frequent values of a column; the others, values that training did not see, and missing ones
    have segments of their own."""
    text = dict(enumerate(map(str, model.log.context_vocabulary(name)), start=1))
    code_S = log.session_context[name]
    count_C = np.bincount(code_S, minlength=len(text) + 2)
    frequent = (1 + np.argsort(-count_C[1 : len(text) + 1], kind="stable"))[:VALUES]
    segment_C = np.full(len(count_C), len(frequent))
    segment_C[frequent] = np.arange(len(frequent))
    segment_C[-1], segment_C[0] = len(frequent) + 1, len(frequent) + 2
    labels = [*(text[code] for code in frequent), "other values", "not in training", "missing"]
    return Dimension(name, False, labels, lambda session_N, _: segment_C[code_S[session_N]])


def _is_new(log: FlatLog, ids: int, session_N: np.ndarray, item_N: np.ndarray) -> Int[np.ndarray, " N"]:
    session_S, row_N = np.unique(session_N, return_inverse=True)
    return 1 - holds(seen_items(log, session_S, ids), row_N, item_N).astype(np.int64)


def _bin(firsts: Sequence[int], number_N: np.ndarray) -> Int[np.ndarray, " N"]:
    return np.searchsorted(firsts, number_N, side="right").clip(1) - 1


def _ranges(firsts: Sequence[int]) -> list[str]:
    lasts = [first - 1 for first in firsts[1:]]
    labels = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(firsts, lasts, strict=False)]
    return [*labels, f"{firsts[-1]:,} and more"]
