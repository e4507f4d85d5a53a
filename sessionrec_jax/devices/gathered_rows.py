"""The part of the catalogue that one step reads: its rows are gathered from the tables, and scattered back.

A step of a sampled loss reads the items of its batch and the negatives, each many times. Gathered once, in ascending
order, they are a small catalogue of their own: the model and the losses run on it as on any other, the gradient has one
row per item, and the cost of a step does not grow with the catalogue. If tables are sharded by rows, ids are sent and
rows come back; no device ever gets a whole table. A catalogue that is smaller than what a step may read is read whole.

Rare items may share rows of the ID table. The shared rows are gathered once too, and each gathered item gets a copy, so
that the model does not know about sharing. Only if the catalogue is read whole does every item get a copy, and may the
ID table be sent.

Letters: M gathered rows, V rows of a table, G shards, T items, N negatives, S session slots, D width.
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
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.devices.sharding import is_table, row_specs
from sessionrec_jax.loss.negatives import Negatives
from sessionrec_jax.loss.retrieval import CatalogueRows, catalogue_log_sum
from sessionrec_jax.loss.targets import Targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Queries, Spec

ID_TABLE = "item_table"
PAST = 2**31 - 1
"""An id past every catalogue, which fills up `item_M`."""


class GatheredCatalogue(NamedTuple):
    """The catalogue as the model and the losses of one step see it: an item's id is its place among the rows."""

    spec: Spec
    params: Params
    side: Side
    log_q_V: Array | None
    negatives: Negatives | None


class RowGather(NamedTuple):
    """Which rows a step reads, and the places of the batch's items and of the negatives among them."""

    spec: Spec
    mesh: jax.sharding.Mesh
    item_M: Int[Array, " M"] | None
    """Ids of the rows, ascending from 0 (padding), filled up with PAST. None: the catalogue is read whole."""
    place_GT: Int[Array, "G T"]
    """Place of each item of the batch."""
    negatives: Negatives | None
    """Their item_N are places too; M for the fill."""
    id_row_M: Int[Array, " M"] | None = None
    """Rows of the ID table that the gathered items share, ascending and filled up like item_M. None: each item has its
    own."""
    id_place_M: Int[Array, " M"] | None = None
    """Place of each gathered item's ID row in id_row_M."""

    @classmethod
    def of_step(
        cls,
        spec: Spec,
        mesh: jax.sharding.Mesh,
        *,
        item_GT: Int[Array, "G T"],
        negatives: Negatives | None,
        side: Side,
        reads_all: bool = False,
    ) -> RowGather:
        """Finds the distinct items of a step.

        `reads_all`: the step reads the whole catalogue anyway. Over sharded tables these are still the batch's own
        items, because `full_log_sum` sums over the catalogue on each device's rows.
        """
        drawn = 0 if negatives is None else len(negatives.item_N)
        size = 1 + item_GT.size + drawn
        if (reads_all and mesh.shape[TABLE_AXIS] == 1) or size >= spec.ids:
            return cls(spec, mesh, item_M=None, place_GT=item_GT, negatives=negatives)
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
            return cls(spec, mesh, item_M=item_M, place_GT=place_GT, negatives=negatives)
        shared_M = _gather(mesh, side[ID_ROW], item_M)[:, 0]
        id_row_M = jnp.unique(shared_M, size=size, fill_value=PAST)
        id_place_M = jnp.searchsorted(id_row_M, shared_M).astype(jnp.int32)
        return cls(
            spec, mesh, item_M=item_M, place_GT=place_GT, negatives=negatives, id_row_M=id_row_M, id_place_M=id_place_M
        )

    def gather(self, tree: Any) -> Any:
        """Returns `tree` with the gathered rows in place of each table; rows past the catalogue are zero."""
        if self.item_M is None:
            return tree
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _gather(self.mesh, leaf, self._rows_of(path)) if is_table(path) else leaf, tree
        )

    def scatter(self, tree: Any, gathered: Any) -> Any:
        """Returns `tree` with `gathered`, a tree like one from `gather`, written back: rows into tables, other leaves
        as they are."""
        if self.item_M is None:
            return gathered

        def back(path: tuple[Any, ...], table: Array, rows_M: Array) -> Array:
            return _scatter(self.mesh, table, rows_M, self._rows_of(path)) if is_table(path) else rows_M

        return jax.tree_util.tree_map_with_path(back, tree, gathered)

    def catalogue(self, gathered: Params, side: Side, log_q_V: Array | None) -> GatheredCatalogue:
        """Returns the small catalogue of `gathered`, parameters from `gather`. Only a loss needs `log_q_V`."""
        spec = self.spec
        if self.item_M is None:
            spec, gathered = with_own_rows(spec, self.mesh, gathered, side)
        else:
            if self.id_place_M is not None:
                gathered = _with_id_table(gathered, lambda table_ME: table_ME[self.id_place_M])
            spec = spec._replace(ids=len(self.item_M), extra_rows=0, id_rows=0)
            side = jax.tree.map(lambda code_VW: _gather(self.mesh, code_VW, self.item_M), side)
            if log_q_V is not None:
                log_q_V = log_q_V.at[self.item_M].get(mode="fill", fill_value=0.0)
        return GatheredCatalogue(spec, gathered, side, log_q_V=log_q_V, negatives=self.negatives)

    def _rows_of(self, path: tuple[Any, ...]) -> Int[Array, " M"]:
        return self.item_M if self.id_row_M is None or path[-1].key != ID_TABLE else self.id_row_M


