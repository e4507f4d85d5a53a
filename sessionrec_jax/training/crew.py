"""The runs that one loop trains side by side: usually one.

Each run is a Member, with a folder, a batch stream and a position of its own, and has a lane: a place on a leading axis
of runs that the state, the batch and the sums of a step have. A single run has no such axis: its arrays and programs
are those of a loop that knows nothing of crews.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sessionrec_jax.config.settings import Config, Optim
from sessionrec_jax.config.values import from_dict, run_id, to_dict
from sessionrec_jax.data.batches import BatchCounts
from sessionrec_jax.devices.mesh import replicated, shards_here, side_by_side
from sessionrec_jax.devices.placement import put, put_replicated
from sessionrec_jax.devices.processes import is_multiprocess, is_process_zero
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.devices.stop_vote import StopVote
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss.session import Sums
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.runfolder.files import MetricsLog
from sessionrec_jax.runfolder.history import Best, Counters
from sessionrec_jax.training import optim
from sessionrec_jax.training.checkpoint import Checkpoints
from sessionrec_jax.training.feed import Feed
from sessionrec_jax.training.meter import Meter
from sessionrec_jax.training.shared_steps import shared_steps
from sessionrec_jax.training.step import Scalars, State, abstract_state, root_key

_SECONDS_OF_CALL = 0.25
_STEPS_OF_SEVERAL_PROCESSES = 8


class Diverged(RuntimeError):
    """The loss is no longer a number."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not a number at step {step}; lower --optim.learning-rate-peak")
        self.step = step


