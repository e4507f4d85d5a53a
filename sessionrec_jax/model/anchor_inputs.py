"""The model's inputs for sessions that show one context item each and nothing else: the anchors of a known process."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.model.spec import Inputs

SECONDS_BETWEEN_SESSIONS = 86_400
"""Time between two sessions of a row, for an encoder that reads it: a day, about the mean of the process."""


def anchor_inputs(anchor_RL: Int[Array, "R L"]) -> Inputs:
    """Returns the inputs of one shard whose rows have one user each."""
    slots = anchor_RL.size
    place_RL = jnp.broadcast_to(jnp.arange(anchor_RL.shape[1], dtype=jnp.int32), anchor_RL.shape)
    return Inputs(
        item_T=anchor_RL.reshape(-1),
        feedback_T=jnp.full((slots,), CLICKED + 1, jnp.int32),  # the first kind of context
        session_of_item_T=jnp.arange(slots, dtype=jnp.int32),
        user_of_session_RL=jnp.ones_like(anchor_RL),
        position_RL=place_RL,
        seconds_RL=place_RL * SECONDS_BETWEEN_SESSIONS,
    )
