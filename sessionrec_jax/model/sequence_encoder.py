"""SSE, the session-based sequence encoder (paper): causal over session vectors, an output o at every session.

Letters: R rows, L session slots, D width, P places, K layers. Users are packed side by side in a row; none sees
another. The paper names a Transformer and HSTU and gives no details; what is here is our choice.
"""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.attention import attention_mask, slots_of
from sessionrec_jax.model.dropout import Noise, drop, layer_keys, row_keys
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.sequence_encoders.gru import GruBlock, first_of_user
from sessionrec_jax.model.sequence_encoders.hstu import HstuBlock
from sessionrec_jax.model.sequence_encoders.transformer import TransformerBlock

__all__ = ["Noise", "SequenceEncoder", "attention_mask", "rms_norm"]

_BLOCKS = {"transformer": TransformerBlock, "hstu": HstuBlock, "gru": GruBlock}


class SequenceEncoder(nn.Module):
    """A norm, position embeddings where places are `learned`, `layers` residual blocks of one kind under one scan, a
    final norm."""

    config: Model
    positions: int
    """Longest history: session slots of a row."""

    @nn.compact
    def __call__(
        self,
        s_RLD: Float[Array, "R L D"],
        user_RL: Int[Array, "R L"],
        position_RL: Int[Array, "R L"],
        seconds_RL: Int[Array, "R L"],
        noise: Noise | None,
    ) -> Float[Array, "R L D"]:
        """`user_RL`: packed user within the row, 0 = padding; `position_RL`, `seconds_RL`: place and start within the
        user's history; `noise`: of dropout, None outside training. What comes out at padding means nothing."""
        config = self.config
        place_RLD = 0.0
        if config.places == "learned":
            position_PD = self.param("position", nn.initializers.normal(0.02), (self.positions, config.width))
            place_RLD = position_PD[position_RL].astype(s_RLD.dtype)
        x_RLD = rms_norm(self, "norm_in", s_RLD) + place_RLD
        key_R = row_keys(noise) if noise is not None and config.dropout else None
        x_RLD = drop(x_RLD, config.dropout, key_R)
        if config.layers:
            block = _BLOCKS[config.sequence_encoder]
            blocks = nn.scan(
                nn.remat(block, prevent_cse=False) if config.remat else block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0),
                length=config.layers,
                # what a rolled loop keeps is copied into and out of one array for all layers
                unroll=1 if config.remat else config.layers,
            )
            is_recurrent = config.sequence_encoder == "gru"
            slots = first_of_user(user_RL) if is_recurrent else slots_of(config, user_RL, position_RL, seconds_RL)
            key_KR = None if key_R is None else layer_keys(key_R, config.layers)
            x_RLD, _ = blocks(config, self.positions, name="blocks")(x_RLD, slots, key_KR)
        return rms_norm(self, "norm_out", x_RLD)
