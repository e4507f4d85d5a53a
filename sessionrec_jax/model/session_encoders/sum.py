"""sum: the sum of the session's items."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import vector
from sessionrec_jax.model.segment import segment_sum
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderCost,
    SessionEncoderModule,
    pooling_cost,
    project,
)


class Sum(SessionEncoderModule):
    def pool(self, items: Items) -> Float[Array, "S D"]:
        s_SD = segment_sum(items.x_TD, items.session_T, items.sessions, is_sorted=items.is_sorted)
        s_SD = project(self, s_SD, items)
        # The sequence encoder starts with a norm, which removes the length of a vector. Without a constant next to the
        # sum the number of items would be lost, and the sum would be the mean.
        return s_SD + self.param("bias", nn.initializers.normal(0.1), (self.config.width,)).astype(s_SD.dtype)


def _cost(model: Model, feedback_kinds: int, session_items: int) -> SessionEncoderCost:
    pooling = pooling_cost(model, feedback_kinds, session_items)
    return pooling._replace(parameters=pooling.parameters + model.width)


ENCODER = SessionEncoder(Sum, parameters=(PROJECT, vector("bias")), cost=_cost)
