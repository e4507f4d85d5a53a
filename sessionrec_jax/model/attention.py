"""What the two attention layers share: who may look where, and how place and time enter.

Letters: R rows, L session slots of the query, M of the key (as many), D width, N heads, H head width, J half of it,
P places, B buckets of time. Logits are float32 whatever the input's type.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sessionrec_jax.config.settings import Model

TIME_BUCKETS = 64
ROTARY_BASE = 10_000.0

_HALF_OCTAVE = 3_037_000_500  # the first integer above sqrt(2) * 2^31


class Slots(NamedTuple):
    """What all layers know of the slots beside their vectors; made once."""

    mask_RLM: Bool[Array, "R L M"]
    angle_RLJ: Float32[Array, "R L J"] | None
    """Rotary positions only."""
    bucket_RLM: Int32[Array, "R L M"] | None
    """Relative time only."""


def slots_of(
    config: Model, user_RL: Int[Array, "R L"], position_RL: Int[Array, "R L"], seconds_RL: Int[Array, "R L"]
) -> Slots:
    """The bias by time sees the start of the query's own session and of the keys'. When the next session begins, which
    a service does not know when it answers, never enters; Zhai et al. count from the next item's time."""
    places, head_width = config.places, config.width // config.heads
    return Slots(
        attention_mask(user_RL),
        rotary_angle(position_RL, head_width) if places == "rotary" else None,
        time_bucket(seconds_RL[:, :, None] - seconds_RL[:, None, :]) if places == "relative_time" else None,
    )


def attention_mask(user_RL: Int[Array, "R L"]) -> Bool[Array, "R L L"]:
    """True where the query's slot (first L) may look: the same user's sessions up to its own."""
    slots = user_RL.shape[1]
    same_user_RLL = user_RL[:, :, None] == user_RL[:, None, :]
    return same_user_RLL & jnp.tril(jnp.ones((slots, slots), bool))


def rotary_angle(position_RL: Int[Array, "R L"], head_width: int) -> Float32[Array, "R L J"]:
    """Radians by which the pair j of a head's J = H / 2 pairs is turned: position * 10,000^(-j / J) (Su et al.
    2104.09864)."""
    frequency_J = ROTARY_BASE ** (-jnp.arange(head_width // 2, dtype=jnp.float32) / (head_width // 2))
    return position_RL[:, :, None] * frequency_J


def rotate(x_RLNH: Float[Array, "R L N H"], angle_RLJ: Float32[Array, "R L J"]) -> Float[Array, "R L N H"]:
    """Turns the pairs (j, J + j) of each head. The product of a turned query and a turned key depends on their places
    by the difference alone."""
    a_RLNJ, b_RLNJ = jnp.split(x_RLNH.astype(jnp.float32), 2, axis=-1)
    cos_RL1J, sin_RL1J = jnp.cos(angle_RLJ)[:, :, None], jnp.sin(angle_RLJ)[:, :, None]
    turned = (a_RLNJ * cos_RL1J - b_RLNJ * sin_RL1J, a_RLNJ * sin_RL1J + b_RLNJ * cos_RL1J)
    return jnp.concatenate(turned, axis=-1).astype(x_RLNH.dtype)


def time_bucket(seconds: Int[Array, "*S"]) -> Int32[Array, "*S"]:
    """floor(2 log2(1 + seconds)), half-octaves: bucket b begins at 2^(b / 2) - 1 seconds. Negative seconds count as 0.

    A minute is in bucket 11, an hour in 23, a day in 32, a year in 49. Of the 64 buckets two lie idle: 32 bits of
    seconds (68 years) end in bucket 62, and no whole second falls into bucket 1. In integers, since a rounded logarithm
    could put a power of two on the wrong side of its edge.
    """
    x = 1 + jnp.maximum(seconds, 0).astype(jnp.uint32)
    leading_zeros = jax.lax.clz(x)
    half_octave = (x << leading_zeros) >= jnp.uint32(_HALF_OCTAVE)
    return 2 * (31 - leading_zeros.astype(jnp.int32)) + half_octave.astype(jnp.int32)


def split_heads(x_RLD: Float[Array, "R L D"], heads: int) -> Float[Array, "R L N H"]:
    return x_RLD.reshape(*x_RLD.shape[:2], heads, -1)


def attention_logits(
    module: nn.Module,
    config: Model,
    positions: int,
    q_RLD: Float[Array, "R L D"],
    k_RMD: Float[Array, "R M D"],
    slots: Slots,
    scale: float,
) -> Float32[Array, "R N L M"]:
    """scale * (q . k) + bias, with q and k turned by their places (rotary), or the bias by distance in places and time
    (relative_time; learned in `module`, zero at the start), or neither. Not masked."""
    q_RLNH, k_RMNH = split_heads(q_RLD, config.heads), split_heads(k_RMD, config.heads)
    if slots.angle_RLJ is not None:
        q_RLNH, k_RMNH = rotate(q_RLNH, slots.angle_RLJ), rotate(k_RMNH, slots.angle_RLJ)
    logit_RNLM = jnp.einsum("RLNH,RMNH->RNLM", q_RLNH, k_RMNH, preferred_element_type=jnp.float32) * scale
    if slots.bucket_RLM is None:
        return logit_RNLM
    place_NP = module.param("place_bias", nn.initializers.zeros, (config.heads, positions)).astype(jnp.float32)
    time_NB = module.param("time_bias", nn.initializers.zeros, (config.heads, TIME_BUCKETS)).astype(jnp.float32)
    # A user's slots lie side by side, so their distance in the row is the distance in places: the same in every row.
    slot_L = jnp.arange(q_RLD.shape[1])
    place_NLM = place_NP[:, jnp.maximum(slot_L[:, None] - slot_L, 0)]
    return logit_RNLM + place_NLM + jnp.moveaxis(time_NB[:, slots.bucket_RLM], 0, 1)
