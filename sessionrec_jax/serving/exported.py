"""Reads a folder of `export` and answers with it, through the same code as `recommend`.

    model = ExportedModel.read(Path("MODEL"))
    [answer] = model.recommend([{"user": 7, "sessions": [[{"item": "i3", "clicked": True}]]}], k=10)

Letters: B histories of a batch, M pairs of a history and an item that it must not get, K recommendations, T exposures
and L sessions of a history.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import Float, Int
from safetensors.numpy import load_file

from doors import tables
from doors.files import is_not
from doors.state import Damaged, checked, checksums, read_object
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.answers import Answering, Best, Seen, found
from sessionrec_jax.serving.batch import HistoryBatch, pack, seen_pairs
from sessionrec_jax.serving.export import (
    INDEX,
    ITEMS,
    MODEL,
    PLATFORMS,
    PROGRAM,
    VERSION,
    WEIGHTS,
    lengths,
    query_program,
)
from sessionrec_jax.serving.histories import Codes, Histories, Reader
from sessionrec_jax.serving.limits import Limits
from sessionrec_jax.serving.search import Index, Search
from sessionrec_jax.serving.vocabulary import Vocabulary

_KINDS = {
    "version": int,
    "k": int,
    "histories_at_once": int,
    "limits": dict,
    "context_read": dict,
    "names": dict,
    "files": dict,
    "run_id": str,
}
_OF_LIMITS = {"paradigm": str, "sessions": int, "exposures": int, "session_encoder": str, "session_exposures": int}
_OF_NAMES = {"feedback_names": list, "context": list, "context_of_start": list, "reads_time": str}


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model that was read from its folder."""

    facts: dict[str, Any]
    """The content of model.json."""
    names: Vocabulary
    codes: Codes
    answering: Answering
    weights: dict[str, jax.Array]
    program: Any
    """Called with weights and histories; compiled once for each shape."""
    index: Index | None
    """Finds the best items in place of the program. None: the search is exact."""
    queries: dict[tuple[int, int], Any]
    """With an index: the programs that give query vectors, by the exposures and sessions that they read at most, the
    shortest first."""

    @classmethod
    def read(cls, folder: Path, search: Search = "exact") -> ExportedModel:
        """Raises InputError if the folder has no exported model, or one that is damaged, of another version, not for
        this kind of device, or without the index that `search` approximate needs; ImportError without Faiss."""
        facts = check_folder(folder, search)
        program = _program(folder, PROGRAM)
        items = tables.read_parquet(folder / ITEMS, columns=["item_id", "log_popularity"])
        names = facts["names"]
        vocabulary = Vocabulary(
            items=items["item_id"].to_list(),
            feedback_names=names["feedback_names"],
            context={
                name: tables.read_parquet(folder / f"context_{name}.parquet")["value"].to_list()
                for name in names["context"]
            },
            context_of_start=names["context_of_start"],
            reads_time=names["reads_time"],
        )
        popularity_V = np.concatenate([[-np.inf], items["log_popularity"].to_numpy()]).astype(np.float32)
        limits = Limits(**{name: facts["limits"][name] for name in _OF_LIMITS})
        arrays, index, queries = load_file(folder / WEIGHTS), None, {}
        if search == "approximate":
            catalogue = arrays["catalogue.vector"], arrays["catalogue.bias"]
            index = Index.read(folder / INDEX, *catalogue, facts["search"]["lists_read"])
            queries = {most: _program(folder, query_program(*most)) for most in lengths(limits)}
        scores_as = "scores" if index is None else "logits"
        answering = Answering(limits, [None, *vocabulary.items], popularity_V, facts["context_read"], scores_as)
        weights = {name: jax.device_put(x) for name, x in arrays.items()}
        return cls(facts, vocabulary, Codes.of(vocabulary), answering, weights, program, index, queries)

    @property
    def k(self) -> int:
        """The number of items that the program finds, at most."""
        return self.facts["k"]

    def recommend(
        self, users: list[dict[str, Any]], k: int, seen: Seen = "kept", places: int | None = None
    ) -> list[dict[str, Any]]:
        """Returns what `recommend` gives for histories as dicts. `places` is the number of histories of a batch, by
        default that of `recommend`, which gives the same bits."""
        reader = Reader(self.names, self.codes)
        for number, user in enumerate(users):
            reader.add(user, f"histories[{number}]")
        return list(self.answers(reader.histories(), k, seen, places))

    def answers(
        self, histories: Histories, k: int, seen: Seen = "kept", places: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the answers to histories that were read. Raises InputError for a `k` above that of the program, and as
        `recommend` does."""
        if k > self.k:
            raise InputError(f"k is {k}, and the program finds {self.k} items; export the model with a larger --k")
        rank = functools.partial(self._rank, k, places or self.facts["histories_at_once"])
        return self.answering.answers(histories, k, seen, rank)

    def _rank(self, k: int, places: int, asked: Windows, seen: FlatLog | None) -> Iterator[Best]:
        context, limits = self.facts["context_read"], self.answering.limits
        for first in range(0, len(asked), places):
            window_B = np.arange(first, min(first + places, len(asked)))
            batch = pack(asked, window_B, limits=limits, context=context, places=places)
            if seen is not None:
                pairs = seen_pairs(seen, asked.user_W[window_B], len(self.answering.published))
                batch = batch._replace(left_out_GM=pad_pairs(pairs, places))
            item_BK, score_BK = self.call(batch)
            yield from found(item_BK[: len(window_B), :k], score_BK[: len(window_B), :k])

    def call(self, batch: HistoryBatch) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """Returns the dense ids and the scores of the best items of one shard of histories: log probabilities, or with
        an index logits."""
        if self.index is not None:
            longest = (batch.session_GBT < batch.seconds_GBL.shape[1]).sum(axis=1).max(), batch.sessions_GB.max()
            most = next(most for most in self.queries if all(np.less_equal(longest, most)))
            return self.index.best(self._queries(batch, most), self.k, batch.left_out_GM)
        pairs = {"left_out_history": batch.left_out_GM[0], "left_out_item": batch.left_out_GM[1]}
        best = jax.device_get(self.program(self.weights, _arrays(batch) | pairs))
        return best["items"], best["scores"]

    def compile(self, batch: HistoryBatch) -> None:
        """Compiles what `call` runs for a batch of this shape."""
        self.call(batch)
        for most in self.queries:
            self._queries(batch, most)

    def _queries(self, batch: HistoryBatch, most: tuple[int, int]) -> Float[np.ndarray, "B D"]:
        """Returns the query vectors, by the program for `most` exposures and sessions."""
        exposures, sessions = most
        cut = batch._replace(
            item_GBT=batch.item_GBT[:, :exposures],
            feedback_GBT=batch.feedback_GBT[:, :exposures],
            session_GBT=np.minimum(batch.session_GBT[:, :exposures], sessions),  # the number of padding
            seconds_GBL=batch.seconds_GBL[:, :sessions],
            context_GBL={name: code_BL[:, :sessions] for name, code_BL in batch.context_GBL.items()},
        )
        return jax.device_get(self.queries[most](self.weights, _arrays(cut)))


def _arrays(batch: HistoryBatch) -> dict[str, np.ndarray]:
    """Returns the histories by the names that programs know them by."""
    return {
        "item": batch.item_GBT,
        "feedback": batch.feedback_GBT,
        "session": batch.session_GBT,
        "sessions": batch.sessions_GB,
        "seconds": batch.seconds_GBL,
        **{f"context.{name}": code_BL for name, code_BL in batch.context_GBL.items()},
    }


def _program(folder: Path, name: str) -> Any:
    exported = jax_export.deserialize(bytearray((folder / name).read_bytes()))
    if (platform := jax_export.default_export_platform()) not in exported.platforms:
        raise InputError(f"{folder} is for {', '.join(PLATFORMS)}, and jax uses {platform} here; set JAX_PLATFORMS")
    return jax.jit(exported.call)


PAIRS_A_PLACE = 256
"""The pairs of a batch are padded to this number a place, times a power of two, so that few programs are compiled."""


def pad_pairs(pairs: tuple[np.ndarray, np.ndarray], places: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs with padding: pairs of the history `places`."""
    count, width = len(pairs[0]), PAIRS_A_PLACE * places
    while width < count:
        width *= 2
    return (
        np.pad(pairs[0], (0, width - count), constant_values=places),
        np.pad(pairs[1], (0, width - count)),
    )


def check_folder(folder: Path, search: Search) -> dict[str, Any]:
    """Returns model.json, once the folder is known to be whole. Raises InputError if it has no exported model, one that
    is damaged or of another version, or no index, which `search` approximate needs."""
    path = folder / MODEL
    if not path.is_file():
        raise InputError(is_not(folder, "an exported model"))
    facts = read_object(path, _KINDS)
    if facts["version"] != VERSION:
        raise InputError(
            f"{folder} has format version {facts['version']}; this release reads {VERSION}. Export it again"
        )
    checked(facts["limits"], _OF_LIMITS, f"{path}, limits")
    checked(facts["names"], _OF_NAMES, f"{path}, names")
    found = checksums(folder, without=MODEL)
    for name, wanted in facts["files"].items():
        if found.get(name) != wanted:
            state = "is missing" if name not in found else "is not as it was written"
            raise Damaged(f"{folder}: {name} {state}; export the model again")
    if search == "approximate":
        if not isinstance(facts.get("search"), dict):
            raise InputError(
                f"{folder} has no index; `sessionrec export RUN --to DIR --search approximate` makes one and measures "
                "it, and --search exact needs none"
            )
        checked(facts["search"], {"lists_read": int, "recall": float}, f"{path}, search")
    return facts
