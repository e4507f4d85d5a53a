"""The labels of a packed batch: which of its items are scored, and after which session.

The label of session slot n is the content of slot n + 1 of the same user, so for item i the query is slot
session_of_item[i] - 1. Letters: T items, S session slots, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.data.codes import CLICKED


class Targets(NamedTuple):
    """The labels of one shard; see `targets`."""

    query_T: Int[Array, " T"]
    """Slot of the session before the item's."""
    clicked_T: Bool[Array, " T"]
    """Label of the retrieval loss: a clicked item of a target session."""
    exposed_T: Bool[Array, " T"]
    """Item of the rank loss: a clicked or ignored one of a target session."""
    click_probability_T: Float[Array, " T"] | None = None
    """Soft label of the rank loss; it counts where `exposed_T` holds. None: the clicks are the labels."""


def targets(
    feedback_T: Int[Array, " T"],
    session_of_item_T: Int[Array, " T"],
    target_S: Bool[Array, " S"],
    click_probability_T: Float[Array, " T"] | None = None,
) -> Targets:
    """Returns the labels of one shard. Context (feedback 2 and up) and padding are neither labels nor negatives."""
    in_target_T = target_S.at[session_of_item_T].get(mode="fill", fill_value=False)
    return Targets(
        query_T=jnp.maximum(session_of_item_T - 1, 0),
        clicked_T=in_target_T & (feedback_T == CLICKED),
        exposed_T=in_target_T & (feedback_T <= CLICKED),
        click_probability_T=click_probability_T,
    )


def own_products(queries_SD: Float[Array, "S D"], e_TD: Float[Array, "T D"], targets: Targets) -> Float[Array, " T"]:
    """Returns the product of each item with the query of the session before its own.

    It is computed in float32, and so are the sums over items in a query's gradient.
    """
    query_TD = queries_SD.astype(jnp.float32)[targets.query_T]
    return jnp.einsum("TD,TD->T", query_TD, e_TD.astype(jnp.float32))
