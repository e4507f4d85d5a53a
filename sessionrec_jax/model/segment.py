"""Segment operations over packed arrays: the intra-session aggregation without padding to the longest session.

Letters: T items, S segments, D features, N heads, H head width; C blocks, B items of a block, W = 3 B. Segment ids lie
in [0, S); an id of S is padding and is dropped, whatever its row holds. Results are accumulated and given in float32
whatever the input's type. The reductions take ids in any order. An empty segment gives zero, of logsumexp -inf, and in
either case no gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LEAST_BLOCK = 8
"""Items of the shortest block of `segment_attention`: shorter ones make matrix products too small to be worth it."""


def segment_sum(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Sum of the rows of each segment, in float32. `is_sorted`: promises non-decreasing ids."""
    return jax.ops.segment_sum(
        x_TD.astype(jnp.float32), segment_T, num_segments=segments, indices_are_sorted=is_sorted, mode="drop"
    )


def segment_mean(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Mean of the rows of each segment, in float32; zero where a segment is empty."""
    ones_T1 = jnp.ones((x_TD.shape[0], 1), jnp.float32)
    summed_SD = segment_sum(x_TD, segment_T, segments, is_sorted=is_sorted)
    count_S1 = segment_sum(ones_T1, segment_T, segments, is_sorted=is_sorted)
    return summed_SD / jnp.maximum(count_S1, 1.0)


def segment_max(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Largest value of each segment by feature, in float32; zero where a segment is empty or holds nothing but -inf.
    Items that share the largest value share its gradient equally, so that their order does not matter."""
    top_SD = jax.ops.segment_max(
        x_TD.astype(jnp.float32), segment_T, num_segments=segments, indices_are_sorted=is_sorted, mode="drop"
    )
    return jnp.where(top_SD == -jnp.inf, 0.0, top_SD)


def segment_softmax(
    logit_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "T D"]:
    """Softmax over the items of each segment by feature, in float32. A logit of -inf takes an item out: its weight is
    zero, as are those of padding and of a segment that holds nothing but -inf."""
    exp_TD, _ = _exp(logit_TD, segment_T, segments, is_sorted)
    total_SD = segment_sum(exp_TD, segment_T, segments, is_sorted=is_sorted)
    return exp_TD / _of_item(jnp.where(total_SD > 0, total_SD, 1.0), segment_T, 1.0, is_sorted)


def segment_logsumexp(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """log sum exp over the items of each segment by feature, in float32; -inf, and a gradient of zero, where a segment
    is empty or holds nothing but -inf."""
    exp_TD, top_SD = _exp(x_TD, segment_T, segments, is_sorted)
    total_SD = segment_sum(exp_TD, segment_T, segments, is_sorted=is_sorted)
    # Two wheres: the logarithm of zero, though not chosen, would make the gradient NaN.
    return jnp.where(total_SD > 0, jnp.log(jnp.where(total_SD > 0, total_SD, 1.0)) + top_SD, -jnp.inf)


def _exp(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, is_sorted: bool
) -> tuple[Float[Array, "T D"], Float[Array, "S D"]]:
    """exp(x - top), at most one, and top, a constant of each segment: its largest value. Zero for padding."""
    x_TD = jnp.where((segment_T < segments)[:, None], x_TD.astype(jnp.float32), -jnp.inf)
    top_SD = segment_max(jax.lax.stop_gradient(x_TD), segment_T, segments, is_sorted=is_sorted)
    return jnp.exp(x_TD - _of_item(top_SD, segment_T, 0.0, is_sorted)), top_SD


def _of_item(
    x_SD: Float[Array, "S D"], segment_T: Int[Array, " T"], padding: float, is_sorted: bool
) -> Float[Array, "T D"]:
    """The row of each item's segment."""
    return x_SD.at[segment_T].get(mode="fill", fill_value=padding, indices_are_sorted=is_sorted)


def segment_attention(
    q_TNH: Float[Array, "T N H"],
    k_TNH: Float[Array, "T N H"],
    v_TNH: Float[Array, "T N H"],
    segment_T: Int[Array, " T"],
    segments: int,
    longest: int,
) -> Float[Array, "T N H"]:
    """Softmax attention of every item over all items of its own segment, scaled by H**-0.5; logits, weights and result
    in float32. A padding item gets zero.

    The items of a segment must lie within `longest` places of each other; padding may stand anywhere, between them too.
    What lies further apart may not see each other. So with T cut into blocks of B = max(longest, LEAST_BLOCK) items, an
    item needs its own block and the two beside it: [C, N, B, W] logits, linear in T, where a dense mask has T**2 and
    padding every segment to the longest has S * longest**2.
    """
    items, heads, head_width = q_TNH.shape
    block = max(longest, LEAST_BLOCK)
    fill = -items % block
    segment_CB = jnp.pad(segment_T, (0, fill), constant_values=segments).reshape(-1, block)
    q_CBNH, k_CBNH, v_CBNH = (
        jnp.pad(x_TNH, ((0, fill), (0, 0), (0, 0))).reshape(-1, block, heads, head_width)
        for x_TNH in (q_TNH, k_TNH, v_TNH)
    )
    k_CWNH, v_CWNH, segment_CW = _beside(k_CBNH, 0), _beside(v_CBNH, 0), _beside(segment_CB, segments)
    sees_CBW = (segment_CB[:, :, None] == segment_CW[:, None, :]) & (segment_CB < segments)[:, :, None]
    sees_CNBW = sees_CBW[:, None]

    logit_CNBW = jnp.einsum("CBNH,CWNH->CNBW", q_CBNH, k_CWNH, preferred_element_type=jnp.float32) * head_width**-0.5
    weight_CNBW = jax.nn.softmax(jnp.where(sees_CNBW, logit_CNBW, -1e30), axis=-1)
    weight_CNBW = jnp.where(sees_CNBW, weight_CNBW, 0.0).astype(v_TNH.dtype)  # padding sees nothing, itself neither
    a_CBNH = jnp.einsum("CNBW,CWNH->CBNH", weight_CNBW, v_CWNH, preferred_element_type=jnp.float32)
    return a_CBNH.reshape(-1, heads, head_width)[:items]


def _beside(x_CB: Array, padding: int) -> Array:
    """[C, 3 B, ...]: each block with the one before and the one after it."""
    around = jnp.pad(x_CB, ((1, 1), *((0, 0),) * (x_CB.ndim - 1)), constant_values=padding)
    return jnp.concatenate([around[:-2], x_CB, around[2:]], axis=1)
