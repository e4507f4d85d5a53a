"""Does packing keep up with the training step with a small model?

    python benchmarks/input_pipeline.py

Four epochs of a small known-truth log. The rates are packed users, sessions and items a second: of the pipeline alone
(an order for each epoch, arrays, Grain's one thread), of the step alone with the batches in memory, and of both
together as in training, where they share the cores. Above 1 the pipeline is faster. `host` is the pipeline of one of
two hosts. It deals windows to all rows but lays out only its half of every batch; its rates are of whole batches.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import jax
import numpy as np
from _bench import in_turns, ratio, report, significant
from _stored import OVERRIDES, stored

from experiments.plans.sizes import sized
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import Batch, shape_of, train_batches, train_catalogue
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.devices.mesh import make_mesh, replicated
from sessionrec_jax.devices.placement import put_batch, put_replicated, put_side
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import FixedArrays, Scalars, initial_state, make_step

USERS = 4_000
SIZES = ("xxs", "s")  # two small models of the ladder
EPOCHS = 4.0
HOSTS = 2
RUNS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepared = stored(Path(folder), USERS)
        cases = [case(prepared, size) for size in SIZES]
    report(
        "Grain packing against the training step of small models",
        "sessions/s that packing gives / sessions/s that the step takes, lowest of the sizes",
        ratio=min(of["ratio"] for of in cases),
        cases=cases,
        users=USERS,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(prepared: Prepared, size: str) -> dict[str, float | str]:
    config = sized(replace(Config(), OVERRIDES | {"train.epochs": EPOCHS}), size)
    config = resolve(config, prepared)
    mesh = make_mesh(config.mesh)
    shape = shape_of(config, mesh.size)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    step_fn = make_step(spec, config.loss, config.optim, mesh)
    side, negatives = put_side(catalogue.side, spec.rows, mesh), put_replicated(proposal(config.loss, catalogue), mesh)
    fixed = FixedArrays(side, negatives)
    scalars = put_replicated(Scalars(np.float32(config.optim.learning_rate_peak), np.float32(0)), mesh)
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    state = initial_state(config, spec, catalogue, mesh)
    epoch = functools.partial(train_batches, config, prepared, shape)
    host = functools.partial(train_batches, config, prepared, shape_of(config, HOSTS, local_shards=(0,)))
    ready = list(epoch())

    def steps(batches: Iterable[Batch]) -> None:
        nonlocal state
        for batch in batches:
            state, _ = step_fn(state, put_batch(batch, mesh), fixed, key=key, scalars=scalars)
        jax.block_until_ready(state)

    names = ("pipeline", "host", "step", "together")
    timed = in_turns(RUNS, lambda: list(epoch()), lambda: list(host()), lambda: steps(ready), lambda: steps(epoch()))
    of = dict(zip(names, timed, strict=True))
    amounts = {
        "users": sum(int(np.sum(batch.user_of_session_GRL.max(-1))) for batch in ready),
        "sessions": sum(int(np.count_nonzero(batch.user_of_session_GRL)) for batch in ready),
        "items": sum(int(np.count_nonzero(batch.item_GT)) for batch in ready),
    }
    return {
        "size": size,
        **ratio(of["step"], of["pipeline"]),
        **{
            f"{name}_{what}_per_second": significant(amount / median(of[name]))
            for what, amount in amounts.items()
            for name in names
        },
        "together_over_step": ratio(of["step"], of["together"])["ratio"],
        "host_over_pipeline": ratio(of["pipeline"], of["host"])["ratio"],
        "steps": len(ready),
    }


if __name__ == "__main__":
    main()
