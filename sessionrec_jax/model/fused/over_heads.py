"""Kernels on a mesh: each device calls the kernel for its own heads and its own part of the batch.

A compiler cannot divide a kernel over devices, so `jax.shard_map` does it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

HEAD_AXIS = "model"
"""The axis of the mesh that divides the heads, as it divides the columns of the matrices that make them."""


def over_heads(function: Callable[[Any], Any], arguments: tuple, *, axes: tuple, out_axes: Any, heads: int) -> Any:
    """Returns `function(arguments)`, computed on every device for its own heads.

    `axes` has the axis of heads of each argument, None for an argument without heads, and `out_axes` that of each
    result. Where the mesh does not divide the heads, each device of the axis computes all of them. Inside `jax.vmap`
    over shards with an `spmd_axis_name` each device has its own shards.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return function(arguments)
    name = HEAD_AXIS if heads % mesh.shape[HEAD_AXIS] == 0 else None

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, name)

    out_specs = tuple(map(spec, out_axes)) if isinstance(out_axes, tuple) else spec(out_axes)
    # Without a bias an argument and a gradient are None; a spec in their place matches no leaf.
    return jax.shard_map(
        function, in_specs=(tuple(map(spec, axes)),), out_specs=out_specs, check_vma=False
    )(arguments)  # fmt: skip
