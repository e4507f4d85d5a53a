"""Scores of items for queries over the whole catalogue, chunk by chunk, so that memory does not grow with queries times
items. The rows of the catalogue are spread over the devices: each query goes to all of them, and each device scores its
own rows and sends only a few numbers per query.

    table = item_table(spec, mesh, params, side)
    log_prob_GQ, rank_GQ = over_rows(mesh, log_prob_and_rank, table, (query_GQD, item_GQ))

Letters: R rows (of the whole catalogue; in `over_rows`, of one device), N items of a chunk, B queries of one block,
Q queries, M (query, item) pairs, K best items, D width, G shards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.devices.gathered_rows import catalogue_rows, with_own_rows
from sessionrec_jax.devices.mesh import (
    BATCH_AXES,
    local_places,
    log_sum_of_rows,
    spread_axes,
    varying,
)
from sessionrec_jax.devices.processes import max_over_processes
from sessionrec_jax.devices.sharding import row_specs
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec

_CHUNK = 8192
"""The largest number of items whose scores are held at once."""
BLOCK = 256
"""The number of queries that a device scores at once."""
PAIRS = 16384
"""The number of pairs that a device scores at once."""
_TIE = 2.0**-20
"""Scores that differ by less than this share of their terms' size count as equal. It is eight times the rounding of
float32, so that items that tie also tie if a product of another shape computes their scores."""


class ItemTable(NamedTuple):
    """The whole catalogue: row r is item r."""

    e_RD: Float[Array, "R D"]
    bias_R: Float[Array, " R"]
    """-inf for rows that are not items: row 0 and those past the catalogue."""


class HeldRows(NamedTuple):
    """The rows of an ItemTable that one device has, inside `over_rows`."""

    e_RD: Float[Array, "R D"]
    bias_R: Float[Array, " R"]
    axes: tuple[str, ...]
    """The mesh axes over which the whole table is spread."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def item_table(spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side) -> ItemTable:
    """Returns embeddings and biases of the whole catalogue; each device makes its own rows."""
    spec, params = with_own_rows(spec, mesh, params, side)
    axes = spread_axes(mesh, spec.rows)

    def on_device(params: Params, side: Side) -> ItemTable:
        held = len(params["heads"]["item_bias"])
        rows = catalogue_rows(spec, params, side, jax.lax.axis_index(axes) * held)
        chunks, size = _chunks(held, _CHUNK)

        def with_chunk(number: Array, e_RD: Array) -> Array:
            start = _start(number, size, held)
            return jax.lax.dynamic_update_slice(e_RD, rows.embed(start + jnp.arange(size)), (start, 0))

        empty_RD = varying(jnp.zeros((held, spec.model.width)), axes)
        item_R = rows.first + jnp.arange(held)
        is_item_R = (item_R > 0) & (item_R < spec.ids)
        e_RD = jax.lax.fori_loop(0, chunks, with_chunk, empty_RD)
        return ItemTable(e_RD, jnp.where(is_item_R, rows.item_bias_R, -jnp.inf))

    spread = PartitionSpec(axes)
    specs = (row_specs(mesh, params), spread)
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=spread)(params, side)


def over_rows(mesh: jax.sharding.Mesh, function: Callable[..., Any], table: ItemTable, batch_G: tuple[Any, ...]) -> Any:
    """Returns `function(rows, *batch)` for every shard of `batch_G`, computed by all devices that have rows.

    `rows` are a device's own; the result must be the same on each. The functions below are made to run inside it. The
    shards that share a table are gathered on each of its devices, and computed one after the other.
    """
    axes = spread_axes(mesh, len(table.bias_R))
    shared = tuple(axis for axis in axes if axis in BATCH_AXES)

    def on_device(table: ItemTable, *batch_G: Any) -> Any:
        rows = HeldRows(*table, axes)
        own = len(jax.tree.leaves(batch_G)[0])
        if shared:
            batch_G = jax.lax.all_gather(batch_G, shared, axis=0, tiled=True, to="invarying")
        found_G = jax.lax.map(lambda batch: function(rows, *batch), batch_G)
        if not shared:
            return found_G
        first = jax.lax.axis_index(shared) * own
        return jax.tree.map(lambda x_G: jax.lax.dynamic_slice_in_dim(x_G, first, own), found_G)

    spread, by_shard = PartitionSpec(axes), PartitionSpec(BATCH_AXES)
    specs = (spread, *(by_shard for _ in batch_G))
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=by_shard)(table, *batch_G)


