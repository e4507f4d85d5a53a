"""Segment operations over packed arrays: they aggregate within sessions without padding to the longest session.

Letters: T items, S segments, D features, N heads, H head width; C blocks, B items of a block, W = 3 B. Segment ids are
in [0, S); an id of S is padding, and its row is ignored. Results are float32 for any type of the input. The reductions
accept ids in any order. An empty segment gives zero (-inf for logsumexp) and no gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LEAST_BLOCK = 8
"""The smallest block of `segment_attention`, in items: smaller blocks make matrix products too small to be fast."""


def segment_sum(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Returns the sum of the rows of each segment. `is_sorted`: promises non-decreasing ids."""
    return jax.ops.segment_sum(
        x_TD.astype(jnp.float32), segment_T, num_segments=segments, indices_are_sorted=is_sorted, mode="drop"
    )


def segment_mean(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Returns the mean of the rows of each segment."""
    ones_T1 = jnp.ones((x_TD.shape[0], 1), jnp.float32)
    summed_SD = segment_sum(x_TD, segment_T, segments, is_sorted=is_sorted)
    count_S1 = segment_sum(ones_T1, segment_T, segments, is_sorted=is_sorted)
    return summed_SD / jnp.maximum(count_S1, 1.0)


def segment_max(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Returns the largest value of each segment by feature; zero if all its values are -inf. Items that share the
    largest value share its gradient equally, so that their order does not matter."""
    top_SD = jax.ops.segment_max(
        x_TD.astype(jnp.float32), segment_T, num_segments=segments, indices_are_sorted=is_sorted, mode="drop"
    )
    return jnp.where(top_SD == -jnp.inf, 0.0, top_SD)


def segment_softmax(
    logit_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "T D"]:
    """Returns the softmax over the items of each segment by feature. The weight of an item with logit -inf is zero, and
    so are the weights of padding and of a segment whose logits are all -inf."""
    exp_TD, _ = _exp(logit_TD, segment_T, segments, is_sorted)
    total_SD = segment_sum(exp_TD, segment_T, segments, is_sorted=is_sorted)
    return exp_TD / _rows_of_items(jnp.where(total_SD > 0, total_SD, 1.0), segment_T, 1.0, is_sorted)


def segment_logsumexp(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, *, is_sorted: bool = False
) -> Float[Array, "S D"]:
    """Returns log sum exp over the items of each segment by feature; -inf, and a gradient of zero, if the segment is
    empty or all its values are -inf."""
    exp_TD, top_SD = _exp(x_TD, segment_T, segments, is_sorted)
    total_SD = segment_sum(exp_TD, segment_T, segments, is_sorted=is_sorted)
    # Two wheres: the logarithm of zero would make the gradient NaN even where it is not selected.
    return jnp.where(total_SD > 0, jnp.log(jnp.where(total_SD > 0, total_SD, 1.0)) + top_SD, -jnp.inf)


def _exp(
    x_TD: Float[Array, "T D"], segment_T: Int[Array, " T"], segments: int, is_sorted: bool
) -> tuple[Float[Array, "T D"], Float[Array, "S D"]]:
    """Returns exp(x - top) and top, the largest value of each segment, without gradient. exp is zero for padding."""
    x_TD = jnp.where((segment_T < segments)[:, None], x_TD.astype(jnp.float32), -jnp.inf)
    top_SD = segment_max(jax.lax.stop_gradient(x_TD), segment_T, segments, is_sorted=is_sorted)
    return jnp.exp(x_TD - _rows_of_items(top_SD, segment_T, 0.0, is_sorted)), top_SD


def _rows_of_items(
    x_SD: Float[Array, "S D"], segment_T: Int[Array, " T"], padding: float, is_sorted: bool
) -> Float[Array, "T D"]:
    """Returns the row of each item's segment."""
    return x_SD.at[segment_T].get(mode="fill", fill_value=padding, indices_are_sorted=is_sorted)


def segment_attention(
    q_TNH: Float[Array, "T N H"],
    k_TNH: Float[Array, "T N H"],
    v_TNH: Float[Array, "T N H"],
    segment_T: Int[Array, " T"],
    segments: int,
    longest: int,
) -> Float[Array, "T N H"]:
    """Returns softmax attention of every item over all items of its own segment, with logits scaled by H**-0.5. A
    padding item gets zero.

    The items of a segment must be within `longest` slots of each other, or they may not see each other; padding may be
    anywhere, also between them. T is cut into blocks of B = max(longest, LEAST_BLOCK) items, so that an item needs only
    its own block, the one before and the one after. This makes [C, N, B, W] logits, linear in T; a dense mask would
    make T**2, and padding every segment to the longest S * longest**2.
    """
    items, heads, head_width = q_TNH.shape
    block = max(longest, LEAST_BLOCK)
    fill = -items % block
    segment_CB = jnp.pad(segment_T, (0, fill), constant_values=segments).reshape(-1, block)
    q_CBNH, k_CBNH, v_CBNH = (
        jnp.pad(x_TNH, ((0, fill), (0, 0), (0, 0))).reshape(-1, block, heads, head_width)
        for x_TNH in (q_TNH, k_TNH, v_TNH)
    )
    k_CWNH, v_CWNH, segment_CW = (
        _with_neighbours(k_CBNH, 0),
        _with_neighbours(v_CBNH, 0),
        _with_neighbours(segment_CB, segments),
    )
    sees_CBW = (segment_CB[:, :, None] == segment_CW[:, None, :]) & (segment_CB < segments)[:, :, None]
    sees_CNBW = sees_CBW[:, None]

    logit_CNBW = jnp.einsum("CBNH,CWNH->CNBW", q_CBNH, k_CWNH, preferred_element_type=jnp.float32) * head_width**-0.5
    weight_CNBW = jax.nn.softmax(jnp.where(sees_CNBW, logit_CNBW, -1e30), axis=-1)
    weight_CNBW = jnp.where(sees_CNBW, weight_CNBW, 0.0).astype(v_TNH.dtype)  # padding sees nothing, itself neither
    a_CBNH = jnp.einsum("CNBW,CWNH->CBNH", weight_CNBW, v_CWNH, preferred_element_type=jnp.float32)
    return a_CBNH.reshape(-1, heads, head_width)[:items]


def _with_neighbours(x_CB: Array, padding: int) -> Array:
    """Returns each block with the one before and the one after it: [C, 3 B, ...]."""
    around = jnp.pad(x_CB, ((1, 1), *((0, 0),) * (x_CB.ndim - 1)), constant_values=padding)
    return jnp.concatenate([around[:-2], x_CB, around[2:]], axis=1)
