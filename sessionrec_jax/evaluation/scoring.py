"""Scores of items for queries over the whole catalogue, chunk by chunk, so that memory does not grow with queries times
items. The rows of the catalogue are spread over the devices: each query goes to all of them, and each device scores its
own rows and sends only a few numbers per query.

    table = item_table(spec, mesh, params, side)
    log_sum_GQ, rank_GQK = over_rows(mesh, log_sum_and_ranks, table, (query_GQD, item_GQK, least_GQK))

Letters: R rows (of the whole catalogue; in `over_rows`, of one device), N items of a chunk, C chunks, B queries of one
block, Q queries, K items of a query or best items, J of them at once, M (query, item) pairs, D width, G shards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

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
_CPU_CHUNK = 1024
"""The same where ranks are counted on a CPU."""
BLOCK = 256
"""The number of queries that a device scores at once."""
ITEMS_AT_ONCE = 4
"""The number of items of a query whose ranks are counted at once."""
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
    platform: str
    """The kind of device."""


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
        rows = HeldRows(*table, axes, mesh.devices.flat[0].platform)
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


class _Chunk(NamedTuple):
    """Some rows of this device. Each item is new in one chunk; rows that are not items never are."""

    e_ND: Float[Array, "N D"]
    bias_N: Float[Array, " N"]
    item_N: Int[Array, " N"]
    is_new_N: Bool[Array, " N"]


def _over_chunks(table: HeldRows, chunk_items: int, function: Callable[[Any, _Chunk], Any], carry: Any) -> Any:
    """Scans `function(carry, chunk) -> (carry, y)` over all chunks of this device's rows: the last carry, all y."""
    held = len(table.bias_R)
    chunks, size = _chunks(held, chunk_items)
    first = jax.lax.axis_index(table.axes) * held

    def on_chunk(carry: Any, number: Array) -> Any:
        start = _start(number, size, held)
        e_ND, bias_N = (jax.lax.dynamic_slice_in_dim(x_RX, start, size) for x_RX in (table.e_RD, table.bias_R))
        place_N = start + jnp.arange(size)
        is_new_N = (place_N >= number * size) & (bias_N > -jnp.inf)
        return function(carry, _Chunk(e_ND, bias_N, first + place_N, is_new_N))

    return jax.lax.scan(on_chunk, carry, jnp.arange(chunks))


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


