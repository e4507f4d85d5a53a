"""Refuses a run that cannot fit into memory, before anything of it is allocated.

The count is a lower bound: the state, one gradient of the parameters, the content vectors, the vectors of a
microbatch's items, and its scores against sampled negatives. A run that passes may still be too large.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sessionrec_jax.config.settings import Config
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.training.step import abstract_state

_BYTES_OF_HALF = 2
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def refuse_too_large(config: Config, spec: Spec, mesh: jax.sharding.Mesh) -> None:
    """Raises InputError if a device needs more bytes than it has."""
    needed, there = _bytes_needed(config, spec, mesh), _bytes_of(mesh.local_devices[0])
    if there and needed > there:
        raise InputError(
            f"the run needs at least {needed / 2**30:,.1f} GiB on each device, which has {there / 2**30:,.1f} GiB: "
            f"--model.width {config.model.width}, --model.layers {config.model.layers}, --model.id-width "
            f"{config.model.id_width}, --data.rows {config.data.rows}, --loss.negatives {config.loss.negatives}. Lower "
            "the largest of them, raise --train.microbatches, or use more devices"
        )


def _bytes_needed(config: Config, spec: Spec, mesh: jax.sharding.Mesh) -> int:
    state = abstract_state(spec, config.optim)
    places = shardings(mesh, spec.model, state)
    own = jax.tree.map(lambda x, at: math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize, state, places)
    data, shards = config.data, mesh.shape["data"] * mesh.shape["fsdp"]
    rows = max(1, data.rows // (shards * config.train.microbatches))
    item_vectors = rows * data.items_per_row * spec.model.width * np.dtype(np.float32).itemsize
    sampled = config.loss.retrieval in ("sampled_softmax", "bce")
    scores = rows * config.loss.negatives * np.dtype(np.float32).itemsize if sampled else 0
    content_vectors = spec.rows * sum(width for _, width in spec.vector_widths) // mesh.size * _BYTES_OF_HALF
    return _sum(own) + _sum(own.params) + content_vectors + item_vectors + scores


def _sum(tree: Any) -> int:
    return sum(jax.tree.leaves(tree))


def _bytes_of(device: jax.Device) -> int:
    """Returns the memory of a device, 0 if it is unknown. A CPU device has its share of the machine's."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return int(stats.get("bytes_limit", 0))
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # the container has no limit, or the system has no such file
        limits.append(int(_CONTAINER.read_text()))
    return min(limits, default=0) // jax.local_device_count()
