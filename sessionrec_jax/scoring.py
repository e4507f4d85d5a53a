"""Scores of items for queries over the whole catalogue, chunk by chunk, so that memory does not grow with queries times
items.

Letters: V ids, C chunks of N items, B queries of one block, Q queries, M (query, item) pairs, K best items, D width,
G devices.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sessionrec_jax.hosts import most
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import Params, Side, Spec

_CHUNK = 8192
"""Items whose scores are held at once."""
BLOCK = 256
"""Queries of one device that are scored at once."""
PAIRS = 16384
"""Pairs of one device that are scored at once."""
_TIE = 2.0**-20
"""Scores closer than this share of their terms' size are equal: eight times the rounding of float32, so that an item
that ties stays tied when a product of another shape computes its score."""


class ItemTable(NamedTuple):
    """The whole catalogue; item v is number v % N of chunk v // N."""

    e_CND: Float[Array, "C N D"]
    bias_CN: Float[Array, "C N"]
    """-inf where there is no item: id 0 and past the catalogue."""


@functools.partial(jax.jit, static_argnums=0)
def item_table(spec: Spec, params: Params, side: Side) -> ItemTable:
    """Embeddings and biases of the whole catalogue: the only array of its size."""
    size = min(_CHUNK, spec.ids)
    id_CN = jnp.arange(-(-spec.ids // size) * size).reshape(-1, size)
    held_CN = jnp.minimum(id_CN, spec.ids - 1)
    e_CND = jax.lax.map(lambda id_N: sessionrec.embed(spec, params, id_N, side), held_CN)
    is_item_CN = (id_CN > 0) & (id_CN < spec.ids)
    return ItemTable(e_CND, jnp.where(is_item_CN, params["heads"]["item_bias"][held_CN], -jnp.inf))


def chunk_scores(
    query_BD: Float[Array, "B D"], e_ND: Float[Array, "N D"], bias_N: Float[Array, " N"]
) -> Float[Array, "B N"]:
    """Score of every item of a chunk, in full float32: an accelerator's shorter products would make ties of many."""
    return jnp.einsum("BD,ND->BN", query_BD, e_ND, precision="highest") + bias_N


def pair_scores(
    table: ItemTable, query_MD: Float[Array, "M D"], item_M: Int[Array, " M"]
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """Score of one item for each query, and how close another item's has to be to count as equal."""
    e_MD = table.e_CND.reshape(-1, table.e_CND.shape[-1])[item_M]
    bias_M = table.bias_CN.reshape(-1)[item_M]
    size_M = jnp.linalg.norm(query_MD, axis=1) * jnp.linalg.norm(e_MD, axis=1) + jnp.abs(bias_M)
    return jnp.sum(query_MD * e_MD, axis=1) + bias_M, _TIE * size_M


def log_prob_and_rank(
    table: ItemTable, query_QD: Float[Array, "Q D"], item_Q: Int[Array, " Q"]
) -> tuple[Float[Array, " Q"], Int[Array, " Q"]]:
    """Log probability, nats, of each query's item in the softmax over the whole catalogue, and the item's rank: the
    number of other items whose score is not below its own. Ties, and scores that are no numbers, count against it.
    Q is a multiple of BLOCK."""
    chunks, size = table.bias_CN.shape
    first_C = jnp.arange(chunks) * size

    def block(part: tuple[Array, Array]) -> tuple[Array, Array]:
        query_BD, item_B = part
        own_B, tie_B = pair_scores(table, query_BD, item_B)

        def chunk(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            e_ND, bias_N, first = part
            score_BN = chunk_scores(query_BD, e_ND, bias_N)
            is_other_BN = first + jnp.arange(size) != item_B[:, None]
            is_above_BN = is_other_BN & ~(score_BN < (own_B - tie_B)[:, None])
            return jax.nn.logsumexp(score_BN, axis=1), is_above_BN.sum(axis=1)

        log_sum_CB, above_CB = jax.lax.map(chunk, (*table, first_C))
        return own_B - jax.nn.logsumexp(log_sum_CB, axis=0), above_CB.sum(axis=0)

    blocks = (query_QD.reshape(-1, BLOCK, query_QD.shape[-1]), item_Q.reshape(-1, BLOCK))
    log_prob, rank = jax.lax.map(block, blocks)
    return log_prob.reshape(-1), rank.reshape(-1)


def top_k(
    table: ItemTable, query_BD: Float[Array, "B D"], k: int, pairs: tuple[Int[Array, " M"], Int[Array, " M"]] | None
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """The best `k` items of each query but those of its pairs (query, item), exactly: the best of each chunk, then the
    best of those; and their log probabilities, nats, in the softmax over the whole catalogue. Of equal scores the lower
    id is first. Where there are fewer than k items, the rest have a log probability of -inf. Pairs of query B are
    padding."""
    chunks, size = table.bias_CN.shape

    def chunk(part: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        e_ND, bias_N, first = part
        score_BN = chunk_scores(query_BD, e_ND, bias_N)
        log_sum_B = jax.nn.logsumexp(score_BN, axis=1)
        if pairs is not None:
            query_M, place_M = pairs[0], pairs[1] - first
            place_M = jnp.where(place_M < 0, size, place_M)  # of another chunk; below zero would count from the end
            score_BN = score_BN.at[query_M, place_M].set(-jnp.inf, mode="drop")
        best_BK, place_BK = jax.lax.top_k(score_BN, min(k, size))
        return best_BK, first + place_BK, log_sum_B

    best_CBK, item_CBK, log_sum_CB = jax.lax.map(chunk, (*table, jnp.arange(chunks) * size))
    best_BX, item_BX = (jnp.swapaxes(x, 0, 1).reshape(len(query_BD), -1) for x in (best_CBK, item_CBK))
    score_BK, place_BK = jax.lax.top_k(best_BX, k)
    log_prob_BK = score_BK - jax.nn.logsumexp(log_sum_CB, axis=0)[:, None]
    return jnp.take_along_axis(item_BX, place_BK, axis=1), log_prob_BK


def count_above(
    table: ItemTable,
    query_QD: Float[Array, "Q D"],
    item_Q: Int[Array, " Q"],
    pair_query_M: Int[Array, " M"],
    pair_item_M: Int[Array, " M"],
) -> Int[Array, " Q"]:
    """How many of the pairs (query, item) of each query have a score that is not below that of the query's own item.
    Pairs of query Q are padding; M is a multiple of PAIRS."""
    own_Q, tie_Q = pair_scores(table, query_QD, item_Q)

    def part(above_Q: Array, pairs: tuple[Array, Array]) -> tuple[Array, None]:
        query_M, other_M = pairs
        score_M, _ = pair_scores(table, query_QD[query_M], other_M)
        is_above_M = ~(score_M < (own_Q - tie_Q)[query_M])
        return above_Q.at[query_M].add(is_above_M, mode="drop"), None

    pairs = (pair_query_M.reshape(-1, PAIRS), pair_item_M.reshape(-1, PAIRS))
    return jax.lax.scan(part, jnp.zeros(len(item_Q), jnp.int32), pairs)[0]


def stack_pairs(pairs: list[tuple[np.ndarray, np.ndarray]], queries: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (number of a query, item) of all devices as [G, M] arrays, filled up with query `queries`."""
    width = padded_width(most(max(len(number) for number, _ in pairs)), PAIRS)
    number_GM, item_GM = np.full((len(pairs), width), queries, np.int32), np.zeros((len(pairs), width), np.int32)
    for device, (number, item) in enumerate(pairs):
        number_GM[device, : len(number)], item_GM[device, : len(item)] = number, item
    return number_GM, item_GM


def padded_width(longest: int, block: int) -> int:
    """Room for `longest` entries: a power of two times `block`, so that few programs are compiled."""
    return block << max(0, -(-longest // block) - 1).bit_length()
