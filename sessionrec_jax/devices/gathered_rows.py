"""The part of the catalogue that one step reads: its rows taken out of the tables, and put back.

A step of a sampled loss reads the items of its batch and the negatives, each many times. Taken out once, in ascending
order, they are a catalogue of their own: the model and the losses run on it as on any other, the gradient comes with
one row an item, and the cost of a step does not grow with the catalogue. Of tables that are sharded by rows, ids are
sent and rows come back; no table is ever gathered. A catalogue smaller than what a step may read is read whole.

Where rare items share rows of the ID table, those rows are taken out once too, and each item of the part gets a copy:
the model knows of no sharing. Only where the catalogue is read whole is there a copy for each of its items, and may the
ID table be sent.

Letters: M rows taken out, V rows of a table, G shards, T items, N negatives, S session slots, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.data.catalogue import ID_ROW
from sessionrec_jax.devices.mesh import BATCH_AXES, TABLE_AXIS, local_places, log_sum_of_rows
from sessionrec_jax.devices.sharding import is_table, row_specs
from sessionrec_jax.loss.negatives import Negatives
from sessionrec_jax.loss.retrieval import Rows, catalogue_log_sum
from sessionrec_jax.loss.targets import Targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params, Queries, Spec

ID_TABLE = "item_table"
PAST = 2**31 - 1
"""Of no item: what fills up `item_M`."""


class Read(NamedTuple):
    """What model and losses see of the catalogue in one step; ids are places among the rows read."""

    spec: Spec
    params: Params
    side: Side
    log_q_V: Array | None
    item_GT: Int[Array, "G T"]
    negatives: Negatives | None


class Reading(NamedTuple):
    """Which rows a step reads, and where the batch's items and the negatives stand among them."""

    spec: Spec
    mesh: jax.sharding.Mesh
    item_M: Int[Array, " M"] | None
    """Ascending from 0, the padding; filled up with PAST. None: the catalogue is read whole."""
    item_GT: Int[Array, "G T"]
    negatives: Negatives | None
    """Their item_N is M for the fill."""
    id_row_M: Int[Array, " M"] | None
    """Rows of the ID table that the items read share, as item_M; None: each item has its own."""
    id_place_M: Int[Array, " M"] | None
    """Place of each item's row among them."""

    @classmethod
    def of(
        cls, spec: Spec, mesh: jax.sharding.Mesh, item_GT: Int[Array, "G T"], negatives: Negatives | None, side: Side
    ) -> Reading:
        """The distinct items of a step. Under a sharded full softmax these are the batch's own: the sum over the
        catalogue is `full_log_sum`'s."""
        drawn = 0 if negatives is None else len(negatives.item_N)
        size = 1 + item_GT.size + drawn
        is_full = negatives is None and mesh.shape[TABLE_AXIS] == 1
        if is_full or size >= spec.ids:
            return cls(spec, mesh, None, item_GT, negatives, None, None)
        drawn_N = jnp.zeros(0, jnp.int32) if negatives is None else negatives.item_N.astype(jnp.int32)
        is_item_N = drawn_N < spec.ids
        every_X = jnp.concatenate([jnp.zeros(1, jnp.int32), item_GT.reshape(-1), jnp.where(is_item_N, drawn_N, 0)])
        item_M = jnp.unique(every_X, size=size, fill_value=PAST)
        place_X = jnp.searchsorted(item_M, every_X).astype(jnp.int32)
        place_GT = place_X[1 : 1 + item_GT.size].reshape(item_GT.shape)
        if negatives is not None:
            place_N = jnp.where(is_item_N, place_X[1 + item_GT.size :], size)
            negatives = Negatives(place_N, negatives.times_N)
        if not spec.id_rows:
            return cls(spec, mesh, item_M, place_GT, negatives, None, None)
        shared_M = _rows(mesh, side[ID_ROW], item_M)[:, 0]
        id_row_M = jnp.unique(shared_M, size=size, fill_value=PAST)
        id_place_M = jnp.searchsorted(id_row_M, shared_M).astype(jnp.int32)
        return cls(spec, mesh, item_M, place_GT, negatives, id_row_M, id_place_M)

    def read(self, part: Params, side: Side, log_q_V: Array | None) -> Read:
        """With `part`, parameters from `take`. `log_q_V`: only a loss wants it."""
        spec = self.spec
        if self.item_M is None:
            spec, part = with_own_rows(spec, self.mesh, part, side)
        else:
            if self.id_place_M is not None:
                part = _with_id_table(part, lambda table_ME: table_ME[self.id_place_M])
            spec = spec._replace(ids=len(self.item_M), extra_rows=0, id_rows=0)
            side = jax.tree.map(lambda code_VW: _rows(self.mesh, code_VW, self.item_M), side)
            if log_q_V is not None:
                log_q_V = log_q_V.at[self.item_M].get(mode="fill", fill_value=0.0)
        return Read(spec, part, side, log_q_V, self.item_GT, self.negatives)

    def take(self, tree: Any) -> Any:
        """`tree` with the rows read in the place of each table; rows past the catalogue are zero."""
        if self.item_M is None:
            return tree
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _rows(self.mesh, leaf, self._rows_of(path)) if is_table(path) else leaf, tree
        )

    def put(self, tree: Any, part: Any) -> Any:
        """`tree` with `part`, a tree like one from `take`, in the rows that were read; leaves that are no tables are
        those of `part`."""
        if self.item_M is None:
            return part

        def back(path: tuple[Any, ...], table: Array, rows_M: Array) -> Array:
            return _with_rows(self.mesh, table, rows_M, self._rows_of(path)) if is_table(path) else rows_M

        return jax.tree_util.tree_map_with_path(back, tree, part)

    def _rows_of(self, path: tuple[Any, ...]) -> Int[Array, " M"]:
        return self.item_M if self.id_row_M is None or path[-1].key != ID_TABLE else self.id_row_M


