"""max: the largest value of each feature over the session's items."""

from __future__ import annotations

from jaxtyping import Array, Float

from sessionrec_jax.model.segment import segment_max
from sessionrec_jax.model.session_encoder import (
    PROJECT,
    Items,
    SessionEncoder,
    SessionEncoderModule,
    pooling_cost,
    project,
)


class Max(SessionEncoderModule):
    def pool(self, items: Items) -> Float[Array, "S D"]:
        s_SD = segment_max(items.x_TD, items.session_T, items.sessions, is_sorted=items.is_sorted)
        return project(self, s_SD, items)


ENCODER = SessionEncoder(Max, parameters=(PROJECT,), cost=pooling_cost)
