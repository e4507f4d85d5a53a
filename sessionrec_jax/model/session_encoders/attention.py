"""attention: a weighted mean of the session's items, with learned weights for each head."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import Parameter
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.segment import segment_softmax, segment_sum
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderCost,
    SessionEncoderModule,
    pooling_cost,
    project,
)


class Attention(SessionEncoderModule):
    """N heads of width H. All logits start at zero, so that the encoder starts as the mean."""

    def pool(self, items: Items) -> Float[Array, "S D"]:
        x_TD, heads = items.x_TD, self.config.heads
        logit_TN = linear(self, "attention", x_TD, heads, init=nn.initializers.zeros)
        weight_TN = segment_softmax(logit_TN, items.session_T, items.sessions, is_sorted=items.is_sorted)
        x_TNH = x_TD.reshape(-1, heads, self.config.width // heads)
        weighted_TD = (weight_TN[:, :, None] * x_TNH).reshape(x_TD.shape)
        s_SD = segment_sum(weighted_TD, items.session_T, items.sessions, is_sorted=items.is_sorted)
        return project(self, s_SD, items)


def _cost(model: Model, feedback_kinds: int, session_items: int) -> SessionEncoderCost:
    pooling, logits = pooling_cost(model, feedback_kinds, session_items), model.width * model.heads
    return pooling._replace(parameters=pooling.parameters + logits, per_item=logits)


ENCODER = SessionEncoder(Attention, parameters=(PROJECT, Parameter("attention", sums_over_width=True)), cost=_cost)
