"""Segment operations over packed arrays: the intra-session aggregation without padding to the longest session.

Letters: T items, S segments, D features. Segment ids lie in [0, S); an id of S is padding and is dropped. Sums are
accumulated in float32 whatever the input's type. An empty segment gives zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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
