"""The backward pass of HSTU's attention on NVIDIA GPUs, in three kernels.

The programs of a GPU's grid run at once, so none adds to the result of another: one kernel has a block of keys, one a
block of queries, and one a distance between blocks, over all rows. The logits are computed in each, and sums have the
same order in every run.

Letters: as in hstu_kernel.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from sessionrec_jax.model.fused import hstu_pair
from sessionrec_jax.model.fused.hstu_kernel import Bias, Gradients, Pairs, Specs, bias_operands, call, pair_bias
from sessionrec_jax.model.fused.hstu_pair import How, PairBias, column, dot


def backward(
    how: How, q_RNLH: Array, k_RNLH: Array, v_RNLH: Array, pairs: Pairs, bias: Bias | None, grad_RNLH: Array
) -> Gradients:
    """Returns the gradients, given that of the result. `bias` has blocks [key, query]; so has the gradient."""
    rows, heads, slots, width = q_RNLH.shape
    specs = Specs(how, slots, width)
    grid, of_bias = (heads, rows, specs.blocks), bias_operands(specs, bias)
    like = jax.ShapeDtypeStruct
    scalars, queries, keys = (pairs.first_block_RxK, pairs.last_block_RxK), (q_RNLH, grad_RNLH), (k_RNLH, v_RNLH)
    operands = [(scalars[1], specs.scalars), (pairs.first_RKxC, specs.facts)]
    operands += [*((x, specs.row) for x in queries), *((x, specs.block) for x in keys), *of_bias]
    k, v = call(
        how, _keys_kernel, operands, grid=grid,
        out_shape=[like(x.shape, x.dtype) for x in keys], out_specs=[specs.block] * 2,
    )  # fmt: skip
    operands = [(scalars[0], specs.scalars), (pairs.first_RKxC, specs.fact)]
    operands += [*((x, specs.block) for x in queries), *((x, specs.row) for x in keys), *of_bias]
    out_shape = like(q_RNLH.shape, q_RNLH.dtype)
    q = call(how, _queries_kernel, operands, grid=grid, out_shape=out_shape, out_specs=specs.block)
    place, time = (None, None) if bias is None else _of_bias(how, queries, keys, pairs, bias)
    return Gradients(q, k, v, place, time)


def _of_bias(
    how: How, queries: tuple[Array, Array], keys: tuple[Array, Array], pairs: Pairs, bias: Bias
) -> tuple[Array, Array]:
    """Returns the gradients of the bias by distance, [N, K, C, C], and by time, [N, B, K]."""
    heads, blocks = bias.place_NKCC.shape[:2]
    buckets = bias.times.edge_xB.shape[1]

    def whole(x: Array) -> Any:
        return pl.BlockSpec(x.shape, lambda n, m: (0,) * x.ndim)

    def of_head(x: Array, axis: int) -> Any:
        shape = (*x.shape[:axis], None, *x.shape[axis + 1 :])
        return pl.BlockSpec(shape, lambda n, m: tuple(n if i == axis else 0 for i in range(x.ndim)))

    times = bias.times
    alike = (pairs.first_block_RxK, pairs.first_RKxC)
    operands = [*((x, whole(x)) for x in alike), *((x, of_head(x, 1)) for x in (*queries, *keys))]
    operands += [(bias.place_NKCC, of_head(bias.place_NKCC, 0)), *((x, whole(x)) for x in times[:3])]
    operands += [(times.time_NxB, of_head(times.time_NxB, 0))]
    square = (how.block, how.block)
    place, time = call(
        how, _bias_kernel, operands, grid=(heads, blocks),
        out_shape=[jax.ShapeDtypeStruct((heads, blocks, *of), jnp.float32) for of in (square, (1, buckets))],
        out_specs=[pl.BlockSpec((None, None, *of), lambda n, m: (n, m, 0, 0)) for of in (square, (1, buckets))],
    )  # fmt: skip
    return place, jnp.swapaxes(time[:, :, 0], 1, 2)


def _keys_kernel(how: How, last_block_ref, first_ref, q_ref, grad_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the gradients of one block of keys and values."""
    *bias_refs, dk_ref, dv_ref = refs
    block, key = how.block, pl.program_id(2)
    k_CH, v_CH = k_ref[...], v_ref[...]
    own_seconds_CC = column(bias_refs[1][...], block) if bias_refs else None

    def of_queries(query: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        here = pl.ds(query * block, block)
        q_CH, grad_CH = q_ref[here, :], grad_ref[here, :]
        bias = pair_bias(bias_refs, bias_refs[2][query] - own_seconds_CC, query, key) if bias_refs else None
        found = hstu_pair.gradient(
            how, q_CH, grad_CH, k_CH, v_CH, query=query, key=key, first_xC=first_ref[query], bias=bias
        )
        dk_CH = dot((found.logit_CC * how.scale).astype(k_CH.dtype), q_CH, (1, 0))
        return sums[0] + dk_CH, sums[1] + dot(found.weight_CC.astype(v_CH.dtype), grad_CH, (1, 0))

    zero_CH = jnp.zeros(dk_ref.shape, jnp.float32)
    dk_CH, dv_CH = jax.lax.fori_loop(key, last_block_ref[0, key] + 1, of_queries, (zero_CH, zero_CH))
    dk_ref[...], dv_ref[...] = dk_CH.astype(dk_ref.dtype), dv_CH.astype(dv_ref.dtype)


def _queries_kernel(how: How, first_block_ref, first_ref, q_ref, grad_ref, k_ref, v_ref, *refs) -> None:
    """Adds up the gradients of one block of queries."""
    *bias_refs, dq_ref = refs
    block, query = how.block, pl.program_id(2)
    q_CH, grad_CH, first_xC = q_ref[...], grad_ref[...], first_ref[...]

    def of_keys(key: Any, sum_CH: Array) -> Array:
        here = pl.ds(key * block, block)
        k_CH, bias = k_ref[here, :], None
        if bias_refs:
            bias = pair_bias(bias_refs, bias_refs[1][...] - column(bias_refs[2][key], block), query, key)
        found = hstu_pair.gradient(
            how, q_CH, grad_CH, k_CH, v_ref[here, :], query=query, key=key, first_xC=first_xC, bias=bias
        )
        return sum_CH + dot((found.logit_CC * how.scale).astype(k_CH.dtype), k_CH, (0, 0))

    zero_CH = jnp.zeros(dq_ref.shape, jnp.float32)
    dq_ref[...] = jax.lax.fori_loop(first_block_ref[0, query], query + 1, of_keys, zero_CH).astype(dq_ref.dtype)


def _bias_kernel(
    how: How, first_block_ref, first_ref, q_ref, grad_ref, k_ref, v_ref,
    place_ref, seconds_ref, buckets_ref, edge_ref, time_ref, dplace_ref, dtime_ref,
) -> None:  # fmt: skip
    """Adds up the gradients of the bias of the pairs of blocks that are `apart` blocks from each other, in all rows."""
    block, apart = how.block, pl.program_id(1)
    rows, blocks, buckets = first_ref.shape[0], first_ref.shape[1], edge_ref.shape[1]
    bucket_xB = jax.lax.broadcasted_iota(jnp.int32, (1, buckets), 1)

    def of_pair(row: Any, query: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        key = query - apart
        of_query, of_key, pair = pl.ds(query * block, block), pl.ds(key * block, block), query * blocks + key
        bias = PairBias(
            place_ref[apart], seconds_ref[row, query] - column(seconds_ref[row, key], block),
            buckets_ref[row, 0, pair], buckets_ref[row, 1, pair], edge_ref, time_ref,
        )  # fmt: skip
        found = hstu_pair.gradient(
            how, q_ref[row, of_query, :], grad_ref[row, of_query, :], k_ref[row, of_key, :], v_ref[row, of_key, :],
            query=query, key=key, first_xC=first_ref[row, query], bias=bias,
        )  # fmt: skip

        def add(bucket: Any, sum_xB: Array) -> Array:
            total = jnp.sum(hstu_pair.sum_of_bucket(found.logit_CC, found.bucket_CC, bucket))
            return sum_xB + jnp.where(bucket_xB == bucket, total, 0.0)

        return sums[0] + found.logit_CC, jax.lax.fori_loop(bias.lowest, bias.highest + 1, add, sums[1])

    def of_row(row: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        def of_query(query: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            sees = first_block_ref[row, 0, query] <= query - apart
            return jax.lax.cond(sees, lambda sums: of_pair(row, query, sums), lambda sums: sums, sums)

        return jax.lax.fori_loop(apart, blocks, of_query, sums)

    zero = jnp.zeros((block, block), jnp.float32), jnp.zeros((1, buckets), jnp.float32)
    dplace_ref[...], dtime_ref[...] = jax.lax.fori_loop(0, rows, of_row, zero)
