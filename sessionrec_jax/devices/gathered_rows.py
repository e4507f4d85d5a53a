"""The part of the catalogue that one step reads: each shard of the batch fetches its rows, and the gradients go back.

A step of a sampled loss reads the items of its batch and the negatives, each many times. Every shard finds its distinct
items, and their rows are a small catalogue of its own: the model and the losses run on it as on any other, the gradient
has one row per item, and the cost of a step does not grow with the catalogue. Over several devices rows are exchanged
with their owners (devices/exchange.py), and no device ever gets a whole table. A catalogue that is smaller than what a
shard may read is read whole.

Rare items may share rows of the ID table. The shared rows are fetched once too, and each item of the small catalogue
gets a copy, so that the model does not know about sharing. Only if the catalogue is read whole does every item get a
copy, and may the ID table be sent.

Letters: M rows that a shard reads, V rows of a table, G shards, T items, N negatives, S session slots, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.data.catalogue import ID_ROW
from sessionrec_jax.devices.exchange import PAST, OwnRows, fetch, sum_at_owners
from sessionrec_jax.devices.mesh import (
    BATCH_AXES,
    TABLE_AXIS,
    by_row,
    log_sum_of_rows,
    over_shards,
    replicated,
    spread_axes,
    varying,
)
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.devices.sharding import is_table, row_specs
from sessionrec_jax.loss.negatives import Negatives
from sessionrec_jax.loss.retrieval import CatalogueRows, catalogue_log_sum
from sessionrec_jax.loss.targets import Targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params, Queries, Spec

ID_TABLE = "item_table"


class ShardRows(NamedTuple):
    """The part of the catalogue that a shard reads, without the trained tables. Arrays have a leading axis of shards,
    unless the catalogue is read whole."""

    side: Side
    log_q_M: Array | None
    place_N: Array | None
    """Place of each negative among the rows."""
    id_place_M: Array | None = None
    """Place of each item's row among the fetched rows of a shared ID table. None: each item has its own."""


class ReadRows(NamedTuple):
    """The parameters that a step reads. `tables` and `others` have the structure of the parameters, and None where the
    leaf is in the other. If the catalogue is read whole, `others` has all."""

    tables: Params
    """[G, M, ...]."""
    others: Params
    rows: ShardRows


class ShardCatalogue(NamedTuple):
    """The catalogue as the model and the losses of one shard see it: an item's id is its place among the rows."""

    params: Params
    side: Side
    log_q_M: Array | None
    place_N: Array | None


