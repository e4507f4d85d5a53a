"""Training: the loop from top to bottom.

    prepared = store.open_log("DATA")
    trained = train(resolve(Config(), prepared), prepared, Path("RUN"))

The loop writes metrics.jsonl and checkpoints into the run folder. Killed and started again, it goes on where its newest
whole checkpoint stands and ends with the same parameters, bit for bit; on other devices, to rounding.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sessionrec_jax import optim
from sessionrec_jax.checkpoint import Checkpoints, load_best
from sessionrec_jax.config import Config, Optim
from sessionrec_jax.config_rules import check
from sessionrec_jax.config_values import from_dict, replace, run_id, to_dict
from sessionrec_jax.data.batches import (
    VALIDATION,
    Shape,
    items_per_row,
    session_context,
    shape_of,
    train_batches,
    train_catalogue,
    train_users,
)
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluate import measure, validated
from sessionrec_jax.hosts import Wishes, first, in_step, is_first
from sessionrec_jax.loss import Sums, proposal
from sessionrec_jax.meter import Counters, Meter
from sessionrec_jax.model.sessionrec import ROW_MULTIPLE, Params, Spec
from sessionrec_jax.partition import (
    batch_shards,
    make_mesh,
    put,
    put_batch,
    put_replicated,
    put_side,
    replicated,
    shards_here,
)
from sessionrec_jax.profiling import Profile
from sessionrec_jax.progress import Bar
from sessionrec_jax.runfolder import MetricsLog, claim
from sessionrec_jax.step import Scalars, initial_state, make_step
from sessionrec_jax.stopping import NEVER, Stop, Stopped

_STEPS_STREAM = 1


class Best(NamedTuple):
    """The best validation so far."""

    step: int
    """Steps that the parameters had seen."""
    objective: float
    """Nats; see `evaluate.validated`."""


class Trained(NamedTuple):
    """A finished run, ready to be evaluated."""

    params: Params
    params_step: int
    """Steps that `params` have seen, by `train.evaluated`."""
    best: Best | None
    """None where nothing was validated."""
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
    session_context(config, prepared)  # and columns that are not there
    if not (config.model.clicked_in_input or config.model.ignored_in_input or len(prepared.feedback_names) > 2):
        raise InputError(
            "--model.clicked-in-input and --model.ignored-in-input are both False, and the log has no other kind of "
            "exposure: nothing would enter the model; leave one of them True"
        )
    items = config.data.items_per_row or items_per_row(
        config, prepared.arrays(), prepared.manifest["items_per_session_mean"]
    )
    return replace(
        config,
        {
            "data.path": str(prepared.path.resolve()),
            "data.fingerprint": prepared.fingerprint,
            "data.items_per_row": items,
        },
    )


def spec_of(config: Config, prepared: Prepared, catalogue: Catalogue) -> Spec:
    return Spec(
        config.model,
        catalogue.items + 1,
        tuple(catalogue.side_values.items()),
        len(prepared.feedback_names),
        config.data.sessions_per_row,
        prepared.manifest["max_session_items"] if config.paradigm == "nspp" else 1,
        -(catalogue.items + 1) % ROW_MULTIPLE,
        catalogue.id_rows if config.model.id_width else 0,
        tuple(session_context(config, prepared).items()),
    )


def train(config: Config, prepared: Prepared, run_dir: Path, *, quiet: bool = False, stop: Stop = NEVER) -> Trained:
    """Trains `config` (resolved) in `run_dir`, or goes on from its newest whole checkpoint.

    Raises Diverged; Stopped where `stop`, entered for the loop, asked and the checkpoint is written; NotSaved where one
    could not be written; InputError where there are checkpoints and none can be used.
    """
    first(lambda: claim(run_dir, config))
    mesh = make_mesh(config.mesh)
    held, counted_G = shards_here(mesh)
    shape = shape_of(config, batch_shards(mesh), held)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    batches = train_batches(config, prepared, shape)
    steps = len(batches)
    step_fn = make_step(spec, config.loss, _without_schedule(config.optim), mesh, config.train.parts)

    side = put_side(catalogue.side, spec.rows, mesh)
    negatives = put_replicated(proposal(config.loss, catalogue), mesh)
    key = put(jax.random.fold_in(jax.random.key(config.train.seed), _STEPS_STREAM), replicated(mesh))
    state = initial_state(config, spec, catalogue, mesh)
    target_slots = batches.packer.cut.target_sessions
    prior = config.optim.table_prior / (2 * target_slots)
    counters, best, validated_step, log_sums = Counters(), None, 0, ()
    wishes = Wishes(mesh)

    def save(step: int) -> None:
        counters.wall_seconds = clock.seconds()
        progress = {
            "config": to_dict(config),
            "data": batches.get_state(),
            "counters": dataclasses.asdict(counters),
            "log_sums": log.sums,
            "best": best,
            "validated_step": validated_step,
        }
        checkpoints.save(step, state, progress, best and best.step)

    with stop as asked, Checkpoints(run_dir / "checkpoints", config.train.checkpoints_kept) as checkpoints:
        if (found := checkpoints.restore(state)) is not None:
            state, progress = found
            _refuse_another_run(progress, config, run_dir)
            batches.set_state(progress["data"])
            counters, log_sums = Counters(**progress["counters"]), progress["log_sums"]
            best, validated_step = progress["best"] and Best(*progress["best"]), progress["validated_step"]
        begun = int(state.step)
        log_path = run_dir / "metrics.jsonl" if is_first() else None
        log = MetricsLog(log_path, begun, steps, config.train.log_every_steps, log_sums)
        clock = _Clock(counters.wall_seconds, config.train.checkpoint_every_seconds)
        meter = Meter(counters, mesh.local_devices)
        profile = Profile(run_dir / "profile", config.train.profile_steps if is_first() else 0, begun, steps)
        bar = Bar("train", steps, begun, quiet=quiet or not is_first())
        unread: _Unread | None = None
        with in_step(Diverged), bar, profile, jax.transfer_guard("disallow"):
            for step in range(begun, steps + 1):
                is_last = step == steps
                asked_by, to_save = wishes.agreed(asked(), clock.checkpoint_is_due(), is_last=is_last)
                to_validate = step > validated_step and _validation_is_due(config.train.validations, step, steps)
                if step > begun and (asked_by or is_last or to_validate or to_save):
                    unread = _read(unread, log, counters, meter, wishes)
                    if is_last:
                        log.close()
                    save(step)  # before a validation too, which may take longer than a scheduler waits
                if to_validate and not asked_by:
                    with clock.stopped():
                        metrics = measure(config, prepared, catalogue, spec, state.params, mesh, shape, VALIDATION)
                    values = validated(metrics, config)
                    log.add_validation(step - 1, values)
                    validated_step, objective = step, values["validation_objective"]
                    if objective is not None and (best is None or objective < best.objective):
                        best = Best(step, objective)
                    save(step)
                if asked_by:
                    raise Stopped(f"at step {step} of {steps}, saved", asked_by)
                if is_last:
                    break
                with meter.input():
                    batch = next(batches)
                rate = optim.learning_rate(config.optim, step, steps)
                scalars = put_replicated(Scalars(np.float32(rate), np.float32(prior)), mesh)
                profile.before(step, state)
                told = wishes.tell(batch.counts(counted_G.repeat(config.train.parts)))
                with meter.dispatch(step):
                    state, sums = step_fn(state, *put_batch(batch, mesh), side, negatives, key, scalars)
                _read(unread, log, counters, meter, wishes)  # the step before, while this one runs
                unread = _Unread(step, rate, sums, told)
                bar.advance(log.note)
    params_step = steps
    if config.train.evaluated == "best":
        params_step, state = load_best(run_dir / "checkpoints", best, state)
    return Trained(state.params, params_step, best, spec, catalogue, mesh, shape, steps, target_slots, counters)


def _without_schedule(config: Optim) -> Optim:
    """The part of the optimizer that is compiled; the rate comes as an argument."""
    without = {"learning_rate_peak": 1.0, "learning_rate_rule": "fixed", "warmup_fraction": 0.0, "table_prior": 0.0}
    return dataclasses.replace(config, **without)


class _Unread(NamedTuple):
    """What a step left on the devices."""

    step: int
    rate: float
    sums: Sums
    told: Any
    """See `Wishes.tell`."""


def _read(unread: _Unread | None, log: MetricsLog, counters: Counters, meter: Meter, wishes: Wishes) -> None:
    """Takes a step's sums from the device and logs them. Raises Diverged where they are not numbers."""
    if unread is None:
        return
    values = tuple(float(value) for value in jax.device_get(unread.sums))
    if not all(map(math.isfinite, values)):
        raise Diverged(unread.step)
    counters.target_items += int(values[1])
    counters.add(wishes.read(unread.told))
    meter.done()
    log.add(unread.step, unread.rate, values, meter.window)


def _validation_is_due(validations: int, step: int, steps: int) -> bool:
    """After `step` steps, so that they are evenly spread and the last one comes at the end."""
    return step * validations // steps > (step - 1) * validations // steps


def _refuse_another_run(progress: dict[str, Any], config: Config, run_dir: Path) -> None:
    if (there := run_id(from_dict(progress["config"], f"a checkpoint in {run_dir}"))) != run_id(config):
        raise InputError(
            f"{run_dir}: its checkpoints are those of run {there}, its config.json that of run {run_id(config)}; they "
            "were brought together from two folders. Put the right checkpoints back, or use another --out."
        )


class _Clock:
    """Wall seconds of the run over all its lives, without validation, and when the next checkpoint is due."""

    def __init__(self, seconds_before: float, checkpoint_every_seconds: float):
        self._zero = time.monotonic() - seconds_before
        self._every, self._saved = checkpoint_every_seconds, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._zero

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._zero += time.monotonic() - begun

    def checkpoint_is_due(self) -> bool:
        if time.monotonic() - self._saved < self._every:
            return False
        self._saved = time.monotonic()
        return True