def log_sum_and_ranks(
    table: HeldRows,
    query_QD: Float[Array, "Q D"],
    item_QK: Int[Array, "Q K"],
    least_QK: Float[Array, "Q K"],
    chunk_items: int | None = None,
) -> tuple[Float[Array, " Q"], Int[Array, "Q K"]]:
    """Returns for each query the log of the sum of exp(score) over the whole catalogue (nats), and the rank of each of
    its items: the number of other items whose score is not below `least_QK`. NaN scores count against an item.

    `least_QK` is the item's own score less its tie distance (`pair_scores`), not NaN, and ascending in each row; a
    query with fewer than K items has +inf, and item 0, at the end. Blocks of queries without an item cost nothing. Q is
    a multiple of BLOCK, K of ITEMS_AT_ONCE.

    One pass over the catalogue serves all items of a query, and a chunk whose best score is below an item's costs
    nothing for it. Sums over a chunk are products with ones, which are faster on a CPU than reductions, and chunks
    are so small there that the scores stay in its cache (LOG.md).
    """
    chunk_items = chunk_items or (_CPU_CHUNK if table.platform == "cpu" else _CHUNK)
    blocks = (
        query_QD.reshape(-1, BLOCK, query_QD.shape[-1]),
        *(jnp.swapaxes(x_QK.reshape(-1, BLOCK, x_QK.shape[-1]), 1, 2) for x_QK in (item_QK, least_QK)),
    )

    def block(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        nothing = varying(jnp.zeros(BLOCK), table.axes), varying(jnp.zeros(part[1].shape, jnp.int32), table.axes)
        return jax.lax.cond(part[1].any(), lambda: _log_sum_and_above(table, *part, chunk_items), lambda: nothing)

    log_sum, above_XKB = jax.lax.map(block, blocks)
    above_QK = jnp.swapaxes(above_XKB, 1, 2).reshape(item_QK.shape)
    return log_sum_of_rows(log_sum.reshape(-1), table.axes), jax.lax.psum(above_QK, table.axes)


def _log_sum_and_above(
    table: HeldRows,
    query_BD: Float[Array, "B D"],
    item_KB: Int[Array, "K B"],
    least_KB: Float[Array, "K B"],
    chunk_items: int,
) -> tuple[Float[Array, " B"], Int[Array, "K B"]]:
    """Returns what `log_sum_and_ranks` does, over this device's rows."""

    def chunk(above_KB: Array, rows: _Chunk) -> tuple[Array, Array]:
        score_NB = jnp.einsum("ND,BD->NB", rows.e_ND, query_BD, precision="highest") + rows.bias_N[:, None]
        # Without the barrier each sum below would compute all of it once more.
        score_NB = jax.lax.optimization_barrier(jnp.where(rows.is_new_N[:, None], score_NB, -jnp.inf))
        best_B = score_NB.max(axis=0)
        top_B = jnp.where(best_B == -jnp.inf, 0.0, best_B)
        log_sum_B = top_B + jnp.log(_sum(jnp.exp(score_NB - top_B)))

        def count(step: Array, above_KB: Array) -> Array:
            first = step * ITEMS_AT_ONCE
            item_JB, least_JB, before_JB = (
                jax.lax.dynamic_slice_in_dim(x_KB, first, ITEMS_AT_ONCE) for x_KB in (item_KB, least_KB, above_KB)
            )
            above_JB = jnp.stack([
                _sum(~(score_NB < least_B) & (rows.item_N[:, None] != item_B))
                for item_B, least_B in zip(item_JB, least_JB, strict=True)
            ])  # fmt: skip
            return jax.lax.dynamic_update_slice_in_dim(above_KB, before_JB + above_JB.astype(jnp.int32), first, 0)

        reached = (~(best_B < least_KB)).sum(axis=0).max()
        return jax.lax.fori_loop(0, -(-reached // ITEMS_AT_ONCE), count, above_KB), log_sum_B

    none_KB = varying(jnp.zeros(item_KB.shape, jnp.int32), table.axes)
    above_KB, log_sum_CB = _over_chunks(table, chunk_items, chunk, none_KB)
    return jax.nn.logsumexp(log_sum_CB, axis=0), above_KB


def _sum(x_NB: Array) -> Float[Array, " B"]:
    """Returns the sums of the columns; exact for up to 2^24 flags."""
    return jnp.einsum("N,NB->B", jnp.ones(len(x_NB)), x_NB.astype(jnp.float32), precision="highest")


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

    def chunk(_: None, rows: _Chunk) -> tuple[None, tuple[Array, Array, Array]]:
        item_N, size = rows.item_N, len(rows.item_N)
        # Products are in full float32, because an accelerator's shorter ones would make many items tie.
        score_BN = jnp.einsum("BD,ND->BN", query_BD, rows.e_ND, precision="highest") + rows.bias_N
        score_BN = jnp.where(rows.is_new_N, score_BN, -jnp.inf)
        log_sum_B = jax.nn.logsumexp(score_BN, axis=1)
        if pairs is not None:
            query_M, place_M = pairs[0], pairs[1] - item_N[0]
            place_M = jnp.where(
                place_M < 0, size, place_M
            )  # in another chunk; a negative place would count from the end
            score_BN = score_BN.at[query_M, place_M].set(-jnp.inf, mode="drop")
        best_BK, place_BK = jax.lax.top_k(score_BN, min(k, size))
        return None, (best_BK, item_N[place_BK], log_sum_B)

    _, (best_CBK, item_CBK, log_sum_CB) = _over_chunks(table, chunk_items, chunk, None)
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


def pairs_scores(
    table: HeldRows, query_QD: Float[Array, "Q D"], pairs: tuple[Int[Array, " M"], Int[Array, " M"]]
) -> Float[Array, " M"]:
    """Returns the score of each pair (query, item), some pairs at a time. Pairs of query Q are padding; M is a multiple
    of PAIRS."""

    def part(pairs: tuple[Array, Array]) -> Array:
        query_M, item_M = pairs
        return pair_scores(table, query_QD[query_M], item_M)[0]

    return jax.lax.map(part, tuple(x_M.reshape(-1, PAIRS) for x_M in pairs)).reshape(-1)


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
