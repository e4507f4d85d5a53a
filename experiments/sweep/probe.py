"""Measures seconds and memory of a run's training step on this device, by a few real steps in its own process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.sweep.launch.local import keep_to_share
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared, open_log

if TYPE_CHECKING:
    from sessionrec_jax.training.feed import Feed

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
    """Size of the log's arrays, which are mapped: the processes of a host share what is in memory of them."""
    device_kind: str


def probe(config: Config, workers: int) -> StepCost:
    """Measures a resolved run. On a CPU it uses the share of the cores that one of `workers` workers has."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), keep_to_share, (0, workers)) as pool:
        return pool.submit(_measure, config).result()


def _measure(config: Config) -> StepCost:
    import jax

    prepared = open_log(config.data.path)
    feed, state, rest = _prepared_step(config, prepared)
    each = min(feed.most_steps, _STEPS)
    batches = _repeated(feed, config.train.seed, each)

    def inputs() -> Any:
        return feed.inputs([next(batches)])

    start = time.perf_counter()
    program = feed.program.lower(state, inputs(), feed.fixed, **rest).compile()
    compile_seconds = time.perf_counter() - start
    state, _ = jax.block_until_ready(program(state, inputs(), feed.fixed, **rest))
    steps, start, seconds = 0, time.perf_counter(), 0.0
    while steps < _STEPS and seconds < _SECONDS:
        state, _ = jax.block_until_ready(program(state, inputs(), feed.fixed, **rest))
        steps, seconds = steps + each, time.perf_counter() - start
    memory, flat = program.memory_analysis(), prepared.arrays()
    step_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return StepCost(
        step_seconds=seconds / steps,
        compile_seconds=compile_seconds,
        step_bytes=step_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        log_bytes=sum(array.nbytes for array in jax.tree.leaves([getattr(flat, each.name) for each in fields(flat)])),
        device_kind=jax.devices()[0].device_kind,
    )


def _repeated(feed: Feed, seed: int, steps: int) -> Iterator[Any]:
    """Yields the batches of a run for calls of `steps` steps, over and over."""
    while True:
        stream = feed.stream(seed)
        for _ in range(max(1, feed.steps_of(seed) // steps)):
            yield stream.take(steps)


def _prepared_step(config: Config, prepared: Prepared) -> tuple[Feed, Any, dict[str, Any]]:
    """Returns the feed of a run, its initial state, and the arguments of a step by keyword."""
    import jax
    import numpy as np

    from sessionrec_jax.data.batches import train_catalogue
    from sessionrec_jax.devices.mesh import make_mesh, replicated
    from sessionrec_jax.devices.placement import put, put_replicated
    from sessionrec_jax.model.spec_of_log import spec_of
    from sessionrec_jax.training.feed import feed_of
    from sessionrec_jax.training.step import Scalars, initial_state

    mesh, catalogue = make_mesh(config.mesh), train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    feed = feed_of(config, prepared, catalogue, spec, mesh=mesh, runs=1)
    zeros = np.zeros(() if feed.most_steps == 1 else feed.most_steps, np.float32)
    rest = {
        "key": put(jax.random.key(0), replicated(mesh)),
        "scalars": put_replicated(Scalars(zeros, zeros), mesh),
    }
    return feed, initial_state(config, spec, catalogue, mesh), rest
