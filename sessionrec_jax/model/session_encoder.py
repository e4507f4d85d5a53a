"""ISE, the item-based session encoder (paper, figure 2): the exposures of one session become one vector s.

Letters: T item slots, S session slots, K feedback kinds, D width. Clicked, ignored and context exposures all enter,
told apart by a feedback embedding; how the paper lets the feedback in is not known, so this is our choice.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config import Model
from sessionrec_jax.model.segment import segment_mean


class SessionEncoder(nn.Module):
    """`mean`: the mean over a session's items (the paper's choice). `typed_mean`: one mean per feedback kind, each with
    its own projection, added, so that one informative item is not drowned by its session."""

    config: Model
    feedback_kinds: int
    session_items: int
    """Most exposures of a session."""

    @nn.compact
    def __call__(
        self, e_TD: Float[Array, "T D"], feedback_T: Int[Array, " T"], session_T: Int[Array, " T"], sessions: int
    ) -> Float[Array, "S D"]:
        width, kinds = self.config.width, self.feedback_kinds
        feedback_KD = self.param("feedback", nn.initializers.normal(0.1), (kinds, width))
        feedback_T = feedback_T.astype(jnp.int32)
        x_TD = e_TD + feedback_KD[feedback_T]
        if self.config.session_encoder == "mean":
            s_SD = segment_mean(x_TD, session_T, sessions, is_sorted=True)
            w_DD = self.param("project", nn.initializers.lecun_normal(), (width, width))
            return s_SD @ w_DD
        s_SKD = segment_mean(x_TD, session_T * kinds + feedback_T, sessions * kinds).reshape(sessions, kinds, width)
        w_KDD = self.param("project", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), (kinds, width, width))
        return jnp.einsum("SKD,KDF->SF", s_SKD, w_KDD)