def with_own_rows(spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side) -> tuple[Spec, Params]:
    """Parameters with a row of the ID table for every item, laid out as all item tables are: a copy where items share
    rows. Its gradient adds up."""
    if not spec.id_rows:
        return spec, params
    by_row = NamedSharding(mesh, PartitionSpec(TABLE_AXIS))

    def own(table: Array) -> Array:
        return jax.lax.with_sharding_constraint(table[side[ID_ROW][:, 0]], by_row)

    return spec._replace(id_rows=0), _with_id_table(params, own)


def _with_id_table(params: Params, change: Callable[[Array], Array]) -> Params:
    embedding = params["item_embedding"]
    return params | {"item_embedding": embedding | {ID_TABLE: change(embedding[ID_TABLE])}}


def full_log_sum(
    spec: Spec,
    loss: Loss,
    mesh: jax.sharding.Mesh,
    params: Params,
    side: Side,
    queries_GSD: Float[Array, "G S D"],
    item_GT: Int[Array, "G T"],
    wanted_G: Targets,
) -> Float[Array, "G S"]:
    """`catalogue_log_sum` over the whole catalogue, of every shard: of tables sharded by rows each device sums its own,
    and only the sums travel."""

    spec, params = with_own_rows(spec, mesh, params, side)

    def of_rows(params: Params, side: Side, first: Any, *batch_G: Any) -> Array:
        rows = rows_of(spec, params, side, first)
        return jax.vmap(lambda *batch: catalogue_log_sum(loss, *batch, rows))(*batch_G)

    if mesh.shape[TABLE_AXIS] == 1:
        return of_rows(params, side, 0, queries_GSD, item_GT, wanted_G)

    def of_device(params: Params, side: Side, *batch_G: Any) -> Array:
        first = jax.lax.axis_index(TABLE_AXIS) * len(params["heads"]["item_bias"])
        # the gradient of what all devices have is a sum over them; `model.linear` leaves it to this cast
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: x if is_table(path) else jax.lax.pcast(x, TABLE_AXIS, to="varying"), params
        )
        return log_sum_of_rows(of_rows(params, side, first, *batch_G))

    by_row, by_shard = PartitionSpec(TABLE_AXIS), PartitionSpec(BATCH_AXES)
    specs = (row_specs(params), by_row, by_shard, by_shard, by_shard)
    return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=by_shard)(
        params, side, queries_GSD, item_GT, wanted_G
    )


def rows_of(spec: Spec, params: Params, side: Side, first: Int[Array, ""] | int) -> Rows:
    """The part of the catalogue that `params` and `side` have the rows of, from item `first` on."""
    bias_R = params["heads"]["item_bias"]
    part = spec._replace(ids=len(bias_R), extra_rows=0)
    return Rows(lambda place_N: sessionrec.embed(part, params, place_N, side), bias_R, first, spec.ids)


def encoded(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, inputs: Inputs, side: Side
) -> tuple[Float[Array, "G T D"], Queries]:
    """`sessionrec.apply` for every shard, without a gradient."""
    reading = Reading.of(spec, mesh, inputs.item_T, None, side)
    read = reading.read(reading.take(params), side, None)
    apply = functools.partial(sessionrec.apply, read.spec, read.params)
    return jax.vmap(lambda inputs: apply(inputs, read.side))(inputs._replace(item_T=read.item_GT))


def _rows(mesh: jax.sharding.Mesh, table: Array, item_M: Int[Array, " M"]) -> Array:
    """The rows `item_M` of an array with a row an item; zero past its end."""

    def rows(table: Array, place_M: Array) -> Array:
        return table.at[place_M].get(mode="fill", fill_value=0)

    def of_device(table: Array, item_M: Array) -> Array:
        return jax.lax.psum(rows(table, local_places(item_M, len(table))), TABLE_AXIS)

    if mesh.shape[TABLE_AXIS] == 1:
        return rows(table, item_M)
    by_row, whole = PartitionSpec(TABLE_AXIS), PartitionSpec()
    return jax.shard_map(of_device, mesh=mesh, in_specs=(by_row, whole), out_specs=whole)(table, item_M)


def _with_rows(mesh: jax.sharding.Mesh, table: Array, rows_M: Array, item_M: Int[Array, " M"]) -> Array:
    """`table` with other rows `item_M`; those past its end are dropped."""

    def set_rows(table: Array, rows_M: Array, place_M: Array) -> Array:
        return table.at[place_M].set(rows_M.astype(table.dtype), mode="drop")

    def of_device(table: Array, rows_M: Array, item_M: Array) -> Array:
        return set_rows(table, rows_M, local_places(item_M, len(table)))

    if mesh.shape[TABLE_AXIS] == 1:
        return set_rows(table, rows_M, item_M)
    by_row, whole = PartitionSpec(TABLE_AXIS), PartitionSpec()
    return jax.shard_map(of_device, mesh=mesh, in_specs=(by_row, whole, whole), out_specs=by_row)(table, rows_M, item_M)
