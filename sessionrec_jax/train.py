"""Training: the loop from top to bottom.

    prepared = store.open_log("DATA")
    trained = train(resolve(Config(), prepared), prepared, Path("RUN"))

The loop writes metrics.jsonl and checkpoints into the run folder. Killed and started again, it goes on where its newest
checkpoint stands and ends with the same parameters, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sessionrec_jax import optim
from sessionrec_jax.checkpoint import Checkpoints
from sessionrec_jax.config import Config, Optim
from sessionrec_jax.config_rules import check
from sessionrec_jax.config_values import replace
from sessionrec_jax.data.batches import Batches, Shape, shape_of, train_batches, train_catalogue, train_users
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss import Sums, proposal
from sessionrec_jax.meter import Counters, Meter
from sessionrec_jax.model.sessionrec import ROW_MULTIPLE, Params, Spec
from sessionrec_jax.partition import batch_shards, make_mesh, put_batch, put_replicated, put_side, replicated
from sessionrec_jax.profiling import Profile
from sessionrec_jax.progress import Bar
from sessionrec_jax.runfolder import MetricsLog, claim
from sessionrec_jax.step import Scalars, initial_state, make_step

_STEPS_STREAM = 1


class Trained(NamedTuple):
    """A finished run, ready to be evaluated."""

    params: Params
    spec: Spec
    catalogue: Catalogue
    mesh: jax.sharding.Mesh
    shape: Shape
    steps: int
    target_slots: int
    """Targets of one epoch: sessions, or items of an item-level paradigm."""
    counters: Counters


class Diverged(RuntimeError):
    """The loss stopped being a number."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not a number at step {step}; lower --optim.learning-rate-peak")
        self.step = step


def resolve(config: Config, prepared: Prepared) -> Config:
    """`config` with what the prepared log decides filled in. Raises InputError where they do not fit."""
    check(config)
    if config.data.fingerprint not in ("", prepared.fingerprint):
        raise InputError(
            f"{prepared.path} has the fingerprint {prepared.fingerprint}, the run was configured for "
            f"{config.data.fingerprint}: the log was prepared anew. Start a new run folder."
        )
    train_users(config, prepared)  # refuses more users than there are, before a sweep begins
    items = config.data.items_per_row or _items_per_row(config, prepared)
    return replace(
        config,
        {
            "data.path": str(prepared.path.resolve()),
            "data.fingerprint": prepared.fingerprint,
            "data.items_per_row": items,
        },
    )


def _items_per_row(config: Config, prepared: Prepared) -> int:
    slots = config.data.sessions_per_row
    if config.paradigm != "nspp":
        return slots  # one item each
    log = prepared.arrays()
    is_first_S = np.zeros(len(log.session_items_S) + 1, bool)
    is_first_S[log.user_session_offsets_U1] = True
    neighbours_S = (log.session_items_S[1:] + log.session_items_S[:-1])[~is_first_S[1:-1]]  # they must fit together
    fitting = math.ceil(slots * prepared.manifest["items_per_session_mean"] * 1.06 / 8) * 8
    return max(fitting, int(neighbours_S.max(initial=0)))


def spec_of(config: Config, prepared: Prepared, catalogue: Catalogue) -> Spec:
    return Spec(
        config.model,
        catalogue.items + 1,
        tuple(catalogue.side_values.items()),
        len(prepared.feedback_names),
        config.data.sessions_per_row,
        prepared.manifest["max_session_items"] if config.paradigm == "nspp" else 1,
        -(catalogue.items + 1) % ROW_MULTIPLE,
    )


def train(config: Config, prepared: Prepared, run_dir: Path, *, quiet: bool = False) -> Trained:
    """Trains `config` (resolved) in `run_dir`, or goes on from its newest checkpoint. Raises Diverged."""
    claim(run_dir, config)
    mesh = make_mesh(config.mesh)
    shape = shape_of(config, batch_shards(mesh))
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    batches = train_batches(config, prepared, shape)
    steps = len(batches)
    step_fn = make_step(spec, config.loss, _without_schedule(config.optim), mesh)

    side = put_side(catalogue.side, spec.rows, mesh)
    negatives = put_replicated(proposal(config.loss, catalogue), mesh)
    key = jax.device_put(jax.random.fold_in(jax.random.key(config.train.seed), _STEPS_STREAM), replicated(mesh))
    state = initial_state(config, spec, catalogue, mesh)
    target_slots = batches.packer.cut.target_sessions
    prior = config.optim.table_prior / (2 * target_slots)
    counters = Counters()
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        if (found := checkpoints.restore(state)) is not None:
            state, progress = found
            batches.set_state(progress["data"])
            counters = Counters(**progress["counters"])
        first = int(state.step)
        log = MetricsLog(run_dir / "metrics.jsonl", first, config.train.log_every_steps)
        clock = _Clock(counters.wall_seconds, config.train.checkpoint_every_seconds)
        meter = Meter(counters, mesh.local_devices)
        profile = Profile(run_dir / "profile", config.train.profile_steps, first, steps)
        unread: tuple[int, float, Sums] | None = None
        with Bar("train", steps, first, quiet=quiet) as bar, profile, jax.transfer_guard("disallow"):
            for step in range(first, steps):
                if clock.checkpoint_is_due():
                    unread = _read(unread, log, counters, meter)
                    checkpoints.save(step, state, _progress(batches, counters, clock))
                with meter.input():
                    batch = next(batches)
                rate = optim.learning_rate(config.optim, step, steps)
                scalars = put_replicated(Scalars(np.float32(rate), np.float32(prior)), mesh)
                profile.before(step, state)
                with meter.dispatch(step):
                    state, sums = step_fn(state, *put_batch(batch, mesh), side, negatives, key, scalars)
                _read(unread, log, counters, meter)  # the step before, while this one runs
                unread = (step, rate, sums)
                counters.add(batch)
                bar.advance(log.note)
            _read(unread, log, counters, meter)
        log.close()
        checkpoints.save(steps, state, _progress(batches, counters, clock))
    counters.wall_seconds = clock.seconds()
    return Trained(state.params, spec, catalogue, mesh, shape, steps, target_slots, counters)


def _without_schedule(config: Optim) -> Optim:
    """The part of the optimizer that is compiled; the rate comes as an argument."""
    return dataclasses.replace(config, learning_rate_peak=1.0, warmup_fraction=0.0, table_prior=0.0)


def _read(unread: tuple[int, float, Sums] | None, log: MetricsLog, counters: Counters, meter: Meter) -> None:
    """Takes a step's sums from the device and logs them. Raises Diverged where they are not numbers."""
    if unread is None:
        return
    step, rate, sums = unread
    values = tuple(float(value) for value in jax.device_get(sums))
    if not all(map(math.isfinite, values)):
        raise Diverged(step)
    counters.target_items += int(values[1])
    meter.done()
    log.add(step, rate, values, meter.window)


def _progress(batches: Batches, counters: Counters, clock: _Clock) -> dict[str, Any]:
    counters.wall_seconds = clock.seconds()
    return {"data": batches.get_state(), "counters": dataclasses.asdict(counters)}


class _Clock:
    """Wall seconds of the run over all its lives, and when the next checkpoint is due."""

    def __init__(self, seconds_before: float, checkpoint_every_seconds: float):
        self._zero = time.monotonic() - seconds_before
        self._every, self._saved = checkpoint_every_seconds, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._zero

    def checkpoint_is_due(self) -> bool:
        if time.monotonic() - self._saved < self._every:
            return False
        self._saved = time.monotonic()
        return True
