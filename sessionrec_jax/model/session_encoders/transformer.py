"""transformer: one Transformer layer over the session's items, then their mean."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import matrix_in, matrix_out, vector
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import head_width_ratio
from sessionrec_jax.model.segment import LEAST_BLOCK, segment_attention, segment_mean
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderCost,
    SessionEncoderModule,
    project,
)


class Transformer(SessionEncoderModule):
    def pool(self, items: Items) -> Float[Array, "S D"]:
        block = nn.remat(ItemBlock, static_argnums=(3,)) if self.config.remat else ItemBlock
        x_TD = block(self.config, self.session_items, name="block")(items.x_TD, items.session_T, items.sessions)
        s_SD = segment_mean(x_TD, items.session_T, items.sessions, is_sorted=items.is_sorted)
        return project(self, s_SD, items)


class ItemBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), among the items of one session. The items have no order and see
    each other. Letters: N heads, H head width, E three widths, F hidden width."""

    config: Model
    session_items: int
    """Items of the longest session."""

    @nn.compact
    def __call__(self, x_TD: Float[Array, "T D"], session_T: Int[Array, " T"], sessions: int) -> Float[Array, "T D"]:
        width, heads, hidden = self.config.width, self.config.heads, self.config.mlp_ratio * self.config.width
        small = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")  # two branches add up to one

        h_TD = rms_norm(self, "norm_attention", x_TD)
        qkv_TE = linear(self, "qkv", h_TD, 3 * width)
        q_TNH, k_TNH, v_TNH = (part.reshape(-1, heads, width // heads) for part in jnp.split(qkv_TE, 3, axis=-1))
        q_TNH = q_TNH * head_width_ratio(self.config) ** -0.5  # segment_attention multiplies by H**-0.5 as well
        a_TNH = segment_attention(q_TNH, k_TNH, v_TNH, session_T, segments=sessions, longest=self.session_items)
        a_TD = a_TNH.reshape(x_TD.shape).astype(x_TD.dtype)
        x_TD = x_TD + linear(self, "attention_out", a_TD, width, init=small)

        h_TD = rms_norm(self, "norm_mlp", x_TD)
        h_TF = linear(self, "mlp_in", h_TD, hidden)
        if self.config.mlp == "swiglu":
            h_TF = h_TF * jax.nn.silu(linear(self, "mlp_gate", h_TD, hidden))
        else:
            h_TF = jax.nn.gelu(h_TF)
        return x_TD + linear(self, "mlp_out", h_TF, width, init=small)


def _cost(model: Model, feedback_kinds: int, session_items: int) -> SessionEncoderCost:
    """Attention is counted as it is computed: the logits and the weighted sum of an item run over three blocks, however
    few items its own session has."""
    width = model.width
    matrices = (4 + (3 if model.mlp == "swiglu" else 2) * model.mlp_ratio) * width**2
    attention = 2 * 3 * max(session_items, LEAST_BLOCK) * width
    return SessionEncoderCost(
        parameters=width**2 + matrices + 2 * width, per_item=matrices + attention, per_session=width**2
    )


ENCODER = SessionEncoder(
    Transformer,
    parameters=(
        PROJECT,
        vector(r"block/norm_\w+"),
        matrix_in("block/(qkv|mlp_in|mlp_gate)"),
        matrix_out("block/(attention_out|mlp_out)"),
    ),
    cost=_cost,
    is_bounded=True,
)
