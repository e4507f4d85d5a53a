"""The program that answers: histories in, the best K items out. `recommend` runs it, and `export` writes it to a file.

    item_GBK, score_GBK = answer(spec, mesh, k, params, side, table, batch)

Each history is a row of its own, so an answer does not depend on which other histories are in the batch.

Letters: G shards of the batch (one a device that has a part of it), B histories of a shard, L sessions that are read of
a history, K recommendations, D width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.devices.gathered_rows import encode_histories
from sessionrec_jax.evaluation.scoring import ItemTable, over_rows, top_k
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params, Spec
from sessionrec_jax.serving.batch import HistoryBatch


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def answer(
    spec: Spec,
    mesh: jax.sharding.Mesh,
    k: int,
    params: Params,
    side: Side,
    table: ItemTable,
    batch: HistoryBatch,
) -> tuple[Int[Array, "G B K"], Float[Array, "G B K"]]:
    """Returns the exact best `k` items of each history and their log probabilities (nats) in the softmax over the whole
    catalogue, best first; of equal scores the lower dense id first. Places without an item have -inf."""
    query_GBD = queries(spec, mesh, params, side, batch)
    return over_rows(mesh, functools.partial(top_k, k=k), table, (query_GBD, batch.left_out_GM))


@functools.partial(jax.jit, static_argnums=(0, 1))
def queries(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side, batch: HistoryBatch
) -> Float[Array, "G B D"]:
    """Returns the vector of each history: its product with an item's vector, plus the item's bias, is the item's score
    in nats, which lacks the normaliser of a log probability."""
    sessions = batch.seconds_GBL.shape[-1]
    position_GBL = jnp.broadcast_to(jnp.arange(sessions), batch.seconds_GBL.shape)
    is_read_GBL = position_GBL < batch.sessions_GB[..., None]
    inputs = Inputs(
        item_T=batch.item_GBT,
        feedback_T=batch.feedback_GBT,
        session_of_item_T=batch.session_GBT,
        user_of_session_RL=is_read_GBL.astype(jnp.int32)[:, :, None],
        position_RL=position_GBL[:, :, None],
        seconds_RL=batch.seconds_GBL[:, :, None],
        context={name: code_GBL[:, :, None] for name, code_GBL in batch.context_GBL.items()},
    )
    query_GBLD = encode_histories(spec, mesh, params, inputs=inputs, side=side)
    last_GB = jnp.maximum(batch.sessions_GB - 1, 0)
    return jnp.take_along_axis(query_GBLD, last_GB[..., None, None], axis=2)[:, :, 0]
