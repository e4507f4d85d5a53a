"""The products of one block of queries and one block of keys in HSTU's attention, as the kernels for TPUs and for GPUs
share them.

With the logit z = scale * (q . k) + bias of a pair of slots that may see each other:

    forward:   o = sum over keys of silu(z) / divisor * v
    backward:  dz = dw * sigmoid(z) * (1 + z * (1 - sigmoid(z))) / divisor, with dw = do . v

The bias by distance comes as a block of numbers. For the bias by time a kernel reads the range of buckets that a pair
of blocks can have, and steps through the edges of these buckets only.

Letters: C slots of a block, H head width, B buckets of time, x an axis of one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32


class How(NamedTuple):
    """The static settings of the kernels."""

    scale: float
    divisor: int
    block: int
    """C."""
    on_gpu: bool


class PairBias(NamedTuple):
    """The bias of the pairs of two blocks."""

    place_CC: Float32[Array, "C C"]
    apart_CC: Int32[Array, "C C"]
    """Seconds from key to query."""
    lowest: Any
    """The lowest bucket of time that is possible here, and the highest."""
    highest: Any
    edge_ref: Any
    """[1, B]: the fewest seconds of each bucket."""
    time_ref: Any
    """[1, B]: the bias of each bucket."""


class PairGradient(NamedTuple):
    """Arrays [key, query]."""

    weight_CC: Float32[Array, "C C"]
    logit_CC: Float32[Array, "C C"]
    """The gradient of the logits."""
    bucket_CC: Int32[Array, "C C"] | None


def dot(a: Array, b: Array, contracted: tuple[int, int]) -> Float[Array, "X Y"]:
    """Returns the product over the given axes of two matrices, in float32."""
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def column(x_xC: Array, block: int) -> Array:
    """Returns [C, C] whose rows each repeat one number of x."""
    return jnp.broadcast_to(x_xC, (block, block)).T


def slots_of_block(how: How, number: Any, axis: int) -> Int32[Array, "C C"]:
    """Returns the slots of a block, along an axis."""
    return number * how.block + jax.lax.broadcasted_iota(jnp.int32, (how.block, how.block), axis)


def biased(how: How, product_CC: Array, bias: PairBias | None) -> tuple[Array, Array | None]:
    """Returns the logits, and the bucket of time of each pair."""
    logit_CC = product_CC * how.scale
    if bias is None:
        return logit_CC, None
    edge_ref, time_ref = bias.edge_ref, bias.time_ref

    def above(bucket: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        reaches_CC = bias.apart_CC >= edge_ref[0, bucket]
        return jnp.where(reaches_CC, time_ref[0, bucket], found[0]), jnp.where(reaches_CC, bucket, found[1])

    start = jnp.full(logit_CC.shape, time_ref[0, bias.lowest]), jnp.full(logit_CC.shape, bias.lowest)
    time_CC, bucket_CC = jax.lax.fori_loop(bias.lowest + 1, bias.highest + 1, above, start)
    return logit_CC + bias.place_CC + time_CC, bucket_CC


def weights(how: How, logit_CC: Array, may_see_CC: Bool[Array, "C C"]) -> Float32[Array, "C C"]:
    return jnp.where(may_see_CC, logit_CC * jax.nn.sigmoid(logit_CC) / how.divisor, 0.0)


def gradient(
    how: How,
    q_CH: Array,
    grad_CH: Array,
    k_CH: Array,
    v_CH: Array,
    *,
    query: Any,
    key: Any,
    first_xC: Int32[Array, "1 C"],
    bias: PairBias | None,
) -> PairGradient:
    """Returns the gradient of the logits of the blocks `query` and `key`, given that of the result."""
    logit_CC, bucket_CC = biased(how, dot(k_CH, q_CH, (1, 1)), bias)
    key_CC, query_CC = slots_of_block(how, key, 0), slots_of_block(how, query, 1)
    may_see_CC = (key_CC >= first_xC) & (key_CC <= query_CC)
    sigmoid_CC = jax.nn.sigmoid(logit_CC)
    share_CC = jnp.where(may_see_CC, sigmoid_CC / how.divisor, 0.0)
    weight_CC = logit_CC * share_CC
    slope_CC = share_CC + weight_CC * (1 - sigmoid_CC)
    return PairGradient(weight_CC, dot(v_CH, grad_CH, (1, 1)) * slope_CC, bucket_CC)


def sum_of_bucket(x_CC: Array, bucket_CC: Array, bucket: Any) -> Float32[Array, "1 C"]:
    """Returns the sums over keys of the pairs in one bucket."""
    return jnp.sum(jnp.where(bucket_CC == bucket, x_CC, 0.0), axis=0, keepdims=True)
