"""Training: the loop from top to bottom.

    prepared = store.open_log("DATA")
    trained = train(Config(), prepared, Path("RUN"))

The loop writes metrics.jsonl and checkpoints into the run folder. Killed and started again, it goes on where its newest
whole checkpoint stands and ends with the same parameters, bit for bit; on other devices, or side by side with other
runs, to rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.batches import BatchCounts, shape_of, train_catalogue, train_packer
from sessionrec_jax.data.codes import VALIDATION
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.devices.mesh import batch_shards, make_mesh, put_replicated, put_side, shards_here
from sessionrec_jax.devices.processes import Wishes, in_step, is_multiprocess, is_process_zero, on_process_zero
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import measure, validated
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.loss.session import Sums, proposal
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.runfolder.files import claim
from sessionrec_jax.runfolder.history import TrainingHistory
from sessionrec_jax.runfolder.progress import Bar
from sessionrec_jax.runfolder.stopping import NEVER, Stop, Stopped
from sessionrec_jax.training.checkpoint import load_best
from sessionrec_jax.training.lanes import Lanes
from sessionrec_jax.training.member import Diverged, Member
from sessionrec_jax.training.profiling import Profile
from sessionrec_jax.training.step import State, initial_state, make_step

_STEPS_STREAM = 1


def train(
    config: Config, prepared: Prepared, run_dir: Path, *, quiet: bool = False, stop: Stop = NEVER
) -> TrainedModel:
    """Trains `config` in `run_dir`, or goes on from its newest whole checkpoint.

    Raises Diverged; Stopped where `stop`, entered for the loop, asked and the checkpoint is written; NotSaved where one
    could not be written; InputError where there are checkpoints and none can be used.
    """
    (trained,) = train_together([(config, run_dir)], prepared, quiet=quiet, stop=stop)
    return trained


def _raise(_: int, error: Diverged) -> NoReturn:
    raise error


def train_together(
    runs: Sequence[tuple[Config, Path]],
    prepared: Prepared,
    *,
    quiet: bool = False,
    stop: Stop = NEVER,
    diverged: Callable[[int, Diverged], None] = _raise,
) -> list[TrainedModel | None]:
    """`train` for runs, each with its folder, that differ in nothing that `program_of` leaves: side by side in one
    program. Data order, randomness, rate, log and checkpoints of each are those of a run alone, so that it may go on
    alone or beside others; its numbers are so to rounding, and what becomes of the others changes no bit of them.

    `diverged` hears at once of a run that has, by its place in `runs`. Where it returns, the others go on, and that run
    is None in what is returned. Raises what `train` raises, for all of them, and InputError where the runs cannot share
    a program.
    """
    runs = [(resolve(config, prepared), run_dir) for config, run_dir in runs]
    _refuse_several_programs([config for config, _ in runs])
    for each, run_dir in runs:
        on_process_zero(functools.partial(claim, run_dir, each))
    config = runs[0][0]  # of what they share
    mesh = make_mesh(config.mesh)
    held, counted_G = shards_here(mesh)
    counted_G = counted_G.repeat(config.train.microbatches)
    shape = shape_of(config, batch_shards(mesh), held)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    packer = train_packer(config, prepared, shape)
    packers = {seed: dataclasses.replace(packer, seed=seed) for seed in {each.train.seed for each, _ in runs}}
    optimizer = program_of(config).optim
    step_fn = make_step(spec, config.loss, optimizer, mesh, config.train.microbatches, len(runs))

    side = put_side(catalogue.side, spec.rows, mesh)
    negatives = put_replicated(proposal(config.loss, catalogue), mesh)
    lanes = Lanes(spec, optimizer, mesh, len(runs))
    keys = lanes.keys([each.train.seed for each, _ in runs], _STEPS_STREAM)
    wishes = Wishes(mesh)
    last: dict[int, State] = {}

    def model(member: Member, step: int, state: State, history: TrainingHistory | None = None) -> TrainedModel:
        return TrainedModel(member.config, prepared, catalogue, spec, mesh, state.params, step, history)

    with stop as asked, ExitStack() as opened:
        crew = [
            opened.enter_context(Member(each, run_dir, packers[each.train.seed], lane))
            for lane, (each, run_dir) in enumerate(runs)
        ]
        state = lanes.states(
            [
                member.begin(initial_state(member.config, spec, catalogue, mesh), mesh.local_devices, len(runs))
                for member in crew
            ]
        )
        longest = max(crew, key=lambda member: member.steps - member.step)
        begun, steps = longest.step, longest.steps
        clock = _Clock(config.train.checkpoint_every_seconds)
        profile = Profile(
            longest.run_dir / "profile", config.train.profile_steps if is_process_zero() else 0, begun, steps
        )
        bar = Bar("train", steps, begun, quiet=quiet or not is_process_zero())
        unread: _Unread | None = None
        with in_step(Diverged), bar, profile, jax.transfer_guard("disallow"):
            for step in range(begun, steps + 1):  # the longest run's
                training = [member for member in crew if member.is_training]
                is_last = any(member.is_at_its_end for member in training)
                to_validate = any(member.validation_is_due for member in training)
                asked_by, to_save = wishes.agreed(asked(), clock.checkpoint_is_due(), is_last=is_last)
                if asked_by or to_save or is_last or to_validate:
                    _read(unread, lanes, wishes, diverged)
                    unread = None
                    training = [member for member in training if member.is_training]
                for member in training:  # before any validation, which may take longer than a scheduler waits
                    if asked_by or to_save or member.is_at_its_end or member.validation_is_due:
                        member.save_if_moved(lanes.state(state, member.lane), clock.seconds())
                for member in training:
                    if member.validation_is_due and not asked_by:
                        own = lanes.state(state, member.lane)
                        with clock.stopped():
                            metrics = measure(model(member, member.step, own), VALIDATION)
                        member.validated(validated(metrics, member.config))
                        member.save(own, clock.seconds())
                if asked_by and training:
                    where = ", ".join(f"at step {member.step} of {member.steps}" for member in training)
                    raise Stopped(f"{where}, saved", asked_by)
                for member in training:
                    if member.is_at_its_end:
                        member.is_training, last[member.lane] = False, lanes.state(state, member.lane)
                training = [member for member in training if member.is_training]
                if not training:
                    break
                with _each(member.meter.input() for member in training):
                    batches = {member.lane: member.next_batch() for member in training}
                fed = [member if member.is_training else training[0] for member in crew]  # what an empty lane gets
                scalars = lanes.scalars([member.scalars() for member in fed])
                profile.before(step, state)
                told = [(m, m.step, wishes.tell(batches[m.lane].counts(counted_G))) for m in training]
                with (
                    _each(member.meter.dispatch() for member in training),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    batch = lanes.batches([batches[member.lane] for member in fed])
                    state, sums = step_fn(state, *batch, side, negatives, keys, scalars)
                _read(unread, lanes, wishes, diverged)  # the step before, while this one runs
                unread = _Unread(sums, told)
                for member in training:
                    member.step += 1
                bar.advance(longest.log.note)

    def trained(member: Member) -> TrainedModel:
        step, state = member.steps, last[member.lane]
        if config.train.evaluated == "best":
            step, state = load_best(member.run_dir / "checkpoints", member.best, state)
        history = TrainingHistory(member.steps, packer.windows.target_sessions, member.counters, member.best)
        return model(member, step, state, history)

    return [trained(member) if member.lane in last else None for member in crew]


def _refuse_several_programs(configs: Sequence[Config]) -> None:
    if len(configs) > 1 and is_multiprocess():
        raise InputError(f"{len(configs)} runs train together in one process only; wanted one run, or no --hosts")
    if any(program_of(config) != program_of(configs[0]) for config in configs):
        raise InputError("runs that train together may differ in seed, learning rate and table prior alone")


class _Unread(NamedTuple):
    """What a step left on the devices."""

    sums: Sums
    of: list[tuple[Member, int, Any]]
    """The runs that took a step, which one, and what `Wishes.tell` gave."""


def _read(unread: _Unread | None, lanes: Lanes, wishes: Wishes, diverged: Callable[[int, Diverged], None]) -> None:
    """Takes a step's sums from the devices and tells the runs."""
    if unread is None:
        return
    sums = lanes.sums(unread.sums)
    for member, step, told in unread.of:
        counts = BatchCounts(*wishes.read(told))
        if not member.is_training:  # it had diverged when this step was already on its way
            continue
        try:
            member.read(step, sums[member.lane], counts)
        except Diverged as error:
            member.is_training = False
            diverged(member.lane, error)


@contextmanager
def _each(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as opened:
        for context in contexts:
            opened.enter_context(context)
        yield


class _Clock:
    """Wall seconds of the loop, without validation, and when the next checkpoint is due."""

    def __init__(self, checkpoint_every_seconds: float):
        self._zero = time.monotonic()
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
