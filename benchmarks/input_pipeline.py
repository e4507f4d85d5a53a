"""Does packing keep up with the training step at the demo's sizes?

    python benchmarks/input_pipeline.py

One epoch of the demo's process: packed sessions a second that the pipeline gives out (shuffle, first-fit, arrays,
Grain), that the step takes in when the batches lie ready, and that the two reach together as they do in training,
where they share the cores. Above 1 the pipeline is the faster one.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import jax
import numpy as np
from _bench import in_turns, ratio, report, significant

from experiments.base import sized
from experiments.cli.demo import OVERRIDES, PROCESS
from sessionrec_jax.config import Config
from sessionrec_jax.config_values import replace
from sessionrec_jax.data.batches import Batch, shape_of, train_batches, train_catalogue
from sessionrec_jax.data.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.loss import proposal
from sessionrec_jax.partition import make_mesh, put_batch, put_replicated, put_side, replicated
from sessionrec_jax.step import Scalars, initial_state, make_step
from sessionrec_jax.train import resolve, spec_of

USERS = 4_000
SIZES = ("xxs", "s")  # the demo's smallest and largest model
RUNS = 5


def main() -> None:
    process = dataclasses.replace(PROCESS, users=USERS + 200)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(validation_users=100, test_users=100)
        prepared = prepare(synthetic.read(process), Path(folder) / "log", settings)
        cases = [case(prepared, size) for size in SIZES]
    report(
        "Grain packing against the training step at the demo's sizes",
        "sessions/s that packing gives / sessions/s that the step takes, lowest of the sizes",
        ratio=min(of["ratio"] for of in cases),
        cases=cases,
        users=USERS,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(prepared: Prepared, size: str) -> dict[str, float | str]:
    config = sized(replace(Config(), OVERRIDES | {"train.epochs": 1.0}), size)
    config = resolve(config, prepared)
    mesh = make_mesh(config.mesh)
    shape = shape_of(config, mesh.size)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    step_fn = make_step(spec, config.loss, config.optim, mesh)
    side, negatives = put_side(catalogue.side, spec.rows, mesh), put_replicated(proposal(config.loss, catalogue), mesh)
    scalars = put_replicated(Scalars(np.float32(config.optim.learning_rate_peak), np.float32(0)), mesh)
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    state = initial_state(config, spec, catalogue, mesh)
    epoch = functools.partial(train_batches, config, prepared, shape)
    ready = list(epoch())

    def steps(batches: Iterable[Batch]) -> None:
        nonlocal state
        for batch in batches:
            state, _ = step_fn(state, *put_batch(batch, mesh), side, negatives, key, scalars)
        jax.block_until_ready(state)

    of_pipeline, of_steps, of_both = in_turns(RUNS, lambda: list(epoch()), lambda: steps(ready), lambda: steps(epoch()))
    sessions = sum(int(np.count_nonzero(batch.user_of_session_GRL)) for batch in ready)
    return {
        "size": size,
        **ratio(of_steps, of_pipeline),
        "pipeline_sessions_per_second": significant(sessions / median(of_pipeline)),
        "step_sessions_per_second": significant(sessions / median(of_steps)),
        "together_sessions_per_second": significant(sessions / median(of_both)),
        "together_over_step": ratio(of_steps, of_both)["ratio"],
        "steps": len(ready),
    }


if __name__ == "__main__":
    main()
