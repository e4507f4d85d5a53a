"""One of the runs that a loop trains, alone or side by side: its folder, where it stands, what it has seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, run_id, to_dict
from sessionrec_jax.data.batches import Batch, BatchCounts, Batches, Packer
from sessionrec_jax.devices.processes import is_process_zero
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import MetricsLog
from sessionrec_jax.runfolder.history import Best, Counters
from sessionrec_jax.training import optim
from sessionrec_jax.training.checkpoint import Checkpoints
from sessionrec_jax.training.meter import Meter
from sessionrec_jax.training.step import Scalars, State


class Diverged(RuntimeError):
    """The loss stopped being a number."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not a number at step {step}; lower --optim.learning-rate-peak")
        self.step = step


class Member:
    """A context: leaving it waits for the run's checkpoints."""

    def __init__(self, config: Config, run_dir: Path, packer: Packer, lane: int):
        self.config, self.run_dir, self.lane = config, run_dir, lane
        self.counters, self.best = Counters(), None
        self.step, self.steps = 0, len(packer)
        """Where it stands: the steps that it has taken, or that it is told to take next; and those of the whole run."""
        self.is_training = True
        """Neither at its end nor diverged."""
        self._batches, self._validated_step = Batches(packer), 0
        self._prior = config.optim.table_prior / (2 * packer.windows.target_sessions)
        self._checkpoints = Checkpoints(run_dir / "checkpoints", config.train.checkpoints_kept)

    def __enter__(self) -> Member:
        self._checkpoints.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpoints.__exit__(kind, error, trace)

    def begin(self, state: State, devices: Sequence[Any], runs: int) -> State:
        """The state to go on from: that of the newest whole checkpoint, or `state`, which it is laid out as.

        `runs`: that train side by side in this life. Raises InputError where there are checkpoints and none is usable.
        """
        log_sums: Sequence[float] = ()
        if (found := self._checkpoints.restore(state)) is not None:
            state, progress = found
            _refuse_another_run(progress, self.config, self.run_dir)
            self._batches.set_state(progress["data"])
            self.counters, log_sums = Counters(**progress["counters"]), progress["log_sums"]
            self.best, self._validated_step = progress["best"] and Best(*progress["best"]), progress["validated_step"]
        self.step = self._begun = int(state.step)
        self.counters.runs_together = max(self.counters.runs_together, runs)
        self._seconds_before = self.counters.wall_seconds
        log_path = self.run_dir / "metrics.jsonl" if is_process_zero() else None
        self.log = MetricsLog(log_path, self.step, self.steps, self.config.train.log_every_steps, log_sums)
        self.meter = Meter(self.counters, devices)
        return state

    @property
    def is_at_its_end(self) -> bool:
        return self.step == self.steps

    @property
    def validation_is_due(self) -> bool:
        """Here, after `step` steps: validations are evenly spread, and the last one comes at the end."""
        each, step = self.config.train.validations, self.step
        is_due = step * each // self.steps > (step - 1) * each // self.steps
        return is_due and step > self._validated_step

    def save_if_moved(self, state: State, loop_seconds: float) -> None:
        """`save`, unless it stands where this life began; its log has all its steps when it is at its end."""
        if self.step == self._begun:
            return
        if self.is_at_its_end:
            self.log.close()
        self.save(state, loop_seconds)

    def save(self, state: State, loop_seconds: float) -> None:
        """`loop_seconds`: of this life. Raises NotSaved where this checkpoint, or one before, cannot be written."""
        self.counters.wall_seconds = self._seconds_before + loop_seconds
        progress = {
            "config": to_dict(self.config),
            "data": self._batches.get_state(),
            "counters": dataclasses.asdict(self.counters),
            "log_sums": self.log.sums,
            "best": self.best,
            "validated_step": self._validated_step,
        }
        self._checkpoints.save(self.step, state, progress, self.best and self.best.step)

    def validated(self, values: dict[str, float | None]) -> None:
        """What `evaluate.validated` tells of the parameters that stand here."""
        self.log.add_validation(self.step - 1, values)
        self._validated_step, objective = self.step, values["validation_objective"]
        if objective is not None and (self.best is None or objective < self.best.objective):
            self.best = Best(self.step, objective)

    def next_batch(self) -> Batch:
        return next(self._batches)

    def scalars(self) -> Scalars:
        """Of the step to take next."""
        return Scalars(
            np.float32(optim.learning_rate(self.config.optim, self.step, self.steps)), np.float32(self._prior)
        )

    def read(self, step: int, sums: tuple[float, ...], counts: BatchCounts) -> None:
        """What a step gave: its Sums, and `Batch.counts` of its batch. Raises Diverged where a sum is no number."""
        if not all(map(math.isfinite, sums)):
            raise Diverged(step)
        self.counters.target_items += int(sums[1])
        self.counters.add(counts)
        self.meter.done()
        self.log.add(step, optim.learning_rate(self.config.optim, step, self.steps), sums, self.meter.window)


def _refuse_another_run(progress: dict[str, Any], config: Config, run_dir: Path) -> None:
    if (there := run_id(from_dict(progress["config"], f"a checkpoint in {run_dir}"))) != run_id(config):
        raise InputError(
            f"{run_dir}: its checkpoints are those of run {there}, its config.json that of run {run_id(config)}; they "
            "were brought together from two folders. Put the right checkpoints back, or use another --out."
        )
