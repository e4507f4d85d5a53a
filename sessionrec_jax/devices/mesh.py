"""The mesh of devices: how it is made, and which parts of arrays a device or a process holds.

Axes: `data` and `fsdp` divide the batch; `fsdp` also divides the body's matrices and their optimizer state; `model`
divides the hidden widths of the body. All of them together divide the rows of the item tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.spec import ROW_MULTIPLE

BATCH_AXES = ("data", "fsdp")
"""A packed batch has one shard for each pair of places on these axes."""
TABLE_AXIS = "model"
"""The axis of the devices that work on the same shard of the batch."""
TABLE_AXES = (TABLE_AXIS, *BATCH_AXES)
"""The axes that divide the rows of the item tables. `model` is the first of them, so the parts that the devices of one
place on `model` hold together are one range of rows."""


def make_mesh(config: Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Returns the mesh of `config` over `devices`, by default all that there are; data = 0 takes all devices that fsdp
    and model leave.

    Raises InputError if there are too few devices (it names a mesh that fits), if the rows of tables would not divide
    evenly, or if a device of a multi-process run would have no work.
    """
    devices = jax.devices() if devices is None else devices
    others = config.fsdp * config.model
    if (config.data or 1) * others > len(devices):
        raise InputError(_too_few(config, devices))
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
    # Explicit axes, the default of jax.make_mesh, refuse plain table lookups.
    kinds = (AxisType.Auto,) * len(shape)
    return jax.sharding.Mesh(_grid(shape, devices), (*BATCH_AXES, TABLE_AXIS), axis_types=kinds)


def _grid(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices in the shape of the mesh, such that neighbours on an axis are near each other in the network.

    TPU slices are connected by the slow data-centre network, so only `data` may cross from one to another. A mesh that
    leaves devices idle takes the first ones in their order. Raises InputError if `data` is not a multiple of the number
    of slices.
    """
    if math.prod(shape) < len(devices):
        return np.array(devices[: math.prod(shape)]).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        # jax.make_mesh never splits an axis of the network, and then has no place for a mesh of 64 x 4 on 16 x 16.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise InputError(
            f"--mesh data={shape[0]} does not divide over {slices} TPU slices; wanted a multiple of {slices}, because "
            "fsdp and model stay within a slice"
        )
    within, across = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def _too_few(config: Mesh, devices: Sequence[Any]) -> str:
    other_axes, others = f"fsdp={config.fsdp},model={config.model}", config.fsdp * config.model
    fits = len(devices) // others
    came, use = f"data={config.data},{other_axes}", f"data={fits},{other_axes}"
    if not fits:
        use = f"data={len(devices)},fsdp=1,model=1"
    if others == 1:
        came, use = f"data={config.data}", f"data={fits}, or 0 for all"
    wanted = (config.data or 1) * others
    here = f"there are {len(devices)} ({devices[0].device_kind})"
    return f"--mesh {came} wants {wanted} devices, but {here}; use --mesh {use}"


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Returns G, the number of shards of a packed batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


@functools.lru_cache(maxsize=16)
def shards_here(mesh: jax.sharding.Mesh) -> tuple[tuple[int, ...], np.ndarray]:
    """Returns the shards of a batch that this process makes, ascending, and for each whether this process counts it.

    A shard that devices of several processes hold is made by each of them and counted by one.
    """
    here, shards = jax.process_index(), batch_shards(mesh)
    process_GM = np.array([device.process_index for device in mesh.devices.flat]).reshape(shards, -1)
    held = np.flatnonzero((process_GM == here).any(1))
    return tuple(held.tolist()), process_GM[held, 0] == here


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of a batch array: its leading axis G is divided."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def spread_axes(mesh: jax.sharding.Mesh, rows: int) -> tuple[str, ...]:
    """Returns the axes over which a table of `rows` rows is spread: all if the number of devices divides the rows,
    otherwise `model` alone."""
    return TABLE_AXES if rows % mesh.size == 0 else (TABLE_AXIS,)


def by_row(mesh: jax.sharding.Mesh, rows: int) -> NamedSharding:
    """Returns the sharding of a table of `rows` rows."""
    return NamedSharding(mesh, PartitionSpec(spread_axes(mesh, rows)))


def over_shards(mesh: jax.sharding.Mesh, function: Callable[..., Any], *arguments: Any, in_axes: Any = 0) -> Any:
    """Returns `function` of every shard of a batch, as `jax.vmap` does, where each device computes its own shards."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.vmap(function, in_axes=in_axes, spmd_axis_name=BATCH_AXES)(*arguments)


def side_by_side(place: NamedSharding) -> NamedSharding:
    """Returns `place` for an array with a leading axis of runs, which no device divides."""
    return NamedSharding(place.mesh, PartitionSpec(None, *place.spec))


# The next functions run inside `jax.shard_map`.


def varying(x: Array, axes: tuple[str, ...]) -> Array:
    """Returns x, which each device has, such that its gradient is added up over `axes` once, where it leaves."""
    return jax.lax.pcast(x, axes, to="varying")


def local_places(item_M: Int[Array, " M"], rows: int, axes: tuple[str, ...]) -> Int[Array, " M"]:
    """Returns the places of items among the `rows` of a table that this device holds; `rows` if another holds them."""
    place_M = item_M - jax.lax.axis_index(axes) * rows
    return jnp.where((place_M < 0) | (place_M >= rows), rows, place_M)


def log_sum_of_rows(log_sum_X: Float[Array, "*X"], axes: tuple[str, ...]) -> Float[Array, "*X"]:
    """Returns the log of a sum over all rows of a table, from the log of each device's part of the sum."""
    top_X = jax.lax.pmax(jax.lax.stop_gradient(log_sum_X), axes)
    return jnp.log(jax.lax.psum(jnp.exp(log_sum_X - top_X), axes)) + top_X
