"""Recommends the top K items of the whole catalogue after a user's last session, in the publisher's ids.

    model = restore(Path("RUN"))
    for answer in recommend(model, read_histories(Path("users.jsonl"), model.log, model.config), k=50):
        print(json.dumps(answer))

Letters: U users, W windows (what the model reads of a history), S session slots, B queries of one block, M pairs of a
query and an item that it must not get, K recommendations, G devices, D width, V ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sessionrec_jax.data import item_level
from sessionrec_jax.data.batches import BatchShape, Packer
from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.ragged import offsets
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.devices.gathered_rows import encode
from sessionrec_jax.devices.mesh import batch_shards, over_batch
from sessionrec_jax.devices.placement import ShardedInputs, put_batch, put_side
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.scoring import BLOCK, ItemTable, item_table, over_rows, stack_pairs, top_k
from sessionrec_jax.evaluation.seen import exposed_items
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec
from sessionrec_jax.registry import SESSION_ENCODERS
from sessionrec_jax.runfolder.progress import Bar
from sessionrec_jax.serving.histories import Histories

Seen = Literal["kept", "masked"]


def recommend(
    run: TrainedModel, histories: Histories, k: int, seen: Seen = "kept", *, quiet: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields the `k` likeliest next clicks of each user, best first, among all items of the catalogue:

        {"user": ..., "items": [published ids], "scores": [...], "seen_items": "kept", "unknown_items": n,
         "sessions_used": n}

    A score is the item's log probability, in nats, in the softmax over the whole catalogue, even where `seen` leaves
    items out. Equal scores are in the order of the catalogue. Models trained with `loss.other_clicks="masked"` rank
    well, but their scores are not calibrated probabilities. `seen` masked leaves out the items that the history shows
    as clicked or ignored in any session, but not context; an answer may then be shorter than `k`.

    The model reads the newest `data.slots` - 1 sessions, or fewer if their exposures fill a row. A model of an
    item-level paradigm reads the same number of items; "items_used" then replaces "sessions_used". For a model that
    reads session context, "unknown_context" counts the unknown values. A history without a known item gets the most
    popular items and "fallback": "popularity".

    Raises InputError for a `k` above the number of items, and for a session that the model cannot read.
    """
    items = run.catalogue.items
    if not 1 <= k <= items:
        raise InputError(f"--k {k}: the catalogue has {items} items; expected a number from 1 to {items}")
    run = dataclasses.replace(run, spec=run.spec.in_float32)
    recent = _recent(histories, run)
    return _answers(run, histories, recent, k, seen=seen, quiet=quiet)


