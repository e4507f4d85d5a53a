"""Training: the loop from top to bottom.

    log = store.open_log("DATA")
    model = train(Config(), log, Path("RUN"))

The loop writes metrics.jsonl and checkpoints into the run folder. A run that was killed goes on from its newest whole
checkpoint and ends with the same parameters, bit for bit; on other devices, or side by side with other runs, they are
equal up to rounding.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax

from doors.terminal import say
from sessionrec_jax.config.rules import doubts
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.codes import VALIDATION
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.processes import in_step, is_multiprocess, is_process_zero, on_process_zero
from sessionrec_jax.devices.stop_vote import StopVote
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import measure, validated
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.runfolder.files import claim
from sessionrec_jax.runfolder.history import TrainingHistory
from sessionrec_jax.runfolder.progress import Bar
from sessionrec_jax.runfolder.stopping import NEVER, Stop, Stopped
from sessionrec_jax.training.checkpoint import load_best
from sessionrec_jax.training.crew import Crew, Diverged, Lanes, Member
from sessionrec_jax.training.feed import Feed, feed_of
from sessionrec_jax.training.memory import refuse_too_large
from sessionrec_jax.training.profiling import Profiler
from sessionrec_jax.training.step import State, initial_state


def train(config: Config, log: Prepared, run_dir: Path, *, quiet: bool = False, stop: Stop = NEVER) -> TrainedModel:
    """Trains `config` in `run_dir`, or goes on from its newest whole checkpoint.

    Raises Diverged if the loss stops being a number; Stopped if `stop`, entered for the loop, asks to stop, after a
    checkpoint is written; NotSaved if a checkpoint cannot be written; InputError if the settings cannot run, or there
    are checkpoints and none is usable.
    """
    (model,) = train_together([(config, run_dir)], log, quiet=quiet, stop=stop)
    return model


def _raise(_: int, error: Diverged) -> NoReturn:
    raise error


def train_together(
    runs: Sequence[tuple[Config, Path]],
    log: Prepared,
    *,
    quiet: bool = False,
    stop: Stop = NEVER,
    diverged: Callable[[int, Diverged], None] = _raise,
    parts: Sequence[float] | None = None,
) -> list[TrainedModel | None]:
    """Trains several runs, each with its folder, side by side in one program; `program_of` of all must be equal.

    Data order, randomness, learning rate, log and checkpoints of each run are those of the run alone, so it may later
    go on alone or next to others. Its numbers are equal up to rounding, and the fate of the others changes none of its
    bits. `diverged(index, error)` is called as soon as a run diverges; if it returns, the others go on, and the result
    has None for that run. With `parts` each run stops, saved, when that part of its steps is done; the same call with a
    larger part goes on from there. Raises what `train` raises, for all runs, and InputError if they cannot share a
    program.
    """
    runs = [(resolve(config, log), run_dir) for config, run_dir in runs]
    _refuse_several_programs([config for config, _ in runs])
    for each, run_dir in runs:
        on_process_zero(functools.partial(claim, run_dir, each))
    shared = _Shared.of(runs[0][0], log, len(runs))  # the settings that are read below are the same for all runs
    lanes = Lanes(shared.spec, program_of(shared.config).optim, shared.mesh, len(runs))
    crew = Crew(runs, shared.feed, lanes=lanes, vote=shared.vote, diverged=diverged, parts=parts or [1.0] * len(runs))
    with stop as stop_signal, crew:
        state = crew.begin(lambda each: initial_state(each, shared.spec, shared.catalogue, shared.mesh))
        _take_steps(crew, state, shared, stop_signal, quiet=quiet or not is_process_zero())
    return [_finished(member, shared) for member in crew.members]


class _Shared(NamedTuple):
    """Everything that runs in one program have in common."""

    config: Config
    log: Prepared
    catalogue: Catalogue
    spec: Spec
    mesh: jax.sharding.Mesh
    feed: Feed
    vote: StopVote

    @classmethod
    def of(cls, config: Config, log: Prepared, runs: int) -> _Shared:
        """Raises InputError if the training state is larger than the devices' memory."""
        mesh, catalogue = make_mesh(config.mesh), train_catalogue(config, log)
        spec = spec_of(config, log, catalogue)
        refuse_too_large(config, spec, mesh)
        feed = feed_of(config, log, catalogue, spec, mesh=mesh, runs=runs)
        return cls(config, log, catalogue, spec, mesh, feed, StopVote(mesh))

    def model_of(self, member: Member, state: State, step: int, history: TrainingHistory | None = None) -> TrainedModel:
        return TrainedModel(
            member.config, self.log, self.catalogue, self.spec,
            mesh=self.mesh, params=state.params, step=step, history=history,
        )  # fmt: skip


