"""Measures seconds and memory of a run's training step on this device, by a few real steps in its own process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments.sweep.launch.local import keep_to_share
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared, open_log

_STEPS = 20
_SECONDS = 2.0


class StepCost(NamedTuple):
    """The cost of one training step."""

    step_seconds: float
    """Including the time to make its batch: the loop waits for it if it takes longer."""
    compile_seconds: float
    step_bytes: int
    """By XLA's analysis of the compiled step: arguments + outputs - aliased buffers + temporary buffers."""
    log_bytes: int
    """Size of the log in the host's memory."""
    device_kind: str


def probe(config: Config, workers: int) -> StepCost:
    """Measures a resolved run. On a CPU it uses the share of the cores that one of `workers` workers has."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), keep_to_share, (0, workers)) as pool:
        return pool.submit(_measure, config).result()


def _measure(config: Config) -> StepCost:
    import jax

    prepared = open_log(Path(config.data.path))
    step, state, batch_of, rest = _prepared_step(config, prepared)
    start = time.perf_counter()
    program = step.lower(state, batch_of(0), **rest).compile()
    compile_seconds = time.perf_counter() - start
    state, _ = jax.block_until_ready(program(state, batch_of(0), **rest))
    steps, start, seconds = 0, time.perf_counter(), 0.0
    while steps < _STEPS and seconds < _SECONDS:
        state, _ = jax.block_until_ready(program(state, batch_of(steps), **rest))
        steps, seconds = steps + 1, time.perf_counter() - start
    memory = program.memory_analysis()
    step_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return StepCost(
        step_seconds=seconds / steps,
        compile_seconds=compile_seconds,
        step_bytes=step_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        log_bytes=sum(array.nbytes for array in jax.tree.leaves(vars(prepared.arrays()))),
        device_kind=jax.devices()[0].device_kind,
    )


def _prepared_step(config: Config, prepared: Prepared) -> tuple[Any, Any, Callable[[int], Any], dict[str, Any]]:
    """Returns the step, the initial state, a function that places batch k on the devices, and the other arguments."""
    import jax
    import numpy as np

    from sessionrec_jax.data.batches import shape_of, train_batches, train_catalogue
    from sessionrec_jax.devices.mesh import batch_shards, make_mesh, replicated, shards_here
    from sessionrec_jax.devices.placement import put, put_batch, put_replicated, put_side
    from sessionrec_jax.loss.negatives import proposal
    from sessionrec_jax.model.spec_of_log import spec_of
    from sessionrec_jax.training.step import FixedArrays, Scalars, initial_state, make_step

    mesh, catalogue = make_mesh(config.mesh), train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    batches = train_batches(config, prepared, shape_of(config, batch_shards(mesh), shards_here(mesh)[0])).packer
    rest = {
        "fixed": FixedArrays(
            put_side(catalogue.side, spec.rows, mesh), put_replicated(proposal(config.loss, catalogue), mesh)
        ),
        "key": put(jax.random.key(0), replicated(mesh)),
        "scalars": put_replicated(Scalars(np.float32(0), np.float32(0)), mesh),
    }
    step = make_step(spec, config.loss, config.optim, mesh, microbatches=config.train.microbatches)
    state = initial_state(config, spec, catalogue, mesh)
    return step, state, lambda k: put_batch(batches[k % len(batches)], mesh), rest
