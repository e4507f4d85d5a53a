"""A vote by which processes that train together stop and save at the same step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from sessionrec_jax.data.batches import BatchCounts
from sessionrec_jax.devices.processes import beat, is_multiprocess, is_process_zero, max_over_processes


class Decision(NamedTuple):
    """The action of all processes before the next step."""

    signal: int
    """The signal that asks to stop; 0: go on."""
    to_save: bool
    """Write a checkpoint."""


class StopVote:
    """Lets processes agree to stop and to save, and adds up the counts of their batches.

    A single process decides at once. Several processes post their wishes and counts with each step, as one small sum
    over their devices that is collected when the step's own sums are read. So all of them act on a wish before the same
    step, two steps after it was posted.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._own, self._agreed = Decision(0, False), Decision(0, False)
        if is_multiprocess():
            self._here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
            self._rows = mesh.size
            self._spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
            whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            self._combine = jax.jit(_combined, out_shardings=whole)

    def decision(self, signal: int, to_save: bool, *, is_last: bool) -> Decision:
        """Returns the decision for this step, the same on all processes; `signal` and `to_save` are this one's wishes.

        Only process 0 decides about saving. On the last step all wait for each other's wish to stop.
        """
        if not is_multiprocess():
            return Decision(signal, to_save)
        beat()
        self._own = Decision(signal, to_save and is_process_zero())
        return Decision(max_over_processes(signal), False) if is_last else self._agreed

    def post(self, counts: BatchCounts) -> Any:
        """Sends this process's wishes and counts; returns a handle for `collect`."""
        if not is_multiprocess():
            return counts
        row = np.array([*self._own, *counts], np.int32)
        rows = [row[None], *[np.zeros_like(row)[None]] * (len(self._here) - 1)]  # one row per device; only one counts
        parts = jax.device_put(rows, self._here)
        return self._combine(jax.make_array_from_single_device_arrays((self._rows, len(row)), self._spread, parts))

    def collect(self, posted: Any) -> BatchCounts:
        """Waits for what `post` sent; returns the counts of all processes."""
        if not is_multiprocess():
            return posted
        signal, to_save, *counts = jax.device_get(posted).tolist()
        self._agreed = Decision(signal, bool(to_save))
        return BatchCounts(*counts)


def _combined(row_DX: jax.Array) -> jax.Array:
    """The largest wish of each kind, and the sum of each count, over D devices."""
    return jax.numpy.concatenate([row_DX[:, :2].max(0), row_DX[:, 2:].sum(0)])
