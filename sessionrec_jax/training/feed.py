"""The feed of a run gives it batches: packed from the log, or drawn on the device inside the step."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.batches import Batch, BatchCounts, Batches, Packer, shape_of, train_packer
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.device import Draw, process_tables
from sessionrec_jax.data.synthetic.known import dense_ids, known_truth
from sessionrec_jax.devices.mesh import batch_shards, shards_here
from sessionrec_jax.devices.placement import ShardedInputs, put_batches, put_proposal, put_replicated, put_side
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.loss.session import Sums
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.training.fresh_step import MOST_STEPS, FreshArrays, make_fresh_steps
from sessionrec_jax.training.step import FixedArrays, Program, Scalars, State, make_step


class Stream(ABC):
    """The batches of a run, in order. `get_state` can be written as JSON, and `set_state` goes back to it."""

    @abstractmethod
    def take(self, steps: int) -> Any:
        """Waits for the batches of the next `steps` steps."""

    @abstractmethod
    def get_state(self) -> dict[str, Any]: ...

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None: ...


class Feed(ABC):
    """The members that the loop and its crew use, of either kind of feed."""

    most_steps: int
    """Steps of one call at most."""
    program: Any
    """The jitted step: `(state, inputs, fixed, *, key, scalars) -> (state, sums)`."""
    fixed: Any
    """Arrays that every step reads and none changes."""

    @property
    @abstractmethod
    def target_sessions(self) -> int:
        """Targets of one pass over the data."""

    @abstractmethod
    def steps_of(self, seed: int) -> int:
        """Returns the steps of a run with this seed."""

    @abstractmethod
    def stream(self, seed: int) -> Stream:
        """Returns the batches of a run with this seed, from its first step."""

    @abstractmethod
    def inputs(self, batches: Sequence[Any]) -> Any:
        """Puts the batches of each run on the devices."""

    def take_steps(
        self, state: State, batches: Sequence[Any], *, key: jax.Array, scalars: Scalars
    ) -> tuple[State, Sums]:
        """Calls the compiled step with the batches of each run."""
        return self.program(state, self.inputs(batches), self.fixed, key=key, scalars=scalars)


def feed_of(
    config: Config, log: Prepared, catalogue: Catalogue, spec: Spec, *, mesh: jax.sharding.Mesh, runs: int
) -> Feed:
    """Returns the feed of a resolved `config`, for `runs` runs side by side. Raises InputError if it cannot be made."""
    make = PackedFeed.of if config.data.fresh == "no" else FreshFeed.of
    return make(config, log, catalogue, spec, mesh=mesh, runs=runs)


class PackedStream(Batches, Stream):
    """The batches of a packer, one at a time."""

    def take(self, steps: int) -> Batch:
        assert steps == PackedFeed.most_steps
        return next(self)


@dataclass(frozen=True)
class PackedFeed(Feed):
    """Batches that Grain packs from the log. A call of the step takes one of each run."""

    packer: Packer
    mesh: jax.sharding.Mesh
    program: Any
    fixed: FixedArrays
    most_steps: int = 1

    @classmethod
    def of(
        cls, config: Config, log: Prepared, catalogue: Catalogue, spec: Spec, *, mesh: jax.sharding.Mesh, runs: int
    ) -> PackedFeed:
        packer = train_packer(config, log, shape_of(config, batch_shards(mesh), shards_here(mesh)[0]))
        optimizer, microbatches = program_of(config).optim, config.train.microbatches
        step = make_step(spec, config.loss, optimizer, mesh, microbatches=microbatches, runs=runs)
        fixed = FixedArrays(
            side=put_side(catalogue.side, spec.rows, mesh),
            proposal=put_proposal(proposal(config.loss, catalogue), spec.rows, mesh),
        )
        return cls(packer, mesh, step, fixed)

    def steps_of(self, seed: int) -> int:
        return len(self._packer_of(seed))

    @property
    def target_sessions(self) -> int:
        return self.packer.windows.target_sessions

    def stream(self, seed: int) -> PackedStream:
        return PackedStream(self._packer_of(seed))

    @functools.cached_property
    def _packer_of(self) -> Any:
        """A function from the seed to its packer: runs of one seed share the packed epochs."""
        return functools.cache(lambda seed: dataclasses.replace(self.packer, seed=seed))

    def inputs(self, batches: Sequence[Batch]) -> ShardedInputs:
        return put_batches(batches, self.mesh)


@dataclass(frozen=True)
class FreshBatches:
    """The sessions of some steps, which are drawn when the steps are taken."""

    steps: int
    rows: int
    history: int
    shards: int

    def counts(self, counted_G: np.ndarray) -> BatchCounts:
        """Counts the shards of this process."""
        sessions = self.steps * self.rows * self.history * int(counted_G.sum()) // self.shards
        return BatchCounts(sessions, sessions, sessions, sessions, sessions)


class FreshStream(Stream):
    """The batches of the next steps. Its state is the number of steps taken."""

    def __init__(self, one: FreshBatches):
        self._one, self._next = one, 0

    def take(self, steps: int) -> FreshBatches:
        self._next += steps
        return dataclasses.replace(self._one, steps=steps)

    def get_state(self) -> dict[str, Any]:
        return {"next_step": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next = state["next_step"]


@dataclass(frozen=True)
class FreshFeed(Feed):
    """Sessions of a known process, drawn inside the step (data/synthetic/device.py). A call takes many steps."""

    one: FreshBatches
    steps: int
    mesh: jax.sharding.Mesh
    program: Any
    fixed: FreshArrays
    most_steps: int = MOST_STEPS

    @classmethod
    def of(
        cls, config: Config, log: Prepared, catalogue: Catalogue, spec: Spec, *, mesh: jax.sharding.Mesh, runs: int
    ) -> FreshFeed:
        """Raises InputError for a log that no known process made, or whose model reads the context of sessions."""
        truth = known_truth(log)
        if truth is None:
            raise InputError(
                f"--data.fresh is {config.data.fresh}, but {log.path} was not made by a known process; use a log of "
                "`sessionrec prepare synthetic`, or --data.fresh no"
            )
        if spec.context_values:
            raise InputError("--data.fresh draws no session context; use --data.session-context none")
        shards, rows, history = batch_shards(mesh), config.data.rows, config.data.slots - 1
        shape_of(config, shards)  # raises if the rows do not spread over the devices
        tables = process_tables(truth, dense_ids(log, truth.process.item_count))
        program = Program(spec, config.loss, program_of(config).optim, mesh, microbatches=1)
        fixed = FreshArrays(
            side=put_side(catalogue.side, spec.rows, mesh),
            tables=put_replicated(tables, mesh),
        )
        how = Draw(truth.process, rows=rows, history=history, labels=config.data.fresh)
        steps = make_fresh_steps(program, how, runs=runs)
        return cls(FreshBatches(1, rows, history, shards), config.data.fresh_steps, mesh, steps, fixed)

    def steps_of(self, seed: int) -> int:
        del seed  # every run has as many
        return self.steps

    @property
    def target_sessions(self) -> int:
        return self.steps * self.one.rows * self.one.history

    def stream(self, seed: int) -> FreshStream:
        del seed  # the run's key has it
        return FreshStream(self.one)

    def inputs(self, batches: Sequence[FreshBatches]) -> jax.Array:
        return put_replicated(np.int32(batches[0].steps), self.mesh)
