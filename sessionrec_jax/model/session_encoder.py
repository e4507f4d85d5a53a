"""ISE, the item-based session encoder (paper, figure 2): the exposures of one session become one vector s.

Letters: T item slots, S session slots, K feedback kinds, D width, N heads, H head width, F hidden width. Clicked,
ignored and context exposures all enter, told apart by a feedback embedding; how the paper lets the feedback in is not
known, so this is our choice. The paper compared pooling, attention and a Transformer and kept the mean; their details
are ours.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data.codes import CLICKED, IGNORED
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.parametrization import head_width_ratio
from sessionrec_jax.model.segment import (
    segment_attention,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
)
from sessionrec_jax.model.sequence_encoder import rms_norm


class SessionEncoder(nn.Module):
    """One vector a session slot, from its own items alone and whatever their order.

    `mean` (the paper's choice), `sum`, `max`: over the session's items, by feature. `typed_mean`: one mean per feedback
    kind, each with its own projection, added, so that one informative item is not drowned by its session. `attention`:
    a mean with learned weights, head by head. `transformer`: one layer over the items of the session, then their mean.
    """

    config: Model
    feedback_kinds: int
    session_items: int
    """Most exposures of a session."""

    @nn.compact
    def __call__(
        self, e_TD: Float[Array, "T D"], feedback_T: Int[Array, " T"], session_T: Int[Array, " T"], sessions: int
    ) -> Float[Array, "S D"]:
        """`session_T`: as packed, so that the items of a session stand together and the ids do not decrease; an id of
        `sessions` is padding. A session of which no item is left gets the vector of one that never had any."""
        config, kinds = self.config, self.feedback_kinds
        width, kind = config.width, config.session_encoder
        feedback_KD = self.param("feedback", nn.initializers.normal(0.1), (kinds, width))
        feedback_T = feedback_T.astype(jnp.int32)
        x_TD = e_TD + feedback_KD[feedback_T].astype(e_TD.dtype)
        left_out = [CLICKED] * (not config.clicked_in_input) + [IGNORED] * (not config.ignored_in_input)
        for code in left_out:
            session_T = jnp.where(feedback_T == code, sessions, session_T)
        in_order = not left_out  # padding between the items breaks the order

        if kind == "typed_mean":
            s_XD = segment_mean(x_TD, session_T * kinds + feedback_T, sessions * kinds).astype(x_TD.dtype)
            w_KDD = self.param("project", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), (kinds, width, width))
            return jnp.einsum("SKD,KDF->SF", s_XD.reshape(sessions, kinds, width), w_KDD.astype(x_TD.dtype))

        if kind == "sum":
            s_SD = segment_sum(x_TD, session_T, sessions, is_sorted=in_order)
        elif kind == "max":
            s_SD = segment_max(x_TD, session_T, sessions, is_sorted=in_order)
        elif kind == "attention":
            # From zero: every item has the same weight at the start, which is the mean.
            logit_TN = linear(self, "attention", nn.initializers.zeros, x_TD, config.heads)
            weight_TN = segment_softmax(logit_TN, session_T, sessions, is_sorted=in_order)
            x_TNH = x_TD.reshape(-1, config.heads, width // config.heads)
            weighted_TD = (weight_TN[:, :, None] * x_TNH).reshape(x_TD.shape)
            s_SD = segment_sum(weighted_TD, session_T, sessions, is_sorted=in_order)
        else:
            if kind == "transformer":
                block = nn.remat(ItemBlock, static_argnums=(3,)) if config.remat else ItemBlock
                x_TD = block(config, self.session_items, name="block")(x_TD, session_T, sessions)
            s_SD = segment_mean(x_TD, session_T, sessions, is_sorted=in_order)
        s_SD = linear(self, "project", nn.initializers.lecun_normal(), s_SD.astype(x_TD.dtype), width)
        if kind == "sum":
            # The sequence encoder begins with a norm, to which n times a vector is that vector: without something fixed
            # beside the sum, the number of items would be lost and the sum would be the mean.
            s_SD = s_SD + self.param("bias", nn.initializers.normal(0.1), (width,)).astype(s_SD.dtype)
        return s_SD


class ItemBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), among the items of one session; they have no order. The sequence
    encoder's block without its mask, since a session is seen whole."""

    config: Model
    session_items: int
    """Most items of a session."""

    @nn.compact
    def __call__(self, x_TD: Float[Array, "T D"], session_T: Int[Array, " T"], sessions: int) -> Float[Array, "T D"]:
        width, heads, hidden = self.config.width, self.config.heads, self.config.mlp_ratio * self.config.width
        matrix = nn.initializers.lecun_normal()
        small = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")  # two branches add up to one

        h_TD = rms_norm(self, "norm_attention", x_TD)
        qkv_TE = linear(self, "qkv", matrix, h_TD, 3 * width)
        q_TNH, k_TNH, v_TNH = (part.reshape(-1, heads, width // heads) for part in jnp.split(qkv_TE, 3, axis=-1))
        q_TNH = q_TNH * head_width_ratio(self.config) ** -0.5  # beside the H**-0.5 of segment_attention
        a_TNH = segment_attention(q_TNH, k_TNH, v_TNH, session_T, sessions, self.session_items)
        a_TD = a_TNH.reshape(x_TD.shape).astype(x_TD.dtype)
        x_TD = x_TD + linear(self, "attention_out", small, a_TD, width)

        h_TD = rms_norm(self, "norm_mlp", x_TD)
        h_TF = linear(self, "mlp_in", matrix, h_TD, hidden)
        if self.config.mlp == "swiglu":
            h_TF = h_TF * jax.nn.silu(linear(self, "mlp_gate", matrix, h_TD, hidden))
        else:
            h_TF = jax.nn.gelu(h_TF)
        return x_TD + linear(self, "mlp_out", small, h_TF, width)
