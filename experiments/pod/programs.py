"""The programs of a run, compiled on shapes alone: each argument has the shape, type and sharding that training gives
it, and no array is made.

Letters: G shards, R rows, L session slots, T item slots of a shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from experiments.pod.hlo import Part
from experiments.pod.job import Job
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.batches import BatchShape, shape_of
from sessionrec_jax.data.windows import roomy
from sessionrec_jax.devices.mesh import batch_shards, by_row, make_mesh, over_batch, replicated
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.evaluation import catalogue_ranks, measure, scoring
from sessionrec_jax.loss.negatives import Proposal
from sessionrec_jax.model import count
from sessionrec_jax.model.spec import Spec, extra_rows
from sessionrec_jax.training.step import FixedArrays, Scalars, abstract_state, initialiser, make_step

_FEEDBACK_KINDS = 2


class Programs:
    """The lowered programs of one job. Raises InputError if the mesh or the batch does not fit the devices."""

    def __init__(self, job: Job, devices: Sequence[Any]):
        config = program_of(job.config)
        self.mesh = make_mesh(config.mesh, devices)
        self.config = _with_batch(config, job, batch_shards(self.mesh))
        self.batch: BatchShape = shape_of(self.config, batch_shards(self.mesh))
        shapes = job.shapes
        self.spec = Spec(
            model=config.model,
            ids=shapes.items + 1,
            side_values=tuple((f"side_{n}", values) for n, values in enumerate(shapes.side_values)),
            feedback_kinds=_FEEDBACK_KINDS,
            max_positions=config.data.sessions_per_row,
            session_items=shapes.longest_session if config.paradigm == "nspp" else 1,
            extra_rows=extra_rows(shapes.items + 1),
        )

    def lower(self, name: str) -> jax.stages.Lowered:
        """Lowers one of `job.PROGRAMS`."""
        lowered: dict[str, Callable[[], jax.stages.Lowered]] = {
            "step": self._step,
            "initial state": self._initial_state,
            "item table": self._item_table,
            "evaluation": self._evaluation,
            "catalogue ranks": self._catalogue_ranks,
        }
        return lowered[name]()

    @property
    def table(self) -> Part:
        """A device's part of the ID table, in float32."""
        rows = self.spec.rows // (self.mesh.size if self.spec.rows % self.mesh.size == 0 else self.mesh.shape["model"])
        return Part(rows, 4.0 * max(self.spec.model.id_width, 1) * rows)

    @property
    def state_bytes(self) -> int:
        """Bytes of a device's part of parameters and optimizer state."""
        leaves = jax.tree.leaves(self._state)
        return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)

    @property
    def flops(self) -> float:
        """Training FLOPs of a step in closed form (model/count.py), all devices together, every slot filled."""
        rows = self.config.data.rows
        items, sessions = rows * self.config.data.items_per_row, rows * self.config.data.sessions_per_row
        return count.flops_train(self.spec, self.config.loss, items=items, sessions=sessions, steps=1)

    def _step(self) -> jax.stages.Lowered:
        microbatches = self.config.train.microbatches
        step = make_step(self.spec, self.config.loss, self.config.optim, self.mesh, microbatches=microbatches)
        scalars = Scalars(self._whole((), jnp.float32), self._whole((), jnp.float32))
        fixed = FixedArrays(self._side, self._proposal)
        inputs = self._inputs(microbatches, self.config.loss.rank_labels == "probability")
        return step.lower(self._state, inputs, fixed, key=self._key, scalars=scalars)

    def _initial_state(self) -> jax.stages.Lowered:
        biases = {name: self._whole((), jnp.float32) for name in ("rank_bias",)}
        biases["item_bias"] = self._whole((self.spec.rows,), jnp.float32)
        return initialiser(self.spec, self.config.optim, self.mesh).lower(self._key, biases)

    def _item_table(self) -> jax.stages.Lowered:
        return scoring.item_table.lower(self.spec.in_float32, self.mesh, self._state.params, self._side)

    def _evaluation(self) -> jax.stages.Lowered:
        spec, mesh = self.spec.in_float32, self.mesh
        return measure._score.lower(
            spec,
            self.config.loss.rank,
            mesh,
            self._state.params,
            table=self._item_rows,
            side=self._side,
            inputs=self._inputs(),
        )

    def _catalogue_ranks(self) -> jax.stages.Lowered:
        pairs = None
        if self.config.data.eval_seen == "masked":
            pairs = (self._by_shard(scoring.PAIRS),) * 2
        queries, items = catalogue_ranks.QUERIES, scoring.ITEMS_AT_ONCE
        query = self._by_shard(queries, self.spec.model.width, dtype=jnp.float32)
        item, least = (self._by_shard(queries, items, dtype=dtype) for dtype in (jnp.int32, jnp.float32))
        return catalogue_ranks._ranks.lower(self.mesh, self._item_rows, query, item, least, pairs)

    @property
    def _item_rows(self) -> scoring.ItemTable:
        spread = by_row(self.mesh, self.spec.rows)
        return scoring.ItemTable(
            _placed((self.spec.rows, self.spec.model.width), jnp.float32, spread),
            _placed((self.spec.rows,), jnp.float32, spread),
        )

    @cached_property
    def _state(self) -> Any:
        state = abstract_state(self.spec, self.config.optim)
        places = shardings(self.mesh, self.spec.model, state)
        return jax.tree.map(lambda x, at: _placed(x.shape, x.dtype, at), state, places)

    @property
    def _key(self) -> jax.ShapeDtypeStruct:
        key = jax.eval_shape(lambda: jax.random.key(0))
        return self._whole(key.shape, key.dtype)

    @property
    def _side(self) -> dict[str, jax.ShapeDtypeStruct]:
        spread = by_row(self.mesh, self.spec.rows)
        return {name: _placed((self.spec.rows, 1), jnp.int32, spread) for name, _ in self.spec.side_values}

    @property
    def _proposal(self) -> Proposal:
        rows, spread = self.spec.rows, by_row(self.mesh, self.spec.rows)
        first = None if self.config.loss.negatives_from == "in_batch" else _placed((rows,), jnp.uint32, spread)
        return Proposal(_placed((rows,), jnp.float32, spread), first)

    def _inputs(self, microbatches: int = 1, soft: bool = False) -> ShardedInputs:
        rows, slots = self.batch.rows, self.batch.sessions_per_row
        items = rows * self.batch.items_per_row

        def of(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return self._by_shard(*shape, dtype=dtype, microbatches=microbatches)

        return ShardedInputs(
            of(items), of(items, dtype=jnp.int8), of(items), *[of(rows, slots)] * 3,
            target_GS=of(rows * slots, dtype=jnp.bool_),
            click_probability_GT=of(items, dtype=jnp.float32) if soft else None,
        )  # fmt: skip

    def _by_shard(self, *shape: int, dtype: Any = jnp.int32, microbatches: int = 1) -> jax.ShapeDtypeStruct:
        shards = batch_shards(self.mesh) * microbatches
        return _placed((shards, *shape), dtype, over_batch(self.mesh))

    def _whole(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return _placed(shape, dtype, replicated(self.mesh))


def _with_batch(config: Config, job: Job, shards: int) -> Config:
    """Returns the Config with the shape of the batch, which a prepared log would decide."""
    data, shapes = config.data, job.shapes
    slots = data.sessions_per_row
    of_log = roomy(slots * shapes.exposures_per_session) if config.paradigm == "nspp" else slots
    per_row = data.items_per_row or of_log
    rows = data.rows or shapes.rows_per_shard * shards
    return replace(config, data=replace(data, rows=rows, items_per_row=per_row))


def _placed(shape: Sequence[int], dtype: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=place)