class Member:
    """One run: its folder, its position, and the numbers it has seen."""

    def __init__(self, config: Config, run_dir: Path, feed: Feed, lane: int, part: float):
        self.config, self.run_dir, self.lane = config, run_dir, lane
        self.checkpoints = Checkpoints(
            run_dir / "checkpoints", config.train.checkpoints_kept, config.train.checkpoints_at
        )
        self.batches = feed.stream(config.train.seed)
        self.counters, self.best = Counters(), None
        self.step, self.steps = 0, feed.steps_of(config.train.seed)
        """Steps dispatched so far, and steps of the whole run."""
        self.last = max(1, round(part * self.steps))
        """The step at which it stops for now; `steps`, unless only a part of the run is asked for."""
        optim.check_length(config.optim, self.steps)
        self.is_training = True
        """False once the run has ended or diverged."""
        self.final_state: State | None = None
        self._validated_step = 0
        self._prior = config.optim.table_prior / (2 * feed.target_sessions)

    def begin(self, state: State, devices: Sequence[Any], runs: int) -> State:
        """Returns the state to go on from: that of the newest whole checkpoint, else of the one that the run begins
        from, else `state`; all are laid out alike.

        `runs` is the number of runs side by side. Raises InputError if there are checkpoints and none is usable.
        """
        log_sums: Sequence[float] = ()
        found = self.checkpoints.restore(state) or shared_steps(self.config, self.run_dir, self.steps, state)
        if found is not None:
            state, progress = found
            _refuse_another_run(progress, self.config, self.run_dir)
            self.batches.set_state(progress["data"])
            self.counters, log_sums = Counters(**progress["counters"]), progress["log_sums"]
            self.best, self._validated_step = progress["best"] and Best(*progress["best"]), progress["validated_step"]
        self.step = self._first_step = int(state.step)
        self.counters.runs_together = max(self.counters.runs_together, runs)
        self._seconds_before = self.counters.wall_seconds
        log_path = self.run_dir / "metrics.jsonl" if is_process_zero() else None
        every_steps = self.config.train.log_every_steps
        self.log = MetricsLog(
            log_path, self.step, self.steps, every_steps=every_steps, sums=log_sums, validated_step=self._validated_step
        )
        self.meter = Meter(self.counters, devices)
        return state

    @property
    def is_at_its_end(self) -> bool:
        return self.step >= self.last

    @property
    def validation_is_due(self) -> bool:
        """True if a validation belongs after `step` steps: they are evenly spaced, and the last one is at the end."""
        each, step = self.config.train.validations, self.step
        is_due = step * each // self.steps > (step - 1) * each // self.steps
        return is_due and step > self._validated_step

    @property
    def pauses(self) -> bool:
        """True if the next step has to wait: for a checkpoint, a validation, or for ever."""
        return self.is_at_its_end or self.validation_is_due or self.step in self.config.train.checkpoints_at

    def steps_to_pause(self) -> int:
        """Returns the number of steps up to the next validation, line of metrics.jsonl or one of
        `train.checkpoints_at`, or to where the run stops."""
        each, every = self.config.train.validations, self.config.train.log_every_steps
        to_line = every - self.step % every
        to_validation = -(-(self.step * each // self.steps + 1) * self.steps // each) - self.step if each else to_line
        to_checkpoint = (step - self.step for step in self.config.train.checkpoints_at if step > self.step)
        return min(to_line, to_validation, self.last - self.step, *to_checkpoint)

    def save_if_moved(self, state: State, loop_seconds: float) -> None:
        """Saves, unless no step was taken since the process started. At the end of the run its log is closed first."""
        if self.step == self._first_step:
            return
        if self.step == self.steps:
            self.log.close()
        self.save(state, loop_seconds)

    def save(self, state: State, loop_seconds: float) -> None:
        """Starts to write a checkpoint; `loop_seconds` counts from the start of the process.

        Raises NotSaved if this checkpoint or the one before cannot be written.
        """
        self.counters.wall_seconds = self._seconds_before + loop_seconds
        progress = {
            "config": to_dict(self.config),
            "data": self.batches.get_state(),
            "counters": dataclasses.asdict(self.counters),
            "log_sums": self.log.sums,
            "best": self.best,
            "validated_step": self._validated_step,
        }
        self.checkpoints.save(self.step, state, progress, self.best and self.best.step)

    def add_validation(self, values: dict[str, float | None]) -> None:
        """Records the result of `measure.validated` for the current parameters."""
        self.log.add_validation(self.step - 1, values)
        self._validated_step, objective = self.step, values["validation_objective"]
        if objective is not None and (self.best is None or objective < self.best.objective):
            self.best = Best(self.step, objective)

    def scalars(self, step: int) -> Scalars:
        rate = optim.learning_rate(self.config.optim, step, self.steps)
        return Scalars(learning_rate=np.float32(rate), prior=np.float32(self._prior))

    def add_steps(self, first: int, sums_N: Sequence[Sums], counts: BatchCounts) -> None:
        """Records the numbers of the steps of one call, from step `first`; `counts` are of all of them together. Raises
        Diverged if one of their sums is not a number."""
        for step, sums in enumerate(sums_N, first):
            if not all(map(math.isfinite, sums)):
                raise Diverged(step)
        self.counters.add(counts)
        self.meter.done(len(sums_N))
        for step, sums in enumerate(sums_N, first):
            self.counters.target_items += int(sums.clicked_items)
            self.log.add(step, optim.learning_rate(self.config.optim, step, self.steps), sums, self.meter.window)


def _refuse_another_run(progress: dict[str, Any], config: Config, run_dir: Path) -> None:
    if (there := run_id(from_dict(progress["config"], f"a checkpoint in {run_dir}"))) != run_id(config):
        raise InputError(
            f"{run_dir}: its checkpoints are those of run {there}, its config.json that of run {run_id(config)}; they "
            "were brought together from two folders. Put the right checkpoints back, or use another --out."
        )


class Lanes:
    """The way of each run's arrays into its lane and out of it."""

    def __init__(self, spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh, runs: int):
        self.mesh, self._runs = mesh, runs
        self._stack, self._take = _programs(spec, optimizer, mesh)

    def put_states(self, by_lane: Sequence[State]) -> State:
        """Returns one state for a step of `make_step(..., runs=)`."""
        return by_lane[0] if self._runs == 1 else self._stack(by_lane)

    def state(self, state: State, lane: int) -> State:
        """Returns one run's state, laid out like that of a single run: a copy if there are several runs."""
        return state if self._runs == 1 else self._take(state, put_replicated(np.int32(lane), self.mesh))

    def put_keys(self, seeds: Sequence[int]) -> jax.Array:
        """Returns the root of each run's randomness."""
        keys = [root_key(seed) for seed in seeds]
        return put(keys[0] if self._runs == 1 else jnp.stack(keys), replicated(self.mesh))

    def put_scalars(self, by_lane: Sequence[Scalars]) -> Scalars:
        stacked = by_lane[0] if self._runs == 1 else jax.tree.map(lambda *x: np.stack(x), *by_lane)
        return put_replicated(stacked, self.mesh)

    def read_sums(self, sums: Sums, steps: int) -> list[list[Sums]]:
        """Waits for the sums of a call; returns those of each run and step as Python floats."""
        by_run = np.stack(jax.device_get(sums), -1).reshape(self._runs, -1, len(Sums._fields))
        return [[Sums(*values) for values in by_step] for by_step in by_run[:, :steps].tolist()]


@functools.lru_cache(maxsize=16)
def _programs(spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """Returns two jitted functions: states of single runs -> one with lanes, and (that one, lane) -> a single run's."""
    places = shardings(mesh, spec.model, abstract_state(spec, optimizer))
    stack = jax.jit(
        lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states),
        out_shardings=jax.tree.map(side_by_side, places),
    )
    take = jax.jit(lambda state, lane: jax.tree.map(lambda x: x[lane], state), out_shardings=places)
    return stack, take


class Crew:
    """The members of one loop. Use it as a context: leaving it waits for their checkpoints.

    A member leaves the training at its end or when it diverges. From then on its lane gets another member's batch, and
    the result is ignored.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Config, Path]],
        feed: Feed,
        *,
        lanes: Lanes,
        vote: StopVote,
        diverged: Callable[[int, Diverged], None],
        parts: Sequence[float],
    ):
        """`feed` makes the batches of every run, with the run's own seed. `diverged(index, error)` is called as soon as
        a run diverges. Each run stops when its part of the steps is done, 1 for all."""
        self.members = [
            Member(config, run_dir, feed, lane, part)
            for lane, ((config, run_dir), part) in enumerate(zip(runs, parts, strict=True))
        ]
        self.keys = lanes.put_keys([config.train.seed for config, _ in runs])
        self._most_steps = feed.most_steps
        self._lanes, self._vote, self._diverged = lanes, vote, diverged
        counted_G = shards_here(lanes.mesh)[1]
        self._counted_G = counted_G.repeat(runs[0][0].train.microbatches)
        self._posted: list[tuple[Member, int, Any]] = []
        """The members that take a step, the number of the step for each, and what `StopVote.post` returned."""
        self._unread: tuple[Sums, int, list[tuple[Member, int, Any]]] | None = None
        """The call that the devices may still be working on: its sums, its steps, and `_posted` for it."""

    def __enter__(self) -> Crew:
        with ExitStack() as opened:
            for member in self.members:
                opened.enter_context(member.checkpoints)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._opened.__exit__(*raised)

    def begin(self, initial_state: Callable[[Config], State]) -> State:
        """Returns the state to go on from. Raises InputError if a member has checkpoints and none is usable."""
        devices, runs = self._lanes.mesh.local_devices, len(self.members)
        return self._lanes.put_states(
            [member.begin(initial_state(member.config), devices, runs) for member in self.members]
        )

    @property
    def training(self) -> list[Member]:
        """The members that have neither ended nor diverged."""
        return [member for member in self.members if member.is_training]

    @property
    def position(self) -> str:
        return ", ".join(f"at step {member.step} of {member.steps}" for member in self.training)

    def state_of(self, member: Member, state: State) -> State:
        """Returns one member's part of `state`."""
        return self._lanes.state(state, member.lane)

    def end_finished(self, state: State) -> None:
        """Lets the members that are at their end leave the training with their final state."""
        for member in self.training:
            if member.is_at_its_end:
                member.is_training, member.final_state = False, self.state_of(member, state)

    def steps_of_call(self) -> int:
        """Returns the number of steps of the next call: as many as the feed can take up to the next pause of a member,
        and not many more than the devices take in _SECONDS_OF_CALL, so that a signal to stop is not left waiting.

        Several processes must agree, so they do not look at the clock.
        """
        most = min(self._most_steps, *(member.steps_to_pause() for member in self.training))
        if most == 1 or is_multiprocess():
            return min(most, _STEPS_OF_SEVERAL_PROCESSES)
        seconds = max(member.meter.step_seconds for member in self.training)
        return max(1, min(most, int(_SECONDS_OF_CALL / seconds)))

    def next_batches(self, steps: int) -> list[Any]:
        """Waits for the batches of the next `steps` steps and posts their counts; returns them for each lane."""
        training = self.training
        with _all(member.meter.input() for member in training):
            batches = {member.lane: member.batches.take(steps) for member in training}
        self._posted = [
            (member, member.step, self._vote.post(batches[member.lane].counts(self._counted_G))) for member in training
        ]
        return [batches.get(member.lane, batches[training[0].lane]) for member in self.members]

    def scalars(self, steps: int) -> Scalars:
        """Returns the scalars of the next `steps` steps; a lane without a run gets those of the first member in
        training. If a call can take several steps, they have an axis of all that it can take, filled up with the last.
        """
        members = [member if member.is_training else self.training[0] for member in self.members]
        if self._most_steps == 1:
            return self._lanes.put_scalars([member.scalars(member.step) for member in members])
        places = np.minimum(np.arange(self._most_steps), steps - 1)

        def stacked(member: Member) -> Scalars:
            by_step = [member.scalars(member.step + n) for n in range(steps)]
            return jax.tree.map(lambda *x: np.stack(x)[places], *by_step)

        return self._lanes.put_scalars([stacked(member) for member in members])

    @contextmanager
    def dispatch(self, step: int) -> Iterator[None]:
        """Times the call of the step, for the meters and for a trace."""
        with (
            _all(member.meter.dispatch() for member in self.training),
            jax.profiler.StepTraceAnnotation("train", step_num=step),
        ):
            yield

    def took_steps(self, sums: Sums, steps: int) -> None:
        """Reads the sums of the call before, while the devices work on this one; its own `sums` are read next time."""
        self.read_sums()
        self._unread = sums, steps, self._posted
        for member, _, _ in self._posted:
            member.step += steps

    def read_sums(self) -> None:
        """Waits for the call that was dispatched last, and records its numbers."""
        if self._unread is None:
            return
        (sums, steps, posted), self._unread = self._unread, None
        by_lane = self._lanes.read_sums(sums, steps)
        for member, step, handle in posted:
            counts = self._vote.collect(handle)
            if not member.is_training:  # it diverged one step earlier, when this one was dispatched already
                continue
            try:
                member.add_steps(step, by_lane[member.lane], counts)
            except Diverged as error:
                member.is_training = False
                self._diverged(member.lane, error)


@contextmanager
def _all(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as opened:
        for context in contexts:
            opened.enter_context(context)
        yield
