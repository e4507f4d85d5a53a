"""SSE, the session-based sequence encoder (paper): a causal model over session vectors, with an output o at each
session.

Letters: R rows, L session slots, D width, P positions, K layers. Several users share a row; none sees another. The
paper names a Transformer and HSTU and gives no details, so all details here are our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.attention import slots_of
from sessionrec_jax.model.dropout import Noise, drop, layer_keys, row_keys
from sessionrec_jax.model.facts import Parameter, vector
from sessionrec_jax.model.linear import kept_by_remat
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.registry import SEQUENCE_ENCODERS


class LayerCost(NamedTuple):
    """The cost of one layer in closed form."""

    parameters: int
    multiplications: int
    """Multiply-adds of the matrix products for one session, forward pass only."""


@dataclass(frozen=True)
class SequenceEncoder:
    """Everything that is true of one sequence encoder. `sessionrec_jax.registry.SEQUENCE_ENCODERS` finds it by name."""

    block: type[nn.Module]
    """One layer with its residual connection. `block(config, max_positions)` is called under nn.scan with the session
    vectors x_RLD, the result of `prepare_slots`, and the dropout keys key_R or None; it returns (x_RLD, None)."""
    parameters: tuple[Parameter, ...]
    """The table of the layer's parameters. Without the axis of layers, which nn.scan adds."""
    layer_cost: Callable[[Model, int], LayerCost]
    """Called with the model's settings and `max_positions`."""
    positions: tuple[str, ...] = ("learned", "rotary", "relative_time")
    """The values of --model.positions that it can use; `auto` means the first. Empty: it uses no positions."""
    prepare_slots: Callable[..., Any] = slots_of
    """Makes once what all layers read, such as the attention mask, from (config, user_RL, position_RL, seconds_RL)."""


FRAME_PARAMETERS = (Parameter("position"), vector("norm_in|norm_out"))


def parameter_table(model: Model) -> tuple[Parameter, ...]:
    """Returns the rows of all parameters of SequenceEncoderModule."""
    layer = SEQUENCE_ENCODERS.find(model.sequence_encoder).parameters
    return (*FRAME_PARAMETERS, *(row._replace(path=f"blocks/({row.path})") for row in layer))


def cost(model: Model, max_positions: int) -> LayerCost:
    """Returns the cost of all layers, with the position embedding and the two norms around them."""
    layer = SEQUENCE_ENCODERS.find(model.sequence_encoder).layer_cost(model, max_positions)
    around = 2 * model.width + (max_positions * model.width if model.places == "learned" else 0)
    return LayerCost(around + model.layers * layer.parameters, model.layers * layer.multiplications)


class SequenceEncoderModule(nn.Module):
    """A norm, position embeddings if positions are `learned`, `layers` residual blocks of one kind under one scan, and
    a final norm."""

    config: Model
    max_positions: int
    """Session slots of a row: the longest history."""

    @nn.compact
    def __call__(
        self,
        s_RLD: Float[Array, "R L D"],
        user_RL: Int[Array, "R L"],
        position_RL: Int[Array, "R L"],
        seconds_RL: Int[Array, "R L"],
        noise: Noise | None,
    ) -> Float[Array, "R L D"]:
        """`user_RL`: number of the user within the row, 0 = padding; `position_RL`, `seconds_RL`: position and start
        time within the user's history; `noise`: for dropout, None outside training. Outputs at padding have no meaning.
        """
        config = self.config
        place_RLD = 0.0
        if config.places == "learned":
            position_PD = self.param("position", nn.initializers.normal(0.02), (self.max_positions, config.width))
            place_RLD = position_PD[position_RL].astype(s_RLD.dtype)
        x_RLD = rms_norm(self, "norm_in", s_RLD) + place_RLD
        key_R = row_keys(noise) if noise is not None and config.dropout else None
        x_RLD = drop(x_RLD, config.dropout, key_R)
        if config.layers:
            encoder = SEQUENCE_ENCODERS.find(config.sequence_encoder)
            block = encoder.block
            if config.remat:
                block = nn.remat(block, prevent_cse=False, policy=kept_by_remat())
            blocks = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0),
                length=config.layers,
                # A rolled loop copies the activations that it keeps into one array for all layers, and out again.
                unroll=1 if config.remat else config.layers,
            )
            slots = encoder.prepare_slots(config, user_RL, position_RL, seconds_RL)
            key_KR = None if key_R is None else layer_keys(key_R, config.layers)
            x_RLD, _ = blocks(config, self.max_positions, name="blocks")(x_RLD, slots, key_KR)
        return rms_norm(self, "norm_out", x_RLD)