class RowGather(NamedTuple):
    """Which rows each shard reads, and the places of its items and of the negatives among them."""

    spec: Spec
    mesh: jax.sharding.Mesh
    id_GM: Int[Array, "G M"] | None
    """The distinct ids of a shard, 0 (padding) among them, filled up with PAST. None: the catalogue is read whole."""
    place_GT: Int[Array, "G T"]
    """Place of each item of the batch."""
    place_N: Int[Array, "*G N"] | None
    """Place of each negative; that of padding for the fill. Without a leading axis if the catalogue is read whole."""
    id_row_GM: Int[Array, "G M"] | None = None
    """Rows of the ID table that the shard's items share, like id_GM. None: each item has its own."""
    id_place_GM: Int[Array, "G M"] | None = None
    """Place of each item's ID row in id_row_GM."""

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
        """Finds the distinct items of every shard.

        `reads_all`: the step reads the whole catalogue anyway. Over several devices these are still the shard's own
        items, because `full_log_sum` sums over the catalogue where its rows are.
        """
        drawn_N = None
        if negatives is not None:
            drawn_N = jnp.where(negatives.item_N < spec.ids, negatives.item_N, 0).astype(jnp.int32)
        size = 1 + item_GT.shape[1] + (0 if drawn_N is None else len(drawn_N))
        if (reads_all and mesh.size == 1) or size >= spec.ids:
            return cls(spec, mesh, id_GM=None, place_GT=item_GT, place_N=drawn_N)
        parts = [jnp.zeros((len(item_GT), 1), jnp.int32), item_GT]
        if drawn_N is not None:
            parts.append(jnp.broadcast_to(drawn_N, (len(item_GT), len(drawn_N))))
        id_GM, place_GX = _distinct(mesh, jnp.concatenate(parts, axis=1))
        place_GT, place_GN = place_GX[:, 1 : 1 + item_GT.shape[1]], place_GX[:, 1 + item_GT.shape[1] :]
        found = cls(spec, mesh, id_GM=id_GM, place_GT=place_GT, place_N=None if drawn_N is None else place_GN)
        if not spec.id_rows:
            return found
        id_row_GM, id_place_GM = _distinct(mesh, fetch(mesh, side[ID_ROW], id_GM)[..., 0])
        return found._replace(id_row_GM=id_row_GM, id_place_GM=id_place_GM)

    def read(self, params: Params, side: Side, log_q_V: Array | None) -> ReadRows:
        """Fetches the rows of every shard. Only a loss needs `log_q_V`."""
        if self.id_GM is None:
            everywhere = replicated(self.mesh)
            read = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere), (params, side, log_q_V))
            return ReadRows(jax.tree.map(lambda _: None, params), read[0], ShardRows(*read[1:], self.place_N))
        tables, others = _split(params)
        id_table = None
        if self.id_row_GM is not None:
            id_table = fetch(self.mesh, tables["item_embedding"][ID_TABLE], self.id_row_GM)
            tables = _with_id_table(tables, lambda _: None)
        tables, side, log_q_GM = fetch(self.mesh, (tables, side, log_q_V), self.id_GM)
        if id_table is not None:
            tables = _with_id_table(tables, lambda _: id_table)
        return ReadRows(tables, others, ShardRows(side, log_q_GM, self.place_N, self.id_place_GM))

    @property
    def shard_spec(self) -> Spec:
        """The spec of the model on the catalogue of one shard."""
        if self.id_GM is None:
            return self.spec._replace(id_rows=0)
        return self.spec._replace(ids=self.id_GM.shape[1], extra_rows=0, id_rows=0)

    def catalogues(self, read: ReadRows) -> tuple[ShardCatalogue, ShardCatalogue]:
        """Returns the catalogue of every shard, and its axes for `jax.vmap`."""
        rows = read.rows
        if self.id_GM is None:
            _, params = with_own_rows(self.spec, self.mesh, read.others, rows.side)
            return ShardCatalogue(params, rows.side, rows.log_q_M, rows.place_N), ShardCatalogue(*[None] * 4)
        params = joined(read.tables, read.others)
        if rows.id_place_M is not None:
            params = _with_id_table(
                params, lambda table: jax.vmap(lambda rows, place: rows[place])(table, rows.id_place_M)
            )
        axes = jax.tree_util.tree_map_with_path(lambda path, _: 0 if is_table(path) else None, params)
        return ShardCatalogue(params, rows.side, rows.log_q_M, rows.place_N), ShardCatalogue(axes, 0, 0, 0)

    def sum_at_owners(self, gradients: Params) -> tuple[UpdatedRows, Params]:
        """Adds up the gradients of the tables' rows [G, M, ...] over the shards, where the rows are."""
        if self.id_GM is None:
            return UpdatedRows(None, None), gradients
        if self.id_row_GM is None:
            own, sums = sum_at_owners(self.mesh, gradients, self.id_GM, self.spec.rows)
            return UpdatedRows(own, own), sums
        id_table = gradients["item_embedding"][ID_TABLE]
        own, sums = sum_at_owners(self.mesh, _with_id_table(gradients, lambda _: None), self.id_GM, self.spec.rows)
        id_own, id_sums = sum_at_owners(self.mesh, id_table, self.id_row_GM, self.spec.id_table_rows)
        return UpdatedRows(own, id_own), _with_id_table(sums, lambda _: id_sums)


class UpdatedRows(NamedTuple):
    """The rows of the tables that a step updates. None: all."""

    items: OwnRows | None
    id_rows: OwnRows | None
    """Those of the ID table."""

    def take(self, tree: Any) -> Any:
        """Returns parameters or optimizer state with these rows in the place of the tables."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._of(path).take(leaf) if self._of(path) else leaf, tree
        )

    def put(self, tree: Any, rows: Any) -> Any:
        """Returns `tree` with `rows`, a tree like one from `take`: rows are put into tables, other leaves replaced."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf, new: self._of(path).put(leaf, new) if self._of(path) else new, tree, rows
        )

    def _of(self, path: tuple[Any, ...]) -> OwnRows | None:
        if not is_table(path):
            return None
        return self.id_rows if path[-1].key == ID_TABLE else self.items


