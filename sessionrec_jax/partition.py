"""The mesh, where every array lies on it, and the way of a host batch to the devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sessionrec_jax.config import Mesh
from sessionrec_jax.data.batches import Batch
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.sessionrec import Inputs

DATA_AXIS = "data"


def make_mesh(config: Mesh) -> jax.sharding.Mesh:
    """One axis, `data`, over the first `config.data` devices (0: all). Raises InputError where there are fewer."""
    devices = jax.devices()
    if config.data > len(devices):
        raise InputError(
            f"--mesh.data {config.data} wants {config.data} devices, but there are {len(devices)} "
            f"({devices[0].device_kind}); use --mesh.data {len(devices)}, or 0 for all"
        )
    count = config.data or len(devices)
    # Explicit axes, the default of make_mesh, refuse plain table lookups.
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading axis G of every batch array: a shard a device."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_batch(batch: Batch, mesh: jax.sharding.Mesh) -> tuple[Inputs, jax.Array]:
    """The arrays that a step reads, sharded: (inputs with a leading G, target_GS)."""
    inputs = Inputs(
        batch.item_GT,
        batch.feedback_GT,
        batch.session_of_item_GT,
        batch.user_of_session_GRL,
        batch.position_GRL,
        batch.seconds_GRL,
    )
    target_GS = batch.target_GRL.reshape(len(batch.target_GRL), -1)
    return jax.device_put((inputs, target_GS), over_data(mesh))


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Numbers and arrays of the host, whole on every device."""
    return jax.device_put(jax.tree.map(np.asarray, tree), replicated(mesh))
