"""typed_mean: one mean for each feedback kind, each with its own projection, added."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.segment import segment_mean
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderCost,
    SessionEncoderModule,
)


class TypedMean(SessionEncoderModule):
    """A single clicked item keeps its weight among many ignored ones. X: S * K pairs of a session and a kind."""

    def pool(self, items: Items) -> Float[Array, "S D"]:
        x_TD, kinds, width = items.x_TD, self.feedback_kinds, self.config.width
        pair_T = items.session_T * kinds + items.feedback_T
        s_XD = segment_mean(x_TD, pair_T, items.sessions * kinds).astype(x_TD.dtype)
        w_KDD = self.param("project", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), (kinds, width, width))
        return jnp.einsum("SKD,KDF->SF", s_XD.reshape(items.sessions, kinds, width), w_KDD.astype(x_TD.dtype))


def _cost(model: Model, feedback_kinds: int, session_items: int) -> SessionEncoderCost:
    weights = feedback_kinds * model.width**2
    return SessionEncoderCost(parameters=weights, per_item=0, per_session=weights)


ENCODER = SessionEncoder(TypedMean, parameters=(PROJECT,), cost=_cost)