def _distinct(mesh: jax.sharding.Mesh, id_GX: Int[Array, "G X"]) -> tuple[Int[Array, "G M"], Int[Array, "G X"]]:
    """Returns the distinct ids of each shard, and the place of every id among them.

    M is X, rounded up to a multiple of the devices of a shard. Each of these devices fetches one part of the ids, and
    the ids are dealt out to them in turn, so that each part has ids of all owners.
    """
    devices = mesh.shape[TABLE_AXIS]
    size = -(-id_GX.shape[1] // devices) * devices
    ascending_GM = jax.vmap(functools.partial(jnp.unique, size=size, fill_value=PAST))(id_GX)
    rank_GX = jax.vmap(jnp.searchsorted)(ascending_GM, id_GX).astype(jnp.int32)
    dealt_GM = jnp.swapaxes(ascending_GM.reshape(len(id_GX), -1, devices), 1, 2).reshape(len(id_GX), size)
    return dealt_GM, rank_GX % devices * (size // devices) + rank_GX // devices


def _split(params: Params) -> tuple[Params, Params]:
    """Returns the tables and the other parameters, each with None in the place of the others."""
    tables = jax.tree_util.tree_map_with_path(lambda path, x: x if is_table(path) else None, params)
    others = jax.tree_util.tree_map_with_path(lambda path, x: None if is_table(path) else x, params)
    return tables, others


def joined(tables: Params, others: Params) -> Params:
    """Returns the tree of two that have None where the leaf is in the other."""
    return jax.tree.map(lambda a, b: b if a is None else a, tables, others, is_leaf=lambda x: x is None)


def encode(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, *, inputs: ShardedInputs, side: Side
) -> tuple[Float[Array, "G T D"], Queries]:
    """Returns what `sessionrec.apply` gives for every shard. For evaluation: no gradient is taken."""
    gather = RowGather.of_step(spec, mesh, item_GT=inputs.item_GT, negatives=None, side=side, reads_all=True)
    catalogue_G, axes = gather.catalogues(gather.read(params, side, None))

    def of_shard(catalogue: ShardCatalogue, inputs: Inputs) -> tuple[Float[Array, "T D"], Queries]:
        return sessionrec.apply(gather.shard_spec, catalogue.params, inputs, catalogue.side)

    return over_shards(mesh, of_shard, catalogue_G, inputs.shards(gather.place_GT), in_axes=(axes, 0))


def encode_histories(
    spec: Spec, mesh: jax.sharding.Mesh, params: Params, *, inputs: Inputs, side: Side
) -> Float[Array, "G B L D"]:
    """Returns the retrieval queries of every session. The arrays of `inputs` are [G, B, T] and [G, B, 1, L]: history b
    of shard g is one row. For answers: no gradient is taken."""
    histories, items = inputs.item_T.shape[1:]
    item_GX = inputs.item_T.reshape(-1, histories * items)
    gather = RowGather.of_step(spec, mesh, item_GT=item_GX, negatives=None, side=side, reads_all=True)
    catalogue_G, axes = gather.catalogues(gather.read(params, side, None))

    def of_shard(catalogue: ShardCatalogue, inputs: Inputs) -> Float[Array, "B L D"]:
        def of_history(inputs: Inputs) -> Float[Array, "L D"]:
            return sessionrec.apply(gather.shard_spec, catalogue.params, inputs, catalogue.side)[1].retrieval_SD

        return jax.vmap(of_history)(inputs)

    inputs = inputs._replace(item_T=gather.place_GT.reshape(inputs.item_T.shape))
    return over_shards(mesh, of_shard, catalogue_G, inputs, in_axes=(axes, 0))


def with_own_rows(spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side) -> tuple[Spec, Params]:
    """Returns parameters with an ID row for every item, spread like the other item tables: a copy if items share rows.

    The gradients of the copies of a row add up.
    """
    if not spec.id_rows:
        return spec, params

    def own(table: Array) -> Array:
        return jax.lax.with_sharding_constraint(table[side[ID_ROW][:, 0]], by_row(mesh, spec.rows))

    return spec._replace(id_rows=0), _with_id_table(params, own)


def _with_id_table(params: Params, change: Callable[[Array], Any]) -> Params:
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

    The devices of a shard share the catalogue: each gathers the rows of its part from the owners, sums over them, and
    sends the sums. The gradients of these rows go back to the owners once, after the last chunk.
    """
    spec, params = with_own_rows(spec, mesh, params, side)
    batch_G = (queries_GSD, item_GT, targets_G)

    def over_rows(params: Params, side: Side, first: Any, batch_G: tuple[Array, Array, Targets]) -> Array:
        log_sum = functools.partial(catalogue_log_sum, loss, rows=catalogue_rows(spec, params, side, first))
        return jax.vmap(log_sum)(*batch_G)

    if mesh.size == 1:
        return over_rows(params, side, 0, batch_G)
    axes = spread_axes(mesh, spec.rows)
    from_owners = tuple(axis for axis in axes if axis in BATCH_AXES)

    def whole_part(table: Array) -> Array:
        return jax.lax.all_gather(table, from_owners, axis=0, tiled=True) if from_owners else varying(table, BATCH_AXES)

    def on_device(params: Params, side: Side, batch_G: tuple[Array, Array, Targets]) -> Array:
        # The gradient of what every device has is a sum over devices; `model.linear` leaves that sum to this cast.
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: whole_part(x) if is_table(path) else varying(x, (*BATCH_AXES, TABLE_AXIS)), params
        )
        first = jax.lax.axis_index(TABLE_AXIS) * len(params["heads"]["item_bias"])
        return log_sum_of_rows(over_rows(params, jax.tree.map(whole_part, side), first, batch_G), (TABLE_AXIS,))

    spread, by_shard = PartitionSpec(axes), PartitionSpec(BATCH_AXES)
    specs = (row_specs(mesh, params), spread, by_shard)
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=by_shard)(params, side, batch_G)


def catalogue_rows(spec: Spec, params: Params, side: Side, first: Int[Array, ""] | int) -> CatalogueRows:
    """Returns the rows of the catalogue that `params` and `side` hold; the first of them is item `first`."""
    bias_R = params["heads"]["item_bias"]
    part = spec._replace(ids=len(bias_R), extra_rows=0)
    return CatalogueRows(lambda place_N: sessionrec.embed(part, params, place_N, side), bias_R, first, spec.ids)
