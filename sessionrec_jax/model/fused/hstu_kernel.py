"""HSTU's attention as two Pallas kernels for TPUs, forward and backward, on the heads and rows of one device.

A row is cut into K blocks of C slots. The kernels compute the weights of one block of queries and one block of keys at
a time. Blocks above the diagonal are left out, and so are blocks of which no query and key are of the same user. With
the logit z = scale * (q . k) + bias of a pair that may see each other:

    forward:   o = sum over keys of silu(z) / divisor * v
    backward:  dz = dw * sigmoid(z) * (1 + z * (1 - sigmoid(z))) / divisor, with dw = do . v

The bias is by distance in slots, as blocks [K, C, C] (`hstu.py` makes them), and by time. For the time the kernel reads
the range of buckets that a pair of blocks can have, and steps through the edges of these buckets only.

Letters: R rows, N heads, K blocks of a row, C slots of a block, L = K * C slots, H head width, B buckets of time.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int32

VMEM_BYTES = 64 * 2**20
"""The most memory of a core that the compiler may give to a kernel. TPU v5e, v5p and v6e have 128 MiB."""


class Pairs(NamedTuple):
    """The facts of every row that decide which pairs of slots may see each other, and how far they are apart."""

    first_RKxC: Int32[Array, "R K 1 C"]
    """The first slot that each slot may see: the first of its user."""
    first_block_RxK: Int32[Array, "R 1 K"]
    """The first block of keys that a block of queries sees."""
    last_block_RxK: Int32[Array, "R 1 K"]
    """The last block of queries that sees a block of keys."""


class Times(NamedTuple):
    """The bias by time."""

    seconds_RKxC: Int32[Array, "R K 1 C"]
    buckets_RxX: Int32[Array, "R 2 X"]
    """The lowest and the highest bucket of every pair of blocks, at X = query block * K + key block."""
    edge_xB: Int32[Array, "1 B"]
    """The fewest seconds of each bucket."""
    time_NxB: Float32[Array, "N 1 B"]


class Bias(NamedTuple):
    place_NKCC: Float32[Array, "N K C C"]
    """By distance: block, query and key. At [n, m, a, b] the query is m * C + a - b slots after the key."""
    times: Times


class Gradients(NamedTuple):
    q_RNLH: Array
    k_RNLH: Array
    v_RNLH: Array
    place_NKCC: Float32[Array, "N K C C"] | None
    time_NBC: Float32[Array, "N B C"] | None
    """Sums over C give the gradient of each bucket."""


class How(NamedTuple):
    """The static settings of both kernels."""

    scale: float
    divisor: int
    block: int
    """C."""


def vmem_bytes(slots: int, head_width: int, block: int, item_bytes: int) -> int:
    """Returns the memory of a core that the backward kernel needs for a row of `slots` slots, about."""
    whole_rows = 2 * 2 * slots * head_width * item_bytes + 2 * slots * head_width * 4
    return whole_rows + 4 * slots * block * 4 + 16 * block * block * 4


def forward(how: How, q_RNLH: Array, k_RNLH: Array, v_RNLH: Array, pairs: Pairs, bias: Bias | None) -> Array:
    """Returns the attention of each query, [R, N, L, H], in the type of v."""
    rows, heads, slots, width = q_RNLH.shape
    of_block, of_row, facts = _specs(how, slots, width)
    operands = [(pairs.first_block_RxK, facts.scalars(slots // how.block)), (pairs.first_RKxC, facts.block)]
    operands += [(q_RNLH, of_block), (k_RNLH, of_row), (v_RNLH, of_row)]
    if bias is not None:
        operands += _bias_operands(how, bias, facts)
    return _call(
        functools.partial(_forward_kernel, how), operands,
        grid=(heads, rows, slots // how.block),
        out_shape=jax.ShapeDtypeStruct(q_RNLH.shape, v_RNLH.dtype), out_specs=of_block,
    )  # fmt: skip


def backward(
    how: How, q_RNLH: Array, k_RNLH: Array, v_RNLH: Array, pairs: Pairs, bias: Bias | None, grad_RNLH: Array
) -> Gradients:
    """Returns the gradients, given that of the result."""
    rows, heads, slots, width = q_RNLH.shape
    of_block, of_row, facts = _specs(how, slots, width)
    operands = [(pairs.last_block_RxK, facts.scalars(slots // how.block)), (pairs.first_RKxC, facts.row)]
    operands += [(q_RNLH, of_row), (grad_RNLH, of_row), (k_RNLH, of_block), (v_RNLH, of_block)]
    like = jax.ShapeDtypeStruct
    # Gradients of queries are sums over blocks of keys, so they stay in float32 in the memory of the core.
    out_shape = [like(q_RNLH.shape, jnp.float32), like(k_RNLH.shape, k_RNLH.dtype), like(v_RNLH.shape, v_RNLH.dtype)]
    out_specs = [of_row, of_block, of_block]
    if bias is not None:
        # The kernel works on [key, query].
        bias = bias._replace(place_NKCC=jnp.swapaxes(bias.place_NKCC, 2, 3))
        operands += _bias_operands(how, bias, facts)
        buckets = bias.times.edge_xB.shape[1]
        out_shape += [like(bias.place_NKCC.shape, jnp.float32), like((heads, buckets, how.block), jnp.float32)]
        out_specs += [facts.place, pl.BlockSpec((None, buckets, how.block), lambda n, r, i: (n, 0, 0))]
    q, k, v, *of_bias = _call(
        functools.partial(_backward_kernel, how), operands,
        grid=(heads, rows, slots // how.block), out_shape=out_shape, out_specs=out_specs,
    )  # fmt: skip
    place, time = (jnp.swapaxes(of_bias[0], 2, 3), of_bias[1]) if of_bias else (None, None)
    return Gradients(q.astype(q_RNLH.dtype), k, v, place, time)


class _Facts(NamedTuple):
    """Block specs of the facts of a row."""

    block: Any
    row: Any
    place: Any

    @staticmethod
    def scalars(*shape: int) -> Any:
        two = (1, *shape) if len(shape) == 1 else shape
        return pl.BlockSpec((None, *two), lambda n, r, i: (r, 0, 0), memory_space=pltpu.SMEM)


def _specs(how: How, slots: int, width: int) -> tuple[Any, Any, _Facts]:
    """Returns the specs of a block of a head, of a whole row of a head, and of the facts of the row."""
    blocks, block = slots // how.block, how.block
    return (
        pl.BlockSpec((None, None, block, width), lambda n, r, i: (r, n, i, 0)),
        pl.BlockSpec((None, None, slots, width), lambda n, r, i: (r, n, 0, 0)),
        _Facts(
            block=pl.BlockSpec((None, None, 1, block), lambda n, r, i: (r, i, 0, 0)),
            row=pl.BlockSpec((None, blocks, 1, block), lambda n, r, i: (r, 0, 0, 0)),
            place=pl.BlockSpec((None, blocks, block, block), lambda n, r, i: (n, 0, 0, 0)),
        ),
    )


def _bias_operands(how: How, bias: Bias, facts: _Facts) -> list[tuple[Array, Any]]:
    times = bias.times
    buckets = times.edge_xB.shape[1]
    return [
        (bias.place_NKCC, facts.place),
        (times.seconds_RKxC, facts.block),
        (times.seconds_RKxC, facts.row),
        (times.buckets_RxX, facts.scalars(2, times.buckets_RxX.shape[2])),
        (times.edge_xB, pl.BlockSpec((1, buckets), lambda n, r, i: (0, 0), memory_space=pltpu.SMEM)),
        (times.time_NxB, pl.BlockSpec((None, 1, buckets), lambda n, r, i: (n, 0, 0), memory_space=pltpu.SMEM)),
    ]


def _call(kernel: Any, operands: list[tuple[Array, Any]], **settings: Any) -> Any:
    arrays, specs = zip(*operands, strict=True)
    params = pltpu.CompilerParams(vmem_limit_bytes=VMEM_BYTES)
    return pl.pallas_call(kernel, in_specs=list(specs), compiler_params=params, **settings)(*arrays)


def _forward_kernel(how: How, first_block_ref, first_ref, q_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the values for one block of queries, with arrays [query, key]."""
    *bias_refs, out_ref = refs
    block, query = how.block, pl.program_id(2)
    square = (block, block)
    q_CH = q_ref[...]
    first_CC = _column(first_ref[...], square)
    slot_CC = query * block + jax.lax.broadcasted_iota(jnp.int32, square, 0)
    own_seconds_CC = _column(bias_refs[1][...], square) if bias_refs else None

    def of_keys(key: Any, sum_CH: Array) -> Array:
        here = pl.ds(key * block, block)
        logit_CC = _dot(q_CH, k_ref[here, :], (1, 1)) * how.scale
        if bias_refs:
            apart_CC = own_seconds_CC - bias_refs[2][key]
            logit_CC += bias_refs[0][query - key] + _time_bias(bias_refs, apart_CC, query, key)[0]
        key_CC = key * block + jax.lax.broadcasted_iota(jnp.int32, square, 1)
        weight_CC = logit_CC * jax.nn.sigmoid(logit_CC) / how.divisor
        weight_CC = jnp.where((key_CC >= first_CC) & (key_CC <= slot_CC), weight_CC, 0.0)
        return sum_CH + _dot(weight_CC.astype(v_ref.dtype), v_ref[here, :], (1, 0))

    zero_CH = jnp.zeros(out_ref.shape, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(first_block_ref[0, query], query + 1, of_keys, zero_CH).astype(out_ref.dtype)


def _backward_kernel(how: How, last_block_ref, first_ref, q_ref, grad_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the gradients for one block of keys, with arrays [key, query]."""
    bias_refs, out_refs = (refs[:6], refs[6:]) if len(refs) > 3 else ((), refs)
    dq_ref, dk_ref, dv_ref, *dbias_refs = out_refs
    block, row, key = how.block, pl.program_id(1), pl.program_id(2)
    square = (block, block)
    k_CH, v_CH = k_ref[...], v_ref[...]
    slot_CC = key * block + jax.lax.broadcasted_iota(jnp.int32, square, 0)
    own_seconds_CC = _column(bias_refs[1][...], square) if bias_refs else None

    @pl.when(key == 0)
    def _():
        dq_ref[...] = jnp.zeros(dq_ref.shape, jnp.float32)

    @pl.when((key == 0) & (row == 0))
    def _():
        for ref in dbias_refs:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)

    def of_queries(query: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        here = pl.ds(query * block, block)
        q_CH, grad_CH = q_ref[here, :], grad_ref[here, :]
        logit_CC, bucket_CC = _dot(k_CH, q_CH, (1, 1)) * how.scale, None
        if bias_refs:
            bias_CC, bucket_CC = _time_bias(bias_refs, bias_refs[2][query] - own_seconds_CC, query, key)
            logit_CC += bias_refs[0][query - key] + bias_CC
        query_CC = query * block + jax.lax.broadcasted_iota(jnp.int32, square, 1)
        may_see_CC = (slot_CC >= first_ref[query]) & (slot_CC <= query_CC)
        sigmoid_CC = jnp.where(may_see_CC, jax.nn.sigmoid(logit_CC) / how.divisor, 0.0)
        weight_CC = logit_CC * sigmoid_CC
        slope_CC = sigmoid_CC + weight_CC * (1 - jax.nn.sigmoid(logit_CC))
        dlogit_CC = _dot(v_CH, grad_CH, (1, 1)) * slope_CC
        scaled_CC = (dlogit_CC * how.scale).astype(k_CH.dtype)
        dq_ref[here, :] += _dot(scaled_CC, k_CH, (0, 0))
        if bias_refs:
            dbias_refs[0][query - key] += dlogit_CC
            _add_by_bucket(dbias_refs[1], bias_refs, dlogit_CC, bucket_CC, query, key)
        dk_CH, dv_CH = sums
        return dk_CH + _dot(scaled_CC, q_CH, (1, 0)), dv_CH + _dot(weight_CC.astype(v_CH.dtype), grad_CH, (1, 0))

    zero_CH = jnp.zeros(dk_ref.shape, jnp.float32)
    dk_CH, dv_CH = jax.lax.fori_loop(key, last_block_ref[0, key] + 1, of_queries, (zero_CH, zero_CH))
    dk_ref[...], dv_ref[...] = dk_CH.astype(dk_ref.dtype), dv_CH.astype(dv_ref.dtype)


def _column(x_xC: Array, square: tuple[int, int]) -> Array:
    """Returns [C, C] whose rows each repeat one number of x."""
    return jnp.broadcast_to(x_xC, square).T


def _dot(a: Array, b: Array, contracted: tuple[int, int]) -> Float[Array, "X Y"]:
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _bucket_range(bias_refs: Any, query: Any, key: Any) -> tuple[Any, Any]:
    buckets_ref, blocks = bias_refs[3], bias_refs[0].shape[0]
    return buckets_ref[0, query * blocks + key], buckets_ref[1, query * blocks + key]


def _time_bias(bias_refs: Any, apart_CC: Array, query: Any, key: Any) -> tuple[Array, Array]:
    """Returns the bias by time of each pair of slots, and its bucket."""
    edge_ref, time_ref = bias_refs[4], bias_refs[5]
    lowest, highest = _bucket_range(bias_refs, query, key)

    def above(bucket: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        reaches_CC = apart_CC >= edge_ref[0, bucket]
        return jnp.where(reaches_CC, time_ref[0, bucket], found[0]), jnp.where(reaches_CC, bucket, found[1])

    start = jnp.full(apart_CC.shape, time_ref[0, lowest]), jnp.full(apart_CC.shape, lowest)
    return jax.lax.fori_loop(lowest + 1, highest + 1, above, start)


def _add_by_bucket(sum_ref: Any, bias_refs: Any, x_CC: Array, bucket_CC: Array, query: Any, key: Any) -> None:
    """Adds x to the row of its bucket in `sum_ref` [B, C]."""
    lowest, highest = _bucket_range(bias_refs, query, key)

    def add(bucket: Any, _: None) -> None:
        of_bucket_xC = jnp.sum(jnp.where(bucket_CC == bucket, x_CC, 0.0), axis=0, keepdims=True)
        sum_ref[pl.ds(bucket, 1), :] += of_bucket_xC

    jax.lax.fori_loop(lowest, highest + 1, add, None)
