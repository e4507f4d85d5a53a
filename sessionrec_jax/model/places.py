"""Functions by which position and time enter attention.

Letters: R rows, L session slots, D width, N heads, H head width, J half of it, B buckets of time, S any shape.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

TIME_BUCKETS = 64
ROTARY_BASE = 10_000.0

_HALF_OCTAVE = 3_037_000_500  # the first integer above sqrt(2) * 2^31


def first_slots(user_RL: Int[Array, "R L"]) -> Int32[Array, "R L"]:
    """Returns the first slot of each slot's user, whose slots are adjacent."""
    slot_L = jnp.arange(user_RL.shape[1], dtype=jnp.int32)
    begins_RL = jnp.pad(user_RL[:, 1:] != user_RL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return jax.lax.cummax(jnp.where(begins_RL, slot_L, 0), axis=1)


def rotary_angle(position_RL: Int[Array, "R L"], head_width: int) -> Float32[Array, "R L J"]:
    """Returns the radians by which pair j of a head's J = H / 2 pairs is turned: position * 10,000^(-j / J) (Su et al.
    2104.09864)."""
    frequency_J = ROTARY_BASE ** (-jnp.arange(head_width // 2, dtype=jnp.float32) / (head_width // 2))
    return position_RL[:, :, None] * frequency_J


def rotate(x_RLNH: Float[Array, "R L N H"], angle_RLJ: Float32[Array, "R L J"]) -> Float[Array, "R L N H"]:
    """Turns the pairs (j, J + j) of each head. The product of a turned query and a turned key depends only on the
    difference of their positions."""
    a_RLNJ, b_RLNJ = jnp.split(x_RLNH.astype(jnp.float32), 2, axis=-1)
    cos_RL1J, sin_RL1J = jnp.cos(angle_RLJ)[:, :, None], jnp.sin(angle_RLJ)[:, :, None]
    turned = (a_RLNJ * cos_RL1J - b_RLNJ * sin_RL1J, a_RLNJ * sin_RL1J + b_RLNJ * cos_RL1J)
    return jnp.concatenate(turned, axis=-1).astype(x_RLNH.dtype)


def time_bucket(seconds: Int[Array, "*S"]) -> Int32[Array, "*S"]:
    """Returns floor(2 log2(1 + seconds)): bucket b starts at 2^(b / 2) - 1 seconds. Negative seconds count as 0.

    A minute is in bucket 11, an hour in 23, a day in 32, a year in 49. Two of the 64 buckets stay empty: 32 bits of
    seconds (68 years) end in bucket 62, and no whole second falls into bucket 1. The computation uses integers, because
    a rounded logarithm could put a power of two on the wrong side of its edge.
    """
    x = 1 + jnp.maximum(seconds, 0).astype(jnp.uint32)
    leading_zeros = jax.lax.clz(x)
    half_octave = (x << leading_zeros) >= jnp.uint32(_HALF_OCTAVE)
    return 2 * (31 - leading_zeros.astype(jnp.int32)) + half_octave.astype(jnp.int32)


def seconds_of_bucket(bucket: int) -> int:
    """Returns the fewest whole seconds that `time_bucket` does not put below `bucket`."""
    octave, is_half = divmod(bucket, 2)
    return (-(-_HALF_OCTAVE // 2 ** (31 - octave)) if is_half else 2**octave) - 1