def _chunks(held: int, chunk_items: int) -> tuple[int, int]:
    """Returns number and size of even chunks of `held` rows."""
    chunks = -(-held // chunk_items)
    return chunks, -(-held // chunks)


def _start(number: Array, size: int, held: int) -> Array:
    """Returns the first row of a chunk; the last chunk repeats some rows before it, so as not to go past the end."""
    return jnp.minimum(number * size, held - size)


def _score_chunks(
    table: HeldRows,
    query_BD: Float[Array, "B D"],
    chunk_items: int,
    function: Callable[[Float[Array, "B N"], Int[Array, " N"]], Any],
) -> Any:
    """Returns `function(score_BN, item_N)` of all chunks of this device's rows, stacked.

    Each item has its score once; rows that are not items, or come again, have -inf. Products are in full float32,
    because an accelerator's shorter ones would make many items tie.
    """
    held = len(table.bias_R)
    chunks, size = _chunks(held, chunk_items)
    first = jax.lax.axis_index(table.axes) * held

    def on_chunk(number: Array) -> Any:
        start = _start(number, size, held)
        e_ND, bias_N = (jax.lax.dynamic_slice_in_dim(x_RX, start, size) for x_RX in (table.e_RD, table.bias_R))
        place_N = start + jnp.arange(size)
        score_BN = jnp.einsum("BD,ND->BN", query_BD, e_ND, precision="highest") + bias_N
        is_new_N = (place_N >= number * size) & (bias_N > -jnp.inf)
        return function(jnp.where(is_new_N, score_BN, -jnp.inf), first + place_N)

    return jax.lax.map(on_chunk, jnp.arange(chunks))


def pair_scores(
    table: HeldRows, query_MD: Float[Array, "M D"], item_M: Int[Array, " M"]
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """Returns the score of one item for each query, and the distance within which another item's counts as equal.

    The device that has the item's row computes them.
    """
    held = len(table.bias_R)
    place_M = local_places(item_M, held, table.axes)
    e_MD, bias_M = (x_RX.at[place_M].get(mode="fill", fill_value=0) for x_RX in (table.e_RD, table.bias_R))
    score_M = jnp.sum(query_MD * e_MD, axis=1) + bias_M
    size_M = jnp.linalg.norm(query_MD, axis=1) * jnp.linalg.norm(e_MD, axis=1) + jnp.abs(bias_M)
    here_M = place_M < held  # on other devices a NaN query would give a NaN score
    score_M, size_M = jax.lax.psum([jnp.where(here_M, x_M, 0.0) for x_M in (score_M, size_M)], table.axes)
    return score_M, _TIE * size_M


def log_prob_and_rank(
    table: HeldRows, query_QD: Float[Array, "Q D"], item_Q: Int[Array, " Q"], chunk_items: int = _CHUNK
) -> tuple[Float[Array, " Q"], Int[Array, " Q"]]:
    """Returns the log probability (nats) of each query's item in the softmax over the whole catalogue, and its rank.

    The rank is the number of other items whose score is not below its own: ties, and NaN scores, count against it. Q is
    a multiple of BLOCK.
    """
    own_Q, tie_Q = pair_scores(table, query_QD, item_Q)

    def block(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query_BD, item_B, least_B = part

        def chunk(score_BN: Array, item_N: Array) -> tuple[Array, Array]:
            is_other_BN = (item_N != item_B[:, None]) & (score_BN != -jnp.inf)
            is_above_BN = is_other_BN & ~(score_BN < least_B[:, None])
            return jax.nn.logsumexp(score_BN, axis=1), is_above_BN.sum(axis=1)

        log_sum_CB, above_CB = _score_chunks(table, query_BD, chunk_items, chunk)
        return jax.nn.logsumexp(log_sum_CB, axis=0), above_CB.sum(axis=0)

    blocks = (
        query_QD.reshape(-1, BLOCK, query_QD.shape[-1]),
        item_Q.reshape(-1, BLOCK),
        (own_Q - tie_Q).reshape(-1, BLOCK),
    )
    log_sum, above = jax.lax.map(block, blocks)
    return own_Q - log_sum_of_rows(log_sum.reshape(-1), table.axes), jax.lax.psum(above.reshape(-1), table.axes)


def top_k(
    table: HeldRows,
    query_BD: Float[Array, "B D"],
    pairs: tuple[Int[Array, " M"], Int[Array, " M"]] | None,
    k: int,
    chunk_items: int = _CHUNK,
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """Returns the exact best `k` items of each query, without those of its pairs (query, item), and their log
    probabilities (nats) in the softmax over the whole catalogue.

    It takes the best of each chunk, of these the device's best, and of these the best of all devices. Of equal scores
    the lower id is first. If there are fewer than k items, the rest have a log probability of -inf. Pairs of query B
    are padding.
    """

    def chunk(score_BN: Array, item_N: Array) -> tuple[Array, Array, Array]:
        size = len(item_N)
        log_sum_B = jax.nn.logsumexp(score_BN, axis=1)
        if pairs is not None:
            query_M, place_M = pairs[0], pairs[1] - item_N[0]
            place_M = jnp.where(
                place_M < 0, size, place_M
            )  # in another chunk; a negative place would count from the end
            score_BN = score_BN.at[query_M, place_M].set(-jnp.inf, mode="drop")
        best_BK, place_BK = jax.lax.top_k(score_BN, min(k, size))
        return best_BK, item_N[place_BK], log_sum_B

    best_CBK, item_CBK, log_sum_CB = _score_chunks(table, query_BD, chunk_items, chunk)
    best_BX, item_BX = (jnp.swapaxes(x, 0, 1).reshape(query_BD.shape[0], -1) for x in (best_CBK, item_CBK))
    best = _best(best_BX, item_BX, min(k, len(table.bias_R)))
    # One axis after the other, from the last: the gathered items are in the order of ids, so that of equal scores the
    # lower id stays first, and at most k items of each device on the axis are held.
    for axis in reversed(table.axes):
        gathered = jax.lax.all_gather(best, axis, axis=1, tiled=True, to="invarying")
        best = _best(*gathered, min(k, gathered[0].shape[1]))
    score_BK, item_BK = best
    log_sum_B = log_sum_of_rows(jax.nn.logsumexp(log_sum_CB, axis=0), table.axes)
    return item_BK, score_BK - log_sum_B[:, None]


def _best(score_BX: Array, item_BX: Array, k: int) -> tuple[Array, Array]:
    score_BK, place_BK = jax.lax.top_k(score_BX, k)
    return score_BK, jnp.take_along_axis(item_BX, place_BK, axis=1)


def count_above(
    table: HeldRows,
    query_QD: Float[Array, "Q D"],
    item_Q: Int[Array, " Q"],
    pairs: tuple[Int[Array, " M"], Int[Array, " M"]],
) -> Int[Array, " Q"]:
    """Counts the pairs (query, item) of each query whose score is not below that of the query's own item.

    Pairs of query Q are padding; M is a multiple of PAIRS.
    """
    own_Q, tie_Q = pair_scores(table, query_QD, item_Q)
    pair_query_M, pair_item_M = pairs

    def part(pairs: tuple[Array, Array]) -> Array:
        query_M, other_M = pairs
        score_M, _ = pair_scores(table, query_QD[query_M], other_M)
        return ~(score_M < (own_Q - tie_Q)[query_M])

    is_above_M = jax.lax.map(part, (pair_query_M.reshape(-1, PAIRS), pair_item_M.reshape(-1, PAIRS))).reshape(-1)
    return jnp.zeros(len(item_Q), jnp.int32).at[pair_query_M].add(is_above_M, mode="drop")


def stack_pairs(pairs: list[tuple[np.ndarray, np.ndarray]], queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs (number of a query, item) of all devices as [G, M] arrays, filled up with query `queries`."""
    width = padded_width(max_over_processes(max(len(number) for number, _ in pairs)), PAIRS)
    number_GM, item_GM = np.full((len(pairs), width), queries, np.int32), np.zeros((len(pairs), width), np.int32)
    for device, (number, item) in enumerate(pairs):
        number_GM[device, : len(number)], item_GM[device, : len(item)] = number, item
    return number_GM, item_GM


def padded_width(longest: int, block: int) -> int:
    """Returns a width for `longest` entries: `block` times a power of two, so that few programs are compiled."""
    return block << max(0, -(-longest // block) - 1).bit_length()
