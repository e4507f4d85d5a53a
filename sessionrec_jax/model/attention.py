"""The parts that the attention layers share: the causal mask, and how position and time enter.

Letters: R rows, L session slots of the query, M of the key (M = L), D width, N heads, H head width, J half of it,
P positions, B buckets of time. Logits are float32 for any type of the input.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import vector

TIME_BUCKETS = 64
ROTARY_BASE = 10_000.0

_HALF_OCTAVE = 3_037_000_500  # the first integer above sqrt(2) * 2^31


class Slots(NamedTuple):
    """The arrays that all attention layers read in addition to the session vectors; made once a step."""

    mask_RLM: Bool[Array, "R L M"]
    angle_RLJ: Float32[Array, "R L J"] | None
    """Rotary positions only: radians by which each pair of features is turned."""
    bucket_RLM: Int32[Array, "R L M"] | None
    """Relative time only: the bucket of the time between query and key."""


def slots_of(
    config: Model, user_RL: Int[Array, "R L"], position_RL: Int[Array, "R L"], seconds_RL: Int[Array, "R L"]
) -> Slots:
    """Returns the Slots of one shard. The bias by time reads the start of the query's own session and of the key's
    session. The start of the next session never enters, because a service does not know it when it answers; Zhai et al.
    count from the next item's time."""
    places, head_width = config.places, config.width // config.heads
    return Slots(
        attention_mask(user_RL),
        rotary_angle(position_RL, head_width) if places == "rotary" else None,
        time_bucket(seconds_RL[:, :, None] - seconds_RL[:, None, :]) if places == "relative_time" else None,
    )


def attention_mask(user_RL: Int[Array, "R L"]) -> Bool[Array, "R L L"]:
    """Returns True where the query's slot (the first L) may look: at the same user's sessions up to its own."""
    slots = user_RL.shape[1]
    same_user_RLL = user_RL[:, :, None] == user_RL[:, None, :]
    return same_user_RLL & jnp.tril(jnp.ones((slots, slots), bool))


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


def split_heads(x_RLD: Float[Array, "R L D"], heads: int) -> Float[Array, "R L N H"]:
    """Cuts the features into equal parts, one for each head."""
    return x_RLD.reshape(*x_RLD.shape[:2], heads, -1)


def split_by_head(x_RLE: Float[Array, "R L E"], parts: int, heads: int) -> list[Float[Array, "R L D"]]:
    """Cuts the output of one matrix into `parts` that each have `heads` heads.

    The columns are ordered by head first, so a device that has some heads has their columns of every part, and nothing
    is sent to cut them.
    """
    rows, slots, width = x_RLE.shape
    x_RLNX = x_RLE.reshape(rows, slots, heads, width // heads)
    return [part.reshape(rows, slots, width // parts) for part in jnp.split(x_RLNX, parts, axis=-1)]


BIAS_PARAMETERS = vector("place_bias|time_bias")
"""The row of the parameters that `attention_logits` may create."""


def bias_parameters(model: Model, max_positions: int) -> int:
    """Returns the number of parameters that `attention_logits` creates in one layer."""
    return model.heads * (max_positions + TIME_BUCKETS) if model.places == "relative_time" else 0


def attention_multiplications(model: Model, max_positions: int) -> int:
    """Returns the multiply-adds of one session: the logits and the weighted sum over all slots of the row. The slots
    that the mask leaves out are multiplied too."""
    return 2 * max_positions * model.width


def attention_logits(
    module: nn.Module,
    q_RLD: Float[Array, "R L D"],
    k_RMD: Float[Array, "R M D"],
    slots: Slots,
    scale: float,
) -> Float32[Array, "R N L M"]:
    """Returns scale * (q . k) + bias, not masked, for a layer `module` with the fields `config` and `max_positions`.

    Under rotary positions q and k are turned by their positions. Under relative_time the bias depends on the distance
    in positions and in time; it is learned in `module` and starts at zero. Otherwise the bias is zero."""
    config = module.config
    q_RLNH, k_RMNH = split_heads(q_RLD, config.heads), split_heads(k_RMD, config.heads)
    if slots.angle_RLJ is not None:
        q_RLNH, k_RMNH = rotate(q_RLNH, slots.angle_RLJ), rotate(k_RMNH, slots.angle_RLJ)
    logit_RNLM = jnp.einsum("RLNH,RMNH->RNLM", q_RLNH, k_RMNH, preferred_element_type=jnp.float32) * scale
    if slots.bucket_RLM is None:
        return logit_RNLM
    place_NP = module.param("place_bias", nn.initializers.zeros, (config.heads, module.max_positions)).astype(
        jnp.float32
    )
    time_NB = module.param("time_bias", nn.initializers.zeros, (config.heads, TIME_BUCKETS)).astype(jnp.float32)
    # A user's slots are adjacent, so their distance in the row is their distance in positions, the same in every row.
    slot_L = jnp.arange(q_RLD.shape[1])
    place_NLM = place_NP[:, jnp.maximum(slot_L[:, None] - slot_L, 0)]
    return logit_RNLM + place_NLM + jnp.moveaxis(time_NB[:, slots.bucket_RLM], 0, 1)
