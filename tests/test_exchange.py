"""Rows of spread tables come from their owners and gradients go back to them, however the ids fall on the owners."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from onestep import most_sent

from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.devices.exchange import PAST, fetch, sum_at_owners
from sessionrec_jax.devices.mesh import batch_shards, by_row, make_mesh, over_batch, spread_axes
from sessionrec_jax.model.spec import extra_rows

ROWS, IDS = 1024, 48
MESHES = [Mesh(1), Mesh(8), Mesh(4, 1, 2), Mesh(2, 2, 2), Mesh(1, 1, 8), Mesh(3, 1, 2), Mesh(5)]
"""The rows do not divide over the last two: their tables are spread over `model` alone."""


def ids_of(kind: str, shards: int) -> np.ndarray:
    """Returns distinct ids of each shard, some of them PAST."""
    rng = np.random.default_rng(3)
    if kind == "by chance":
        id_GM = np.stack([rng.choice(ROWS, IDS, replace=False) for _ in range(shards)])
    elif kind == "all on one device":
        id_GM = np.stack([rng.permutation(IDS) for _ in range(shards)])  # the first 48 rows; a device has 128
    elif kind == "the same on every shard":
        id_GM = np.tile(rng.choice(ROWS, IDS, replace=False), (shards, 1))
    else:
        id_GM = np.full((shards, IDS), PAST)
    id_GM[:, 5] = PAST
    return id_GM.astype(np.int32)


KINDS = ["by chance", "all on one device", "the same on every shard", "nothing is read"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", mostly_slow(MESHES, quick=[Mesh(1), Mesh(2, 2, 2), Mesh(3, 1, 2)]), ids=str)
def test_rows_are_those_of_the_table_and_gradients_are_added_up_row_by_row(axes, kind):
    mesh, rng = make_mesh(axes), np.random.default_rng(0)
    id_GM = ids_of(kind, batch_shards(mesh))
    tables = {
        "table": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "bias": rng.normal(size=ROWS).astype(np.float32),
        "code": rng.integers(0, 9, (ROWS, 1), dtype=np.int32),
    }
    gradients = {"table": rng.integers(-4, 5, (*id_GM.shape, 3)).astype(np.float32)}  # sums of whole numbers are exact
    is_read_GM = id_GM != PAST
    wanted = {name: np.where(is_read_GM.reshape(*id_GM.shape, *(1,) * (x.ndim - 1)), x[id_GM % ROWS], 0)
              for name, x in tables.items()}  # fmt: skip
    wanted_sums = np.zeros((ROWS, 3), np.float32)
    np.add.at(wanted_sums, id_GM[is_read_GM], gradients["table"][is_read_GM])

    def both(tables, gradients, id_GM):
        own, sums = sum_at_owners(mesh, gradients, id_GM, ROWS)
        changed = own.put(tables["table"], own.take(tables["table"]) + sums["table"])
        return fetch(mesh, tables, id_GM), changed

    on_devices = jax.device_put(tables, by_row(mesh, ROWS)), jax.device_put((gradients, id_GM), over_batch(mesh))
    found, changed = jax.jit(both)(on_devices[0], *on_devices[1])
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    np.testing.assert_array_equal(changed, tables["table"] + wanted_sums)


@pytest.mark.parametrize("axes", [Mesh(1), Mesh(2, 2, 2)], ids=str)
def test_every_bit_of_a_row_arrives(axes):
    """Also those of -0, of numbers below the normal ones, of infinity, and of a NaN with a payload."""
    mesh, rng = make_mesh(axes), np.random.default_rng(1)
    bits = rng.integers(0, 2**32, (ROWS, 64), dtype=np.uint32)
    bits[:5, 0] = [0x80000000, 1, 0x7F800000, 0x7FC00123, 0xFFFFFFFF]
    id_GM = np.tile(np.arange(48, dtype=np.int32), (batch_shards(mesh), 1))
    table, ids = jax.device_put(bits.view(np.float32), by_row(mesh, ROWS)), jax.device_put(id_GM, over_batch(mesh))
    found = jax.jit(lambda table, ids: fetch(mesh, table, ids))(table, ids)
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32), bits[id_GM])


def test_a_device_sends_its_part_of_the_batch_and_not_that_of_all():
    """At the same ids a shard, the largest message of eight devices is at most 1.3 times that of two."""
    rows, ids = 2**16, 2**12

    def sent(devices: int) -> int:
        mesh = make_mesh(Mesh(devices))
        table = jax.ShapeDtypeStruct((rows, 8), jnp.float32, sharding=by_row(mesh, rows))
        id_GM = jax.ShapeDtypeStruct((devices, ids), jnp.int32, sharding=over_batch(mesh))
        gradient = jax.ShapeDtypeStruct((devices, ids, 8), jnp.float32, sharding=over_batch(mesh))

        def step(table, gradient, id_GM):
            own, sums = sum_at_owners(mesh, gradient, id_GM, rows)
            return fetch(mesh, table, id_GM), own.put(table, sums)

        return most_sent(jax.jit(step).lower(table, gradient, id_GM).compile())

    assert sent(8) < 1.3 * sent(2)


@pytest.mark.parametrize("rows", [2, 1_000, 100_001, 1_000_001, 10_000_001, 1_000_000_001])
def test_tables_have_rows_for_many_numbers_of_devices_and_few_that_are_no_items(rows):
    extra = extra_rows(rows)
    assert (rows + extra) % 64 == 0
    assert extra < max(64, 0.05 * rows)
    if rows > 200_000:
        assert (rows + extra) % 4_096 == 0
    if rows > 20_000_000:
        assert (rows + extra) % 8_960 == 0


def test_a_table_that_does_not_divide_is_spread_over_model_alone():
    assert spread_axes(make_mesh(Mesh(5)), 1024) == ("model",)
    assert spread_axes(make_mesh(Mesh(8)), 1024) == ("model", "data", "fsdp")
