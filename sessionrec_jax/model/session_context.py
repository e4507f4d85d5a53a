"""Session context: what a service knows when a session starts, such as device and hour of day. Letters: C codes,
R rows, L session slots, D width.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.facts import Parameter

PARAMETERS = (Parameter("context_.*"),)


class SessionContext(nn.Module):
    """A sum of embeddings, one for each column, that is added to the session's vector. A missing value adds zero, and
    so does a value out of the vocabulary, as for items (embedding.py). All embeddings start at zero, so the model
    starts as the model without context. All of this is our choice."""

    config: Model
    values: tuple[tuple[str, int], ...]
    """Columns and their number of values; the code above them is out of the vocabulary."""

    @nn.compact
    def __call__(self, context: dict[str, Int[Array, "R L"]]) -> Float[Array, "R L D"]:
        parts = []
        for name, values in self.values:
            table_CD = self.param(f"context_{name}", nn.initializers.zeros, (values + 1, self.config.width))
            code_RL = context[name]
            is_known_RL = (code_RL > 0) & (code_RL <= values)
            parts.append(jnp.where(is_known_RL[:, :, None], table_CD[jnp.where(is_known_RL, code_RL, 0)], 0.0))
        return sum(parts)
