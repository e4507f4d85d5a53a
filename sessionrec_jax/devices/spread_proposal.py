"""Draws from a distribution of negatives whose items are spread over the devices like the item tables.

Letters: N draws.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, UInt32

from sessionrec_jax.devices.mesh import spread_axes
from sessionrec_jax.loss.negatives import Proposal, item_of


def spread_item_of(
    mesh: jax.sharding.Mesh, ids: int, proposal: Proposal, ticket_N: UInt32[Array, " N"]
) -> Int[Array, " N"]:
    """Returns what `item_of` returns: each device counts its items that begin at or before a ticket, and the counts are
    added up."""
    if mesh.size == 1:
        return jnp.minimum(item_of(proposal, ticket_N), ids - 1)
    first_V = proposal.first_V
    axes = spread_axes(mesh, len(first_V))

    def on_device(first_V: Array, ticket_N: Array) -> Array:
        return jax.lax.psum(jnp.searchsorted(first_V, ticket_N, side="right"), axes) - 1

    specs = (PartitionSpec(axes), PartitionSpec())
    item_N = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(first_V, ticket_N)
    return jnp.minimum(item_N, ids - 1)  # the rows that fill the tables up begin at the last ticket
