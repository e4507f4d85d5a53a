"""Rows of tables that are spread over the devices: each device asks their owners for the rows that it reads, and sends
the gradients of these rows back.

A table's rows are spread over all axes of the mesh, so a device owns a block of them. `fetch` sends ids to the owners
and rows back (all-to-all); `sum_at_owners` sends gradients, and the owner adds up those of one row. So what a device
holds, sends and receives depends on its own part of the batch, and not on the batch of all devices.

Every message has room for a fixed number of rows for each owner. Where one owner is asked for more, the exchange takes
more rounds: nothing is dropped.

Letters: G shards of the batch, M rows that a shard reads, X rows that a device asks for, V rows of a table, C devices
that share a table, N room for rows in one message, K rows that an owner may have to update, E width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from sessionrec_jax.devices.mesh import BATCH_AXES, TABLE_AXIS, over_batch, spread_axes

PAST = 2**31 - 1
"""An id past every table: no row is sent for it."""


class _Route(NamedTuple):
    """The way of the ids of one device to their owners; made and used inside `jax.shard_map`."""

    axes: tuple[str, ...]
    room: int
    owner_X: Int[Array, " X"]
    """The owner of each id: its place on `axes`."""
    place_X: Int[Array, " X"]
    """The place of each id among the owner's rows."""
    order_X: Int[Array, " X"]
    """The number of ids for the same owner before this one."""
    rounds: Int[Array, ""]
    """The rounds that the busiest pair of devices of the whole mesh needs."""

    def slots(self, number: Int[Array, ""]) -> tuple[Int[Array, " X"], Int[Array, " X"]]:
        """Returns owner and place in the message of each id in round `number`; ids of other rounds have no owner."""
        slot_X = self.order_X - number * self.room
        is_now_X = (slot_X >= 0) & (slot_X < self.room)
        return jnp.where(is_now_X, self.owner_X, _devices(self.axes)), slot_X

    def asked(self, number: Int[Array, ""], own: int) -> Int[Array, "C N"]:
        """Sends the ids of round `number`; returns what the others ask of this device, `own` where they ask nothing."""
        message_CN = jnp.full((_devices(self.axes), self.room), own, jnp.int32)
        message_CN = message_CN.at[self.slots(number)].set(self.place_X, mode="drop")
        return self.swap(message_CN)

    def swap(self, message_C: Array) -> Array:
        """Sends part c of a message to device c; returns what device c sent, as part c."""
        return jax.lax.all_to_all(message_C, self.axes, 0, 0, tiled=True)


def _devices(axes: tuple[str, ...]) -> int:
    return math.prod(jax.lax.axis_size(axis) for axis in axes)


def _room(ids: int, devices: int) -> int:
    """Returns the rows that a message has room for, for each owner. If ids fall on owners by chance, as they do where
    dense ids are in random order, the busiest pair needs more than this once in many steps, and a second round then."""
    mean = ids / devices
    return min(ids, math.ceil(mean + 5 * math.sqrt(mean)) + 4)


