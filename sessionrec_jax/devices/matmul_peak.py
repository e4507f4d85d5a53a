"""The rate of matrix products that the devices reach; model FLOPs utilisation is a share of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_SIDES = (256, 512, 1024, 2048, 4096, 8192)
_LONG_ENOUGH_SECONDS = 0.02
_CALLS = 3


def peak_flops_per_second(devices: Sequence[Any], dtype: str) -> float:
    """Returns FLOPs per second (2 per multiply-add) of `devices` together, all multiplying matrices of `dtype` at once.

    It is measured once per process, on this process's devices, in less than two seconds; the others are assumed to be
    as fast. It is the best rate of jnp.matmul at the default precision over square matrices that grow until a product
    takes 20 ms, not the figure of a data sheet. Devices that share a processor share its rate.
    """
    here = tuple(device for device in devices if device.process_index == jax.process_index())
    return _measured(here, dtype) * len(devices) / len(here)


@functools.cache
def _measured(devices: tuple[jax.Device, ...], dtype: str) -> float:
    mesh = jax.make_mesh((len(devices),), ("each",), axis_types=(AxisType.Auto,), devices=devices)
    spread = NamedSharding(mesh, PartitionSpec("each"))
    multiply = jax.jit(jnp.matmul, out_shardings=spread)
    key, best = jax.random.key(0), 0.0
    for side in _SIDES:
        shape = (len(devices), side, side)
        # Random numbers, because a GPU multiplies constant ones faster: fewer bits flip.
        x_GNN = jax.jit(functools.partial(jax.random.normal, shape=shape, dtype=dtype), out_shardings=spread)(key)
        multiply(x_GNN, x_GNN).block_until_ready()  # compiles
        seconds = []
        for _ in range(_CALLS):
            start = time.perf_counter()
            multiply(x_GNN, x_GNN).block_until_ready()
            seconds.append(time.perf_counter() - start)
        best = max(best, 2 * len(devices) * side**3 / min(seconds))
        if min(seconds) > _LONG_ENOUGH_SECONDS:
            break
    return best
