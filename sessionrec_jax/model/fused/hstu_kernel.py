"""HSTU's attention as Pallas kernels, on the heads and rows of one device: forward, and backward for TPUs.

A row is cut into K blocks of C slots. The kernels compute the weights of one block of queries and one block of keys at
a time (hstu_pair.py). Blocks above the diagonal are left out, and so are blocks of which no query and key are of the
same user. The bias by distance comes as blocks [K, C, C], which hstu.py makes. The backward pass for GPUs is in
hstu_gpu.py.

Letters: R rows, N heads, K blocks of a row, C slots of a block, L = K * C slots, H head width, B buckets of time, x an
axis of one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float32, Int32

from sessionrec_jax.model.fused import hstu_pair
from sessionrec_jax.model.fused.hstu_pair import How, PairBias, column, dot

VMEM_BYTES = 64 * 2**20
"""The most memory of a core that the compiler may give to a kernel. TPU v5e, v5p and v6e have 128 MiB."""

_LANES = 128


class Pairs(NamedTuple):
    """The facts of every row that decide which pairs of slots may see each other."""

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
    time_NBX: Float32[Array, "N B X"] | None
    """Sums over X give the gradient of each bucket."""


def vmem_bytes(slots: int, head_width: int, block: int, item_bytes: int) -> int:
    """Returns the memory of a TPU's core that the backward kernel needs for a row of `slots` slots, about."""
    width = -(-head_width // _LANES) * _LANES
    queries, their_gradients = 2 * 2 * slots * width * item_bytes, 2 * slots * width * 4  # two buffers of each
    return queries + their_gradients + 4 * slots * block * 4 + 16 * block * block * 4


def forward(how: How, q_RNLH: Array, k_RNLH: Array, v_RNLH: Array, pairs: Pairs, bias: Bias | None) -> Array:
    """Returns the attention of each query, [R, N, L, H], in the type of v."""
    rows, heads, slots, width = q_RNLH.shape
    specs = Specs(how, slots, width)
    operands = [(pairs.first_block_RxK, specs.scalars), (pairs.first_RKxC, specs.fact)]
    operands += [(q_RNLH, specs.block), (k_RNLH, specs.row), (v_RNLH, specs.row), *bias_operands(specs, bias)]
    like = jax.ShapeDtypeStruct(q_RNLH.shape, v_RNLH.dtype)
    return call(how, _forward_kernel, operands, grid=(heads, rows, specs.blocks), out_shape=like, out_specs=specs.block)


def backward(
    how: How, q_RNLH: Array, k_RNLH: Array, v_RNLH: Array, pairs: Pairs, bias: Bias | None, grad_RNLH: Array
) -> Gradients:
    """Returns the gradients, given that of the result. `bias` has blocks [key, query]; so has the gradient."""
    rows, heads, slots, width = q_RNLH.shape
    specs = Specs(how, slots, width)
    operands = [(pairs.last_block_RxK, specs.scalars), (pairs.first_RKxC, specs.facts)]
    operands += [(q_RNLH, specs.row), (grad_RNLH, specs.row), (k_RNLH, specs.block), (v_RNLH, specs.block)]
    operands += bias_operands(specs, bias)
    like = jax.ShapeDtypeStruct
    # Gradients of queries are sums over blocks of keys, so they stay in float32 in the memory of the core.
    out_shape = [like(q_RNLH.shape, jnp.float32), like(k_RNLH.shape, k_RNLH.dtype), like(v_RNLH.shape, v_RNLH.dtype)]
    out_specs = [specs.row, specs.block, specs.block]
    if bias is not None:
        by_bucket = (bias.times.edge_xB.shape[1], how.block)
        out_shape += [like(bias.place_NKCC.shape, jnp.float32), like((heads, *by_bucket), jnp.float32)]
        out_specs += [specs.place, pl.BlockSpec((None, *by_bucket), lambda n, r, i: (n, 0, 0))]
    # Rows come after heads in the grid, so the gradients of a head's bias stay in the memory of the core for all rows.
    q, k, v, *of_bias = call(
        how, _backward_kernel, operands, grid=(heads, rows, specs.blocks), out_shape=out_shape, out_specs=out_specs
    )  # fmt: skip
    place, time = of_bias or (None, None)
    return Gradients(q.astype(q_RNLH.dtype), k, v, place, time)


class Specs:
    """The parts of the arrays that one step (head, row, block) of the grid reads or writes."""

    def __init__(self, how: How, slots: int, width: int):
        self.blocks, block = slots // how.block, how.block
        self.memory = {} if how.on_gpu else {"memory_space": pltpu.SMEM}
        """The memory of the numbers that a program branches by."""
        self.block = pl.BlockSpec((None, None, block, width), lambda n, r, i: (r, n, i, 0))
        self.row = pl.BlockSpec((None, None, slots, width), lambda n, r, i: (r, n, 0, 0))
        self.fact = pl.BlockSpec((None, None, 1, block), lambda n, r, i: (r, i, 0, 0))
        self.facts = pl.BlockSpec((None, self.blocks, 1, block), lambda n, r, i: (r, 0, 0, 0))
        self.place = pl.BlockSpec((None, self.blocks, block, block), lambda n, r, i: (n, 0, 0, 0))
        self.scalars = pl.BlockSpec((None, 1, self.blocks), lambda n, r, i: (r, 0, 0), **self.memory)
        self.buckets = pl.BlockSpec((None, 2, self.blocks**2), lambda n, r, i: (r, 0, 0), **self.memory)

    def edges(self, buckets: int) -> Any:
        return pl.BlockSpec((1, buckets), lambda n, r, i: (0, 0), **self.memory)

    def times(self, buckets: int) -> Any:
        return pl.BlockSpec((None, 1, buckets), lambda n, r, i: (n, 0, 0), **self.memory)


def bias_operands(specs: Specs, bias: Bias | None) -> list[tuple[Array, Any]]:
    """Returns the six arrays of a bias with their specs; none without one. `fact` is the block that a program owns."""
    if bias is None:
        return []
    times = bias.times
    buckets = times.edge_xB.shape[1]
    return [
        (bias.place_NKCC, specs.place),
        (times.seconds_RKxC, specs.fact),
        (times.seconds_RKxC, specs.facts),
        (times.buckets_RxX, specs.buckets),
        (times.edge_xB, specs.edges(buckets)),
        (times.time_NxB, specs.times(buckets)),
    ]


def call(how: How, kernel: Any, operands: list[tuple[Array, Any]], **settings: Any) -> Any:
    """Calls `kernel(how, *refs)` on arrays and their specs."""
    arrays, specs = zip(*operands, strict=True)
    params: Any = pltpu.CompilerParams(vmem_limit_bytes=VMEM_BYTES)
    if how.on_gpu:
        params = plgpu.CompilerParams(num_warps=8 if arrays[2].shape[-1] > 64 else 4, num_stages=2)
    kernel = functools.partial(kernel, how)
    return pl.pallas_call(kernel, in_specs=list(specs), compiler_params=params, **settings)(*arrays)


def pair_bias(bias_refs: Any, apart_CC: Array, query: Any, key: Any) -> PairBias:
    """Returns the bias of two blocks, from the refs of `bias_operands`."""
    place_ref, _, _, buckets_ref, edge_ref, time_ref = bias_refs
    pair = query * place_ref.shape[0] + key
    return PairBias(place_ref[query - key], apart_CC, buckets_ref[0, pair], buckets_ref[1, pair], edge_ref, time_ref)


def _forward_kernel(how: How, first_block_ref, first_ref, q_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the values for one block of queries, with arrays [query, key]."""
    *bias_refs, out_ref = refs
    block, query = how.block, pl.program_id(2)
    q_CH = q_ref[...]
    first_CC, query_CC = column(first_ref[...], block), hstu_pair.slots_of_block(how, query, 0)
    own_seconds_CC = column(bias_refs[1][...], block) if bias_refs else None

    def of_keys(key: Any, sum_CH: Array) -> Array:
        here = pl.ds(key * block, block)
        bias = pair_bias(bias_refs, own_seconds_CC - bias_refs[2][key], query, key) if bias_refs else None
        logit_CC, _ = hstu_pair.biased(how, dot(q_CH, k_ref[here, :], (1, 1)), bias)
        key_CC = hstu_pair.slots_of_block(how, key, 1)
        weight_CC = hstu_pair.weights(how, logit_CC, (key_CC >= first_CC) & (key_CC <= query_CC))
        return sum_CH + dot(weight_CC.astype(v_ref.dtype), v_ref[here, :], (1, 0))

    zero_CH = jnp.zeros(out_ref.shape, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(first_block_ref[0, query], query + 1, of_keys, zero_CH).astype(out_ref.dtype)


def _backward_kernel(how: How, last_block_ref, first_ref, q_ref, grad_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the gradients for one block of keys, with arrays [key, query]. The grid of a TPU is one loop, so its
    steps may add to the same gradients."""
    bias_refs, out_refs = (refs[:6], refs[6:]) if len(refs) > 3 else ((), refs)
    dq_ref, dk_ref, dv_ref, *dbias_refs = out_refs
    block, row, key = how.block, pl.program_id(1), pl.program_id(2)
    k_CH, v_CH = k_ref[...], v_ref[...]
    own_seconds_CC = column(bias_refs[1][...], block) if bias_refs else None

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
        bias = pair_bias(bias_refs, bias_refs[2][query] - own_seconds_CC, query, key) if bias_refs else None
        found = hstu_pair.gradient(
            how, q_CH, grad_CH, k_CH, v_CH, query=query, key=key, first_xC=first_ref[query], bias=bias
        )
        scaled_CC = (found.logit_CC * how.scale).astype(k_CH.dtype)
        dq_ref[here, :] += dot(scaled_CC, k_CH, (0, 0))
        if bias is not None:
            dbias_refs[0][query - key] += found.logit_CC

            def add(bucket: Any, _: None) -> None:
                dbias_refs[1][pl.ds(bucket, 1), :] += hstu_pair.sum_of_bucket(found.logit_CC, found.bucket_CC, bucket)

            jax.lax.fori_loop(bias.lowest, bias.highest + 1, add, None)
        dk_CH, dv_CH = sums
        weight_CC = found.weight_CC.astype(v_CH.dtype)
        return dk_CH + dot(scaled_CC, q_CH, (1, 0)), dv_CH + dot(weight_CC, grad_CH, (1, 0))

    zero_CH = jnp.zeros(dk_ref.shape, jnp.float32)
    dk_CH, dv_CH = jax.lax.fori_loop(key, last_block_ref[0, key] + 1, of_queries, (zero_CH, zero_CH))
    dk_ref[...], dv_ref[...] = dk_CH.astype(dk_ref.dtype), dv_CH.astype(dv_ref.dtype)