def _take_steps(crew: Crew, state: State, shared: _Shared, stop_signal: Callable[[], int], *, quiet: bool) -> None:
    """Takes steps until every run is at its end. Raises Stopped, after all are saved, if a signal asks to stop."""
    train = shared.config.train
    longest = max(crew.members, key=lambda member: member.last - member.step)
    first, last = longest.step, longest.last
    clock = _Clock(train.checkpoint_every_seconds)
    profile = Profiler(longest.run_dir / "profile", train.profile_steps if is_process_zero() else 0, first, last)
    if not quiet and (doubt := doubts(longest.config, longest.steps)):
        say(f"warning: {doubt}")
    bar = Bar("train", last, first, quiet=quiet)
    with in_step(Diverged), bar, profile, jax.transfer_guard("disallow"):
        while True:
            someone_ends = any(member.is_at_its_end for member in crew.training)
            signal, to_save = shared.vote.decision(stop_signal(), clock.checkpoint_is_due(), is_last=someone_ends)
            _save(crew, state, clock, everyone=bool(signal) or to_save)  # before validations, which may take long
            if signal and crew.training:
                raise Stopped(f"{crew.position}, saved", signal)
            _validate(crew, state, clock, shared)
            crew.end_finished(state)
            if not crew.training:
                break
            step, steps = longest.step, 1 if train.profile_steps else crew.steps_of_call()
            batches, scalars = crew.next_batches(steps), crew.scalars(steps)
            profile.before(step, state)
            with crew.dispatch(step):
                state, sums = shared.feed.take_steps(state, batches, key=crew.keys, scalars=scalars)
            crew.took_steps(sums, steps)
            bar.advance(longest.log.note, steps)


def _finished(member: Member, shared: _Shared) -> TrainedModel | None:
    """Returns the trained model of a run, None if it diverged."""
    state, step = member.final_state, member.step
    if state is None:
        return None
    if member.config.train.evaluated == "best" and step == member.steps:
        step, state = load_best(member.run_dir / "checkpoints", member.best, state)
    history = TrainingHistory(member.steps, shared.feed.target_sessions, member.counters, member.best)
    return shared.model_of(member, state, step, history)


def _save(crew: Crew, state: State, clock: _Clock, *, everyone: bool) -> None:
    """Saves the members that pause here, or everyone."""
    if everyone or any(member.pauses for member in crew.training):
        crew.read_sums()  # so that checkpoints and logs have every step that was taken
        for member in crew.training:
            if everyone or member.pauses:
                member.save_if_moved(crew.state_of(member, state), clock.seconds())


def _validate(crew: Crew, state: State, clock: _Clock, shared: _Shared) -> None:
    """Validates the members for which it is due, and saves them once more, because the best step may have changed."""
    for member in crew.training:
        if member.validation_is_due:
            own = crew.state_of(member, state)
            with clock.stopped():
                metrics = measure(shared.model_of(member, own, member.step), VALIDATION)
            member.add_validation(validated(metrics, member.config))
            member.save(own, clock.seconds())


def _refuse_several_programs(configs: Sequence[Config]) -> None:
    if len(configs) > 1 and is_multiprocess():
        raise InputError(f"{len(configs)} runs train together in one process only; wanted one run, or no --hosts")
    if any(program_of(config) != program_of(configs[0]) for config in configs):
        raise InputError("runs that train together may differ in seed, learning rate and table prior alone")


class _Clock:
    """Counts the wall seconds of the loop, without validation, and says when the next checkpoint is due."""

    def __init__(self, checkpoint_every_seconds: float):
        self._zero = time.monotonic()
        self._every, self._saved = checkpoint_every_seconds, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._zero

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._zero += time.monotonic() - begin

    def checkpoint_is_due(self) -> bool:
        if time.monotonic() - self._saved < self._every:
            return False
        self._saved = time.monotonic()
        return True
