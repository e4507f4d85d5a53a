"""The attention that the sequence encoders share: which sessions each may see, how position and time enter, and the
choice of how it is computed.

`reference` multiplies all pairs of slots of a row and holds their logits. `fused` never holds them (model/fused): by
the kernel that the encoder names for this kind of device, or else in blocks of queries. Both have the same parameters
and the same numbers up to rounding.

Letters: R rows, L session slots of the query, M of the key (M = L), D width, N heads, H head width, J half of it,
P positions, B buckets of time, C slots of a block. Logits are float32 for any type of the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import vector
from sessionrec_jax.model.fused.bias import BiasTables
from sessionrec_jax.model.fused.blockwise import blockwise
from sessionrec_jax.model.places import TIME_BUCKETS, rotary_angle, rotate, time_bucket

FUSED_FROM_SLOTS = 512
"""`auto` takes the fused attention on an accelerator for rows of at least this number of slots. The logits of shorter
rows need little memory. Chosen by memory; no time was measured."""


class Slots(NamedTuple):
    """The arrays that all attention layers read in addition to the session vectors; made once a step."""

    mask_RLM: Bool[Array, "R L M"]
    angle_RLJ: Float32[Array, "R L J"] | None
    """Rotary positions only: radians by which each pair of features is turned."""
    bucket_RLM: Int32[Array, "R L M"] | None
    """Relative time only: the bucket of the time between query and key."""


class FusedSlots(NamedTuple):
    """The same facts as in `Slots`, without an array of all pairs of slots."""

    user_RL: Int[Array, "R L"]
    angle_RLJ: Float32[Array, "R L J"] | None
    seconds_RL: Int[Array, "R L"] | None
    """Relative time only."""


Kernel = Callable[..., Float[Array, "R L N H"] | None]
"""An attention that never holds all logits, by a kernel of an accelerator. Called with the kind of the devices (`tpu`,
`gpu`, `cpu` or None), queries, keys, values, `user_RL`, the BiasTables or None, and `scale=`. Returns None if there is
no kernel for these devices and arrays."""


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


def attention_slots(
    config: Model, user_RL: Int[Array, "R L"], position_RL: Int[Array, "R L"], seconds_RL: Int[Array, "R L"]
) -> Slots | FusedSlots:
    """Returns what `attention` reads: FusedSlots if `config.attention` says so for rows of this length on these
    devices, otherwise Slots."""
    if not is_fused(config, user_RL.shape[1]):
        return slots_of(config, user_RL, position_RL, seconds_RL)
    angle_RLJ = rotary_angle(position_RL, config.width // config.heads) if config.places == "rotary" else None
    return FusedSlots(user_RL, angle_RLJ, seconds_RL if config.places == "relative_time" else None)


def is_fused(config: Model, slots: int) -> bool:
    """Returns True if rows of this number of slots have the fused attention on the devices of the current mesh."""
    if config.attention == "auto":
        return _platform() not in (None, "cpu") and slots >= FUSED_FROM_SLOTS
    return config.attention == "fused"


def _platform() -> str | None:
    """Returns the kind of the devices that the program is made for, from the mesh; None outside of a mesh."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device and device.platform


def attention_mask(user_RL: Int[Array, "R L"]) -> Bool[Array, "R L L"]:
    """Returns True where the query's slot (the first L) may look: at the same user's sessions up to its own."""
    slots = user_RL.shape[1]
    same_user_RLL = user_RL[:, :, None] == user_RL[:, None, :]
    return same_user_RLL & jnp.tril(jnp.ones((slots, slots), bool))


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
"""The row of the parameters that `attention` may create."""


def bias_parameters(model: Model, max_positions: int) -> int:
    """Returns the number of parameters that `attention` creates in one layer."""
    return model.heads * (max_positions + TIME_BUCKETS) if model.places == "relative_time" else 0


def attention_multiplications(model: Model, max_positions: int) -> int:
    """Returns the multiply-adds of one session: the logits and the weighted sum over all slots of the row. The slots
    that the mask leaves out count too, though the fused attention leaves some of them out."""
    return 2 * max_positions * model.width