def encode(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, *, inputs: ShardedInputs, side: Side
) -> tuple[Float[Array, "G T D"], Queries]:
    """Returns what `sessionrec.apply` gives for every shard. For evaluation: no gradient is taken."""
    gather = RowGather.of_step(spec, mesh, item_GT=inputs.item_GT, negatives=None, side=side, reads_all=True)
    catalogue = gather.catalogue(gather.gather(params), side, None)
    apply = functools.partial(sessionrec.apply, catalogue.spec, catalogue.params)
    return jax.vmap(lambda shard: apply(shard, catalogue.side))(inputs.shards(gather.place_GT))


def with_own_rows(spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side) -> tuple[Spec, Params]:
    """Returns parameters with an ID row for every item, spread like the other item tables: a copy if items share rows.

    The gradients of the copies of a row add up.
    """
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
    queries_GSD: Float[Array, "G S D"],
    item_GT: Int[Array, "G T"],
    targets_G: Targets,
    *,
    loss: Loss,
    spec: Spec,
    mesh: jax.sharding.Mesh,
    params: Params,
    side: Side,
) -> Float[Array, "G S"]:
    """Returns `catalogue_log_sum` over the whole catalogue for every shard.

    If tables are sharded by rows, each device sums over its own rows, and only the sums are sent.
    """
    spec, params = with_own_rows(spec, mesh, params, side)

    batch_G = (queries_GSD, item_GT, targets_G)

    def over_rows(params: Params, side: Side, first: Any, batch_G: tuple[Array, Array, Targets]) -> Array:
        log_sum = functools.partial(catalogue_log_sum, loss, rows=catalogue_rows(spec, params, side, first))
        return jax.vmap(log_sum)(*batch_G)

    if mesh.shape[TABLE_AXIS] == 1:
        return over_rows(params, side, 0, batch_G)

    def on_device(params: Params, side: Side, batch_G: tuple[Array, Array, Targets]) -> Array:
        first = jax.lax.axis_index(TABLE_AXIS) * len(params["heads"]["item_bias"])
        # The gradient of what every device has is a sum over devices; `model.linear` leaves that sum to this cast.
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: x if is_table(path) else jax.lax.pcast(x, TABLE_AXIS, to="varying"), params
        )
        return log_sum_of_rows(over_rows(params, side, first, batch_G))

    by_row, by_shard = PartitionSpec(TABLE_AXIS), PartitionSpec(BATCH_AXES)
    specs = (row_specs(params), by_row, by_shard)
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=by_shard)(params, side, batch_G)


def catalogue_rows(spec: Spec, params: Params, side: Side, first: Int[Array, ""] | int) -> CatalogueRows:
    """Returns the rows of the catalogue that `params` and `side` hold; the first of them is item `first`."""
    bias_R = params["heads"]["item_bias"]
    part = spec._replace(ids=len(bias_R), extra_rows=0)
    return CatalogueRows(lambda place_N: sessionrec.embed(part, params, place_N, side), bias_R, first, spec.ids)


def _gather(mesh: jax.sharding.Mesh, table: Array, item_M: Int[Array, " M"]) -> Array:
    """Returns the rows `item_M` of an array with one row per item; zero past its end."""

    def rows(table: Array, place_M: Array) -> Array:
        return table.at[place_M].get(mode="fill", fill_value=0)

    def on_device(table: Array, item_M: Array) -> Array:
        return jax.lax.psum(rows(table, local_places(item_M, len(table))), TABLE_AXIS)

    if mesh.shape[TABLE_AXIS] == 1:
        return rows(table, item_M)
    by_row, whole = PartitionSpec(TABLE_AXIS), PartitionSpec()
    return jax.shard_map(on_device, mesh=mesh, in_specs=(by_row, whole), out_specs=whole)(table, item_M)


def _scatter(mesh: jax.sharding.Mesh, table: Array, rows_M: Array, item_M: Int[Array, " M"]) -> Array:
    """Returns `table` with `rows_M` at the rows `item_M`; those past its end are dropped."""

    def set_rows(table: Array, rows_M: Array, place_M: Array) -> Array:
        return table.at[place_M].set(rows_M.astype(table.dtype), mode="drop")

    def on_device(table: Array, rows_M: Array, item_M: Array) -> Array:
        return set_rows(table, rows_M, local_places(item_M, len(table)))

    if mesh.shape[TABLE_AXIS] == 1:
        return set_rows(table, rows_M, item_M)
    by_row, whole = PartitionSpec(TABLE_AXIS), PartitionSpec()
    return jax.shard_map(on_device, mesh=mesh, in_specs=(by_row, whole, whole), out_specs=by_row)(table, rows_M, item_M)
