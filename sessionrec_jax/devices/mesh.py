"""The mesh, where every array lies on it, and the way of a host batch to the devices.

Axes: `data` and `fsdp` share out the batch; `fsdp` also the body's matrices and their optimizer state; `model` the rows
of the item tables and the hidden widths of the body.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.data.batches import Batch
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import ROW_MULTIPLE, Inputs

BATCH_AXES = ("data", "fsdp")
"""A packed batch has one shard for each pair of places on these axes."""
TABLE_AXIS = "model"


def make_mesh(config: Mesh) -> jax.sharding.Mesh:
    """The mesh of `config`; data 0 takes all devices that fsdp and model leave.

    Raises InputError where there are fewer devices, saying which mesh would fit.
    """
    devices = jax.devices()
    others = config.fsdp * config.model
    if others > len(devices) or (config.data or 1) * others > len(devices):
        wanted = (config.data or 1) * others
        fits = max(len(devices) // others, 1) if others <= len(devices) else 0
        told = f"--mesh data={config.data}" if others == 1 else f"--mesh data={config.data},{_others(config)}"
        fitting = f"data={fits},{_others(config)}" if fits else f"data={len(devices)},fsdp=1,model=1"
        use = f"--mesh data={fits}, or 0 for all" if others == 1 else f"--mesh {fitting}"
        raise InputError(
            f"{told} wants {wanted} devices, but there are {len(devices)} ({devices[0].device_kind}); use {use}"
        )
    if ROW_MULTIPLE % config.model:
        raise InputError(
            f"--mesh.model is {config.model}; wanted a divisor of {ROW_MULTIPLE}, so that the rows of tables spread"
        )
    data = config.data or len(devices) // others
    if jax.process_count() > 1 and (left := len(devices) - data * others):
        raise InputError(
            f"--mesh.data {config.data} leaves {left} of {len(devices)} devices without work, but each must have "
            f"some; use --mesh.data {len(devices) // others}, or 0 for all"
        )
    shape = (data, config.fsdp, config.model)
    # Explicit axes, the default of make_mesh, refuse plain table lookups.
    kinds = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, (*BATCH_AXES, TABLE_AXIS), axis_types=kinds, devices=devices[: math.prod(shape)])


def _others(config: Mesh) -> str:
    return f"fsdp={config.fsdp},model={config.model}"


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """G, the shards of a packed batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading axis G of every batch array."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def side_by_side(place: NamedSharding) -> NamedSharding:
    """Where an array lies that has a leading axis of runs before what lies at `place`."""
    return NamedSharding(place.mesh, PartitionSpec(None, *place.spec))


@functools.lru_cache(maxsize=16)
def shards_here(mesh: jax.sharding.Mesh) -> tuple[tuple[int, ...], np.ndarray]:
    """Shards of a batch that this process makes, since they lie on its devices, ascending; and whether it is this one
    that counts each of them: a shard whose copies lie on devices of several processes is made by all and counted once.
    """
    here, shards = jax.process_index(), batch_shards(mesh)
    process_GM = np.array([device.process_index for device in mesh.devices.flat]).reshape(shards, -1)
    held = np.flatnonzero((process_GM == here).any(1))
    return tuple(held.tolist()), process_GM[held, 0] == here


def put_shards(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Arrays of the shards that this process holds as arrays of all shards, spread over the batch axes."""
    spread = over_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, spread)
    held = shards_here(mesh)[0]

    def spread_out(x_G: np.ndarray) -> jax.Array:
        parts = len(x_G) // len(held)  # of a training step, that a device has one after the other
        own = {shard * parts: x_G[n * parts : (n + 1) * parts] for n, shard in enumerate(held)}
        shape = (batch_shards(mesh) * parts, *x_G.shape[1:])
        return _from_parts(shape, spread, lambda at: own[at[0].start or 0])

    return jax.tree.map(spread_out, tree)


def held_shards(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Of arrays on the devices with a leading G, the shards that this process holds, on the host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def held(x_G: jax.Array) -> np.ndarray:
        parts = {part.index[0].start or 0: part.data for part in x_G.addressable_shards}
        return np.concatenate([jax.device_get(parts[shard]) for shard in sorted(parts)])

    return jax.tree.map(held, _spread_over_batch(mesh)(tree))


@functools.lru_cache(maxsize=16)
def _spread_over_batch(mesh: jax.sharding.Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=over_batch(mesh))


def put(tree: Any, places: Any) -> Any:
    """Arrays that are whole, and the same on every process, laid out as `places`: a tree like theirs."""
    return jax.device_put(tree, places) if jax.process_count() == 1 else jax.tree.map(_put_one, tree, places)


def _put_one(x: Any, place: NamedSharding) -> jax.Array:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put_one(jax.random.key_data(x), place))
    whole = np.asarray(jax.device_get(x))  # device_put would first compare it over all processes
    return _from_parts(whole.shape, place, lambda at: whole[at])


def _from_parts(shape: tuple[int, ...], place: NamedSharding, part: Any) -> jax.Array:
    with jax.transfer_guard_host_to_device("allow"):  # asked for here, which jax does not see
        return jax.make_array_from_callback(shape, place, part)


def local_places(item_M: Int[Array, " M"], rows: int) -> Int[Array, " M"]:
    """Places of items among the `rows` that this device has of a table; `rows` where another has them. For the inside
    of `jax.shard_map`, as is the next."""
    place_M = item_M - jax.lax.axis_index(TABLE_AXIS) * rows
    return jnp.where((place_M < 0) | (place_M >= rows), rows, place_M)


def log_sum_of_rows(log_sum_X: Float[Array, "*X"]) -> Float[Array, "*X"]:
    """The log of a sum over all rows, from the log of its part that each device has in its own."""
    top_X = jax.lax.pmax(jax.lax.stop_gradient(log_sum_X), TABLE_AXIS)
    return jnp.log(jax.lax.psum(jnp.exp(log_sum_X - top_X), TABLE_AXIS)) + top_X


def put_batch(batch: Batch, mesh: jax.sharding.Mesh) -> tuple[Inputs, jax.Array]:
    """The arrays that a step reads, sharded: (inputs with a leading G, target_GS)."""
    return put_shards(_read_by_step(batch), mesh)


def put_batches(batches: Sequence[Batch], mesh: jax.sharding.Mesh) -> tuple[Inputs, jax.Array]:
    """Those of several runs of one process, a batch each, with a leading axis of runs."""
    stacked = jax.tree.map(lambda *x_G: np.stack(x_G), *map(_read_by_step, batches))
    return jax.device_put(stacked, side_by_side(over_batch(mesh)))


def _read_by_step(batch: Batch) -> tuple[Inputs, np.ndarray]:
    inputs = Inputs(
        batch.item_GT,
        batch.feedback_GT,
        batch.session_of_item_GT,
        batch.user_of_session_GRL,
        batch.position_GRL,
        batch.seconds_GRL,
        batch.context_GRL,
    )
    target_GS = batch.target_GRL.reshape(len(batch.target_GRL), -1)
    return inputs, target_GS


def put_side(side: dict[str, np.ndarray], rows: int, mesh: jax.sharding.Mesh) -> Side:
    """The items' side information, spread as the rows of the item tables are."""
    by_row = NamedSharding(mesh, PartitionSpec(TABLE_AXIS))
    return {name: put(np.pad(code_VW, ((0, rows - len(code_VW)), (0, 0))), by_row) for name, code_VW in side.items()}


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Numbers and arrays of the host, whole on every device."""
    tree = jax.tree.map(np.asarray, tree)
    return put(tree, jax.tree.map(lambda _: replicated(mesh), tree))
