"""mean: the mean of the session's items, the paper's choice."""

from __future__ import annotations

from jaxtyping import Array, Float

from sessionrec_jax.model.segment import segment_mean
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderModule,
    pooling_cost,
    project,
)


class Mean(SessionEncoderModule):
    def pool(self, items: Items) -> Float[Array, "S D"]:
        s_SD = segment_mean(items.x_TD, items.session_T, items.sessions, is_sorted=items.is_sorted)
        return project(self, s_SD, items)


ENCODER = SessionEncoder(Mean, parameters=(PROJECT,), cost=pooling_cost)
