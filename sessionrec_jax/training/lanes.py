"""Runs side by side on the devices: what each of them has lies in its lane, a place on a leading axis of runs.

A single run has no such axis: its arrays and programs are as they would be if nothing here existed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sessionrec_jax.config.settings import Optim
from sessionrec_jax.data.batches import Batch
from sessionrec_jax.devices.mesh import put, put_batch, put_batches, put_replicated, replicated, side_by_side
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.session import Sums
from sessionrec_jax.model.spec import Inputs, Spec
from sessionrec_jax.training.step import Scalars, State, abstract_state


class Lanes:
    """The ways into and out of the lanes of so many runs."""

    def __init__(self, spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh, runs: int):
        self._mesh, self._runs = mesh, runs
        self._stack, self._take = _programs(spec, optimizer, mesh)

    def states(self, of_runs: Sequence[State]) -> State:
        """A lane each, for a step of `make_step(..., runs)`."""
        return of_runs[0] if self._runs == 1 else self._stack(of_runs)

    def state(self, states: State, lane: int) -> State:
        """One run's, laid out as that of a single run is: a copy, where there are several."""
        return states if self._runs == 1 else self._take(states, put_replicated(np.int32(lane), self._mesh))

    def keys(self, seeds: Sequence[int], stream: int) -> jax.Array:
        """The root of each run's randomness."""
        keys = [jax.random.fold_in(jax.random.key(seed), stream) for seed in seeds]
        return put(keys[0] if self._runs == 1 else jnp.stack(keys), replicated(self._mesh))

    def batches(self, of_runs: Sequence[Batch]) -> tuple[Inputs, jax.Array]:
        return put_batch(of_runs[0], self._mesh) if self._runs == 1 else put_batches(of_runs, self._mesh)

    def scalars(self, of_runs: Sequence[Scalars]) -> Scalars:
        of_lanes = of_runs[0] if self._runs == 1 else jax.tree.map(lambda *x: np.stack(x), *of_runs)
        return put_replicated(of_lanes, self._mesh)

    def sums(self, sums: Sums) -> list[tuple[float, ...]]:
        """Of each run, on the host."""
        return [tuple(values) for values in np.stack(jax.device_get(sums), -1).reshape(self._runs, -1).tolist()]


@functools.lru_cache(maxsize=16)
def _programs(spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """(states of single runs -> stacked, (stacked, lane) -> state of a single run), jitted."""
    places = shardings(mesh, spec.model, abstract_state(spec, optimizer))
    stack = jax.jit(
        lambda of_runs: jax.tree.map(lambda *x: jnp.stack(x), *of_runs),
        out_shardings=jax.tree.map(side_by_side, places),
    )
    take = jax.jit(lambda states, lane: jax.tree.map(lambda x: x[lane], states), out_shardings=places)
    return stack, take
