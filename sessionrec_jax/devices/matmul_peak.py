"""The rate of matrix products that the devices at hand reach: what model FLOPs utilisation is a share of."""

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
    """FLOPs a second (2 per multiply-add) of `devices` together, each multiplying square matrices of `dtype` at once.

    Measured on this process's devices, once a process, in less than two seconds; the others are taken to be as fast.
    The best rate over growing matrices, up to those that take 20 ms: what a program gets here by jnp.matmul at the
    default precision, not the figure of a data sheet. Devices that share a processor share its rate.
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
        # of random numbers: a GPU multiplies constant ones faster, since fewer bits flip
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