def _recent(histories: Histories, run: TrainedModel) -> Windows:
    """Returns one window a user: the newest slots that the model can read, or none for an empty history."""
    log, room = item_level.slots(histories.log, run.config.paradigm).log, _shape(run).items_per_row
    offsets, users_U1 = log.session_item_offsets_S1, log.user_session_offsets_U1
    begin_U, end_U = users_U1[:-1], users_U1[1:]
    # In training the last slot of a window predicts nothing, so its position is not learnt.
    first_U = np.maximum(begin_U, end_U - (run.config.data.slots - 1))
    first_U = np.maximum(first_U, np.searchsorted(offsets, offsets[end_U] - room))
    for user in np.flatnonzero((first_U == end_U) & (begin_U < end_U))[:1]:
        raise InputError(
            f"the last session of user {histories.users[user]!r} has {log.session_items_S[end_U[user] - 1]} exposures, "
            f"but the model reads at most {room} at once; leave out ignored ones"
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
    _refuse_long_sessions(histories, run, recent)
    return recent


def _refuse_long_sessions(histories: Histories, run: TrainedModel, recent: Windows) -> None:
    """Raises InputError for a session that is longer than an encoder with a bound on the length can read."""
    most, log = run.spec.session_items, recent.log
    if not SESSION_ENCODERS.find(run.config.model.session_encoder).is_bounded:
        return
    for session in np.flatnonzero(log.session_items_S > most):
        user = np.searchsorted(log.user_session_offsets_U1, session, side="right") - 1
        if session >= recent.first_W[user]:
            raise InputError(
                f"a session of user {histories.users[user]!r} has {log.session_items_S[session]} exposures, but this "
                f"model's session encoder ({run.config.model.session_encoder}) reads at most {most}, the most in the "
                "log it was trained on; leave out ignored ones"
            )


def _shape(run: TrainedModel) -> BatchShape:
    """Returns the shape of the batches. An item-level paradigm gets room for an item in each slot, as in evaluation."""
    shape = run.shape
    if run.config.paradigm == "nspp":
        return shape
    return dataclasses.replace(shape, items_per_row=max(shape.items_per_row, shape.sessions_per_row))


def _answers(
    run: TrainedModel, histories: Histories, recent: Windows, k: int, *, seen: Seen, quiet: bool
) -> Iterator[dict[str, Any]]:
    published = [None, *run.log.item_ids().to_list()]
    log_popularity_V = run.catalogue.log_popularity_V
    popular_K = np.argsort(-log_popularity_V, kind="stable")[:k]
    slots_U = recent.last_W - recent.first_W
    used, used_U = ("sessions_used", slots_U) if run.config.paradigm == "nspp" else ("items_used", recent.items_W)
    asked = _take(recent, slots_U > 0)
    seen_by = (histories.log, asked.user_W) if seen == "masked" else None
    ranked = _rank(run, _queries(run, asked, quiet), k, seen_by=seen_by, quiet=quiet)
    unknown_UK = zip(histories.unknown_items_U, _unknown_context(histories.log, run.spec), strict=True)
    for user, slots, count, unknown in zip(histories.users, slots_U, used_U, unknown_UK, strict=True):
        # A user who gets the popular items has no known item in the history, so none of them is seen.
        item_K, score_K = next(ranked) if slots else (popular_K, log_popularity_V[popular_K])
        line = {
            "user": user,
            "items": [published[item] for item in item_K],
            "scores": [round(float(score), 6) for score in score_K],
            "seen_items": seen,
            "unknown_items": int(unknown[0]),
            used: int(count),
        }
        if run.spec.context_values:
            line["unknown_context"] = int(unknown[1])
        yield line if slots else line | {"fallback": "popularity"}


def _unknown_context(log: FlatLog, spec: Spec) -> Int[np.ndarray, " U"]:
    """Counts the values out of the vocabulary in each user's sessions."""
    unknown_S = np.zeros(len(log.session_items_S), np.int64)
    for name, values in spec.context_values:
        unknown_S += log.session_context[name] > values
    return np.diff(offsets(unknown_S)[log.user_session_offsets_U1])


def _take(windows: Windows, which_W: np.ndarray) -> Windows:
    names = ("first_W", "last_W", "first_target_W", "user_W")
    return dataclasses.replace(windows, **{name: getattr(windows, name)[which_W] for name in names})


def _queries(run: TrainedModel, recent: Windows, quiet: bool) -> Float[np.ndarray, "W D"]:
    """Returns the query for the items after the last slot of each window."""
    shape = _shape(run)
    packer = Packer(recent, shape, 1.0, None)
    rows, rows_per_batch = packer.epoch(0), shape.shards * shape.rows
    side = put_side(run.catalogue.side, run.spec.rows, run.mesh)
    query_WD = np.empty((len(recent), run.config.model.width), np.float32)
    with Bar("histories", len(packer), quiet=quiet) as bar:
        for index in range(len(packer)):
            batch = packer[index]
            inputs = put_batch(batch, run.mesh)
            query_SD = jax.device_get(_session_queries(run.spec, run.mesh, run.params, inputs, side))
            query_SD = query_SD.reshape(-1, query_SD.shape[-1])
            first, last = (min(n * rows_per_batch, len(rows)) for n in (index, index + 1))
            window_P = rows.window_P[rows.offset_R1[first] : rows.offset_R1[last]]
            query_WD[window_P] = query_SD[_last_slots(batch.user_of_session_GRL)]
            bar.advance("")
    return query_WD


def _last_slots(user_GRL: np.ndarray) -> np.ndarray:
    """Returns the slot of each packed user's last session, in packed order."""
    user_XL = user_GRL.reshape(-1, user_GRL.shape[-1])
    next_XL = np.pad(user_XL[:, 1:], ((0, 0), (0, 1)))
    return np.flatnonzero((user_XL > 0) & (user_XL != next_XL))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _session_queries(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, inputs: ShardedInputs, side: Side
) -> Float[Array, "G S D"]:
    return encode(spec, mesh, params, inputs=inputs, side=side)[1].retrieval_SD


def _rank(
    run: TrainedModel,
    query_WD: Float[np.ndarray, "W D"],
    k: int,
    *,
    seen_by: tuple[FlatLog, Int[np.ndarray, " W"]] | None,
    quiet: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (dense ids, log probabilities) of the best `k` items of each query, or of fewer if fewer are left.

    `seen_by` is a log and the user in it of each query, whose items are left out.
    """
    table = item_table(run.spec, run.mesh, run.params, put_side(run.catalogue.side, run.spec.rows, run.mesh))
    shards = batch_shards(run.mesh)
    block = BLOCK * shards
    with Bar("ranking", -(-len(query_WD) // block), quiet=quiet) as bar:
        for first in range(0, len(query_WD), block):
            query_BD = query_WD[first : first + block]
            filled_GBD = np.pad(query_BD, ((0, block - len(query_BD)), (0, 0))).reshape(shards, BLOCK, -1)
            pairs = None
            if seen_by is not None:
                log, user_W = seen_by
                pairs = _seen_pairs(log, user_W[first : first + block], shards, run.spec.ids)
            on_device = jax.device_put((filled_GBD, pairs), over_batch(run.mesh))
            item_BK, score_BK = (
                x_GBK.reshape(block, k) for x_GBK in jax.device_get(_top_k(run.mesh, k, table, *on_device))
            )
            for item_K, score_K in zip(item_BK[: len(query_BD)], score_BK[: len(query_BD)], strict=True):
                there_K = score_K > -np.inf
                yield item_K[there_K], score_K[there_K]
            bar.advance("")


def _seen_pairs(
    log: FlatLog, user_B: Int[np.ndarray, " B"], devices: int, ids: int
) -> tuple[Int[np.ndarray, "G M"], Int[np.ndarray, "G M"]]:
    """Returns (number of the query on its device, item) for the items that the users of the block have seen."""
    users_U1 = log.user_session_offsets_U1
    seen_BV = exposed_items(log, users_U1[user_B], users_U1[user_B + 1], ids)
    query_M = np.repeat(np.arange(len(user_B)), np.diff(seen_BV.indptr)) % BLOCK
    bound_G1 = seen_BV.indptr[np.minimum(np.arange(devices + 1) * BLOCK, len(user_B))]
    return stack_pairs([(query_M[a:b], seen_BV.indices[a:b]) for a, b in pairwise(bound_G1)], BLOCK)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _top_k(
    mesh: jax.sharding.Mesh,
    k: int,
    table: ItemTable,
    query_GBD: Float[Array, "G B D"],
    pairs: tuple[Int[Array, "G M"], Int[Array, "G M"]] | None,
) -> tuple[Int[Array, "G B K"], Float[Array, "G B K"]]:
    """Returns the exact top `k` of each query without the items of its pairs."""
    return over_rows(mesh, functools.partial(top_k, k=k), table, (query_GBD, pairs))