def attention(
    module: nn.Module,
    q_RLD: Float[Array, "R L D"],
    k_RMD: Float[Array, "R M D"],
    v_RMD: Float[Array, "R M D"],
    slots: Slots | FusedSlots,
    *,
    scale: float,
    weights: Callable[[Float32[Array, "R N L M"], Bool[Array, "R 1 L M"]], Float32[Array, "R N L M"]],
    kernel: Kernel,
) -> Float[Array, "R L D"]:
    """Returns the weighted sum of the values, for a layer `module` with the fields `config` and `max_positions`.

    `weights(logits, mask)` makes the weights; the logit of a pair is scale * (q . k) + bias. Under rotary positions q
    and k are turned by their positions. Under relative_time the bias depends on the distance in positions and in time;
    it is learned in `module` and starts at zero. Otherwise the bias is zero. `kernel` computes the same where it can.
    """
    heads = module.config.heads
    q_RLNH, k_RMNH, v_RMNH = (split_heads(x, heads) for x in (q_RLD, k_RMD, v_RMD))
    if slots.angle_RLJ is not None:
        q_RLNH, k_RMNH = rotate(q_RLNH, slots.angle_RLJ), rotate(k_RMNH, slots.angle_RLJ)
    tables = _bias_tables(module) if module.config.places == "relative_time" else None
    weigh = functools.partial(_weighted, k_RMNH=k_RMNH, v_RMNH=v_RMNH, tables=tables, scale=scale, weights=weights)
    if isinstance(slots, Slots):
        slot_L = jnp.arange(q_RLD.shape[1])
        a_RLNH = weigh(q_RLNH, slots.mask_RLM, slot_L, slots.bucket_RLM)
    else:
        bias = None if tables is None else BiasTables(*tables, slots.seconds_RL)
        a_RLNH = kernel(_platform(), q_RLNH, k_RMNH, v_RMNH, slots.user_RL, bias, scale=scale)
        if a_RLNH is None:
            a_RLNH = _in_blocks(weigh, q_RLNH, slots)
    return a_RLNH.reshape(q_RLD.shape)


def _bias_tables(module: nn.Module) -> tuple[Float32[Array, "N P"], Float32[Array, "N B"]]:
    heads, zeros = module.config.heads, nn.initializers.zeros
    place_NP = module.param("place_bias", zeros, (heads, module.max_positions)).astype(jnp.float32)
    return place_NP, module.param("time_bias", zeros, (heads, TIME_BUCKETS)).astype(jnp.float32)


def _weighted(
    q_RLNH: Float[Array, "R L N H"],
    mask_RLM: Bool[Array, "R L M"],
    slot_L: Int[Array, " L"],
    bucket_RLM: Int[Array, "R L M"] | None,
    *,
    k_RMNH: Float[Array, "R M N H"],
    v_RMNH: Float[Array, "R M N H"],
    tables: tuple[Array, Array] | None,
    scale: float,
    weights: Callable[..., Float32[Array, "R N L M"]],
) -> Float[Array, "R L N H"]:
    """Returns the attention of queries in the slots slot_L, over all keys of the row."""
    logit_RNLM = jnp.einsum("RLNH,RMNH->RNLM", q_RLNH, k_RMNH, preferred_element_type=jnp.float32) * scale
    if tables is not None and bucket_RLM is not None:
        place_NP, time_NB = tables
        # A user's slots are adjacent, so their distance in the row is their distance in positions, the same in every
        # row.
        place_NLM = place_NP[:, jnp.maximum(slot_L[:, None] - jnp.arange(k_RMNH.shape[1]), 0)]
        logit_RNLM = logit_RNLM + place_NLM + jnp.moveaxis(time_NB[:, bucket_RLM], 0, 1)
    weight_RNLM = weights(logit_RNLM, mask_RLM[:, None]).astype(v_RMNH.dtype)
    return jnp.einsum("RNLM,RMNH->RLNH", weight_RNLM, v_RMNH)


def _in_blocks(weigh: Callable[..., Array], q_RLNH: Float[Array, "R L N H"], slots: FusedSlots) -> Array:
    """Returns the attention of all queries, for one block of them after the other."""
    user_RM, seconds_RM = slots.user_RL, slots.seconds_RL
    slot_M = jnp.arange(user_RM.shape[1])

    def attend(of_queries: Any, slot_C: Int[Array, " C"]) -> Float[Array, "R C N H"]:
        q_RCNH, user_RC, seconds_RC = of_queries
        mask_RCM = (user_RC[:, :, None] == user_RM[:, None]) & (slot_C[:, None] >= slot_M)
        bucket_RCM = None if seconds_RM is None else time_bucket(seconds_RC[:, :, None] - seconds_RM[:, None])
        return weigh(q_RCNH, mask_RCM, slot_C, bucket_RCM)

    return blockwise(attend, (q_RLNH, user_RM, seconds_RM), slots=len(slot_M))