def _route(axes: tuple[str, ...], id_X: Int[Array, " X"], own: int) -> _Route:
    devices = _devices(axes)
    owner_X = jnp.minimum(id_X // own, devices)  # ids past the table have no owner
    by_owner_X = jnp.argsort(owner_X, stable=True)
    count_C = jnp.zeros(devices + 1, jnp.int32).at[owner_X].add(1)
    first_C = jnp.cumsum(count_C) - count_C
    order_X = jnp.zeros_like(owner_X).at[by_owner_X].set(jnp.arange(len(id_X)) - first_C[owner_X[by_owner_X]])
    room = _room(len(id_X), devices)
    # All devices of the mesh take the same number of rounds, also those that share no table with each other.
    rounds = jax.lax.pmax(-(-count_C[:devices].max() // room), (*BATCH_AXES, TABLE_AXIS))
    return _Route(axes, room, owner_X, place_X=id_X % own, order_X=order_X, rounds=rounds)


def fetch(mesh: jax.sharding.Mesh, tables: Any, id_GM: Int[Array, "G M"]) -> Any:
    """Returns the rows [G, M, ...] of each of `tables`, a tree of arrays [V, ...]; zero for ids past their end.

    M is a multiple of the size of the `model` axis, whose devices share the work of a shard. Not differentiable.
    """
    if mesh.size == 1:
        return jax.tree.map(lambda table: table.at[id_GM].get(mode="fill", fill_value=0), tables)

    axes = spread_axes(mesh, len(jax.tree.leaves(tables)[0]))

    def on_device(tables: Any, id_GM: Array) -> Any:
        id_X = id_GM.reshape(-1)
        own = len(jax.tree.leaves(tables)[0])
        route = _route(axes, id_X, own)

        def in_round(state: tuple[Array, Any]) -> tuple[Array, Any]:
            number, found = state
            asked_CN, (owner_X, slot_X) = route.asked(number, own), route.slots(number)
            is_now_X = owner_X < _devices(axes)

            def sent_back(table: Array, found_X: Array) -> Array:
                answer_CN = route.swap(_bits(table.at[asked_CN].get(mode="fill", fill_value=0)))
                here_X = answer_CN.at[owner_X, slot_X].get(mode="fill", fill_value=0)
                return jnp.where(is_now_X.reshape(-1, *(1,) * (here_X.ndim - 1)), here_X, found_X)

            return number + 1, jax.tree.map(sent_back, tables, found)

        empty = jax.tree.map(lambda table: _bits(jnp.zeros((len(id_X), *table.shape[1:]), table.dtype)), tables)
        found = jax.lax.while_loop(lambda state: state[0] < route.rounds, in_round, (jnp.int32(0), empty))[1]

        def rows(table: Array, bits_X: Array) -> Array:
            rows_X = jax.lax.bitcast_convert_type(bits_X, table.dtype)
            return rows_X.reshape(*id_GM.shape, *rows_X.shape[1:])

        return jax.tree.map(rows, tables, found)

    shared, of_table = PartitionSpec(BATCH_AXES, TABLE_AXIS), PartitionSpec(axes)
    found = jax.shard_map(on_device, mesh=mesh, in_specs=(of_table, shared), out_specs=shared, check_vma=False)(
        tables, id_GM
    )
    return jax.lax.with_sharding_constraint(found, over_batch(mesh))


def _bits(rows: Array) -> Array:
    """Returns the bits of float32 rows as integers, and other rows unchanged.

    The matrix products round the rows to bfloat16. XLA for TPUs moves this rounding to before the gather, where it
    takes the whole table, unless integers are sent. Only the gathered rows become integers: the same view of the table
    would be a copy of it (LOG.md).
    """
    return jax.lax.bitcast_convert_type(rows, jnp.uint32) if rows.dtype == jnp.float32 else rows


class OwnRows(NamedTuple):
    """The rows that a step updates, in the order in which their owners hold them; see `sum_at_owners`."""

    mesh: jax.sharding.Mesh
    rows: int
    """Rows of the tables."""
    place_K: Int[Array, " K"]
    """The place of each row among its owner's rows, and a place past them where there is nothing to update. Spread like
    the tables."""

    def take(self, table: Array) -> Array:
        """Returns these rows of a table; nothing is sent."""
        return self._local(lambda table, place_K: table.at[place_K].get(mode="fill", fill_value=0), table)

    def put(self, table: Array, rows_K: Array) -> Array:
        """Returns the table with `rows_K` in the place of these rows; nothing is sent."""

        def put(table: Array, place_K: Array, rows_K: Array) -> Array:
            return table.at[place_K].set(rows_K.astype(table.dtype), mode="drop")

        return self._local(put, table, rows_K)

    def _local(self, function: Callable[..., Array], table: Array, *rows_K: Array) -> Array:
        if self.mesh.size == 1:
            return function(table, self.place_K, *rows_K)
        of_table = PartitionSpec(spread_axes(self.mesh, self.rows))
        specs = (of_table, of_table, *(of_table for _ in rows_K))
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=of_table, check_vma=False)(
            table, self.place_K, *rows_K
        )


def sum_at_owners(mesh: jax.sharding.Mesh, gradients: Any, id_GM: Int[Array, "G M"], rows: int) -> tuple[OwnRows, Any]:
    """Adds up the gradients of each row over all shards, where the row is.

    `gradients`: a tree of arrays [G, M, ...] for tables of `rows` rows. Returns the rows that any shard reads, and a
    tree of their sums [K, ...].
    """
    if mesh.size == 1:
        return _sum_here(mesh, gradients, id_GM, rows)
    axes = spread_axes(mesh, rows)
    others = tuple(axis for axis in (*BATCH_AXES, TABLE_AXIS) if axis not in axes)

    def on_device(gradients: Any, id_GM: Array) -> tuple[Array, Any]:
        own, id_X = rows // _devices(axes), id_GM.reshape(-1)
        route = _route(axes, id_X, own)
        # No more rows can be asked for than all devices together ask for.
        updated = min(own, len(id_X) * mesh.size)
        place_K = jnp.arange(own)
        is_asked_V = _asked_of(route, own, others)
        if updated < own:
            place_K = jnp.nonzero(is_asked_V, size=updated, fill_value=own)[0].astype(jnp.int32)

        def in_round(state: tuple[Array, Any]) -> tuple[Array, Any]:
            number, sums = state
            asked_CN, (owner_X, slot_X) = route.asked(number, own), route.slots(number)
            row_CN = asked_CN if updated == own else jnp.searchsorted(place_K, asked_CN)
            row_CN = jnp.where(asked_CN == own, updated, row_CN)

            def added(sum_K: Array, gradient_GM: Array) -> Array:
                gradient_X = gradient_GM.reshape(-1, *sum_K.shape[1:])
                message_CN = jnp.zeros((_devices(axes), route.room, *sum_K.shape[1:]), sum_K.dtype)
                message_CN = route.swap(message_CN.at[owner_X, slot_X].set(gradient_X, mode="drop"))
                return sum_K.at[row_CN].add(message_CN, mode="drop")

            return number + 1, jax.tree.map(added, sums, gradients)

        zeros = jax.tree.map(lambda g_GM: jnp.zeros((updated, *g_GM.shape[2:]), g_GM.dtype), gradients)
        sums = jax.lax.while_loop(lambda state: state[0] < route.rounds, in_round, (jnp.int32(0), zeros))[1]
        if updated == own:
            place_K = jnp.where(is_asked_V, place_K, own)
        return place_K, jax.lax.psum(sums, others) if others else sums

    shared, of_table = PartitionSpec(BATCH_AXES, TABLE_AXIS), PartitionSpec(axes)
    place_K, sums = jax.shard_map(on_device, mesh=mesh, in_specs=(shared, shared), out_specs=of_table, check_vma=False)(
        gradients, id_GM
    )
    return OwnRows(mesh, rows, place_K), sums


def _asked_of(route: _Route, own: int, others: tuple[str, ...]) -> Array:
    """Returns for each row of this device whether any device asks for it."""

    def in_round(state: tuple[Array, Array]) -> tuple[Array, Array]:
        number, is_asked_V = state
        return number + 1, is_asked_V.at[route.asked(number, own)].set(True, mode="drop")

    start = (jnp.int32(0), jnp.zeros(own, bool))
    is_asked_V = jax.lax.while_loop(lambda state: state[0] < route.rounds, in_round, start)[1]
    return jax.lax.pmax(is_asked_V.astype(jnp.int8), others) > 0 if others else is_asked_V


def _sum_here(mesh: jax.sharding.Mesh, gradients: Any, id_GM: Int[Array, "G M"], rows: int) -> tuple[OwnRows, Any]:
    """Returns the same for a single device, which has the whole tables."""
    if len(id_GM) == 1:  # the ids of one shard are distinct
        return OwnRows(mesh, rows, id_GM[0]), jax.tree.map(lambda g_GM: g_GM[0], gradients)
    id_X = id_GM.reshape(-1)
    place_K = jnp.unique(id_X, size=min(rows + 1, len(id_X)), fill_value=PAST)
    row_X = jnp.searchsorted(place_K, id_X)

    def summed(g_GM: Array) -> Array:
        zeros_K = jnp.zeros((len(place_K), *g_GM.shape[2:]), g_GM.dtype)
        return zeros_K.at[row_X].add(g_GM.reshape(-1, *g_GM.shape[2:]))

    return OwnRows(mesh, rows, place_K), jax.tree.map(summed, gradients)
