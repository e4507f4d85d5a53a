"""Rare items share rows of the ID table: every item stays in the catalogue, and every way to read it takes the
same step.
"""

from __future__ import annotations

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from grid import mostly_slow
from noise import noise_of
from onestep import OneStep, assert_same_step

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.catalogue import ID_ROW
from sessionrec_jax.data.preparation import card
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.preparation.shared_rows import id_rows
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.devices.gathered_rows import ReadRows, RowGather, joined, with_own_rows
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put, put_side
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.exact import exact_rank_nats
from sessionrec_jax.evaluation.scoring import item_table
from sessionrec_jax.loss.negatives import Negatives
from sessionrec_jax.model import count, sessionrec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.loop import train

PROCESS = synthetic.Options(users=60, base=4, depth=7, seed=1)
FLOOR, BUCKETS = 3, 100
SMALL = {"model.width": 16, "model.heads": 2, "model.id_width": 8, "loss.negatives": 8, "data.items_per_row": 0,
         "data.sessions_per_row": 4, "model.score": "cosine", "data.side_columns": ("category",)}  # fmt: skip
LOSSES = {
    "sampled": {},
    "full": {"loss.retrieval": "full_softmax", "loss.other_clicks": "masked"},
    "sparse": {"optim.table_update": "sparse"},
}
SPREAD = {"data": 2, "model": 4}
NEAR = 5e-4  # a twentieth of the step's learning rate


@pytest.fixture(scope="module")
def floored(tmp_path_factory):
    settings = Settings(min_item_exposures=FLOOR, tail_buckets=BUCKETS)
    return prepare(synthetic.read(PROCESS), tmp_path_factory.mktemp("data") / "log", settings)


@pytest.fixture(scope="module")
def setting(config, floored):
    wide = {"data.path": str(floored.path), "data.fingerprint": floored.fingerprint}
    return resolve(replace(config, SMALL | wide), floored)


@pytest.fixture(scope="module")
def one(setting, floored):
    return functools.cache(lambda name: OneStep(replace(setting, LOSSES[name]), floored, 1))


@pytest.fixture(scope="module")
def start(setting, floored):
    """Returns spec, side information and parameters."""
    catalogue = train_catalogue(setting, floored)
    spec = spec_of(setting, floored, catalogue)
    return spec, catalogue.side, noise_of(spec, catalogue)


def test_frequent_items_have_rows_of_their_own_and_the_rest_share():
    ids, exposures_V = pl.Series(range(1000)), np.append(0, np.arange(1000) % 7)
    row_V = id_rows(ids, exposures_V, 5, 50)
    is_rare = exposures_V[1:] < 5
    own, shared = row_V[1:][~is_rare], row_V[1:][is_rare]
    assert row_V[0] == 0
    assert own.tolist() == list(range(1, len(own) + 1))
    assert set(shared) == set(range(len(own) + 1, len(own) + 51))
    assert np.bincount(shared - len(own) - 1).max() < 4 * len(shared) / 50
    some = ids.to_numpy() % 7 != 6  # without the most frequent ones the rest share with the same
    fewer = id_rows(ids.filter(pl.Series(some)), exposures_V[np.append(True, some)], 5, 50)[1:]
    rare = exposures_V[1:][some] < 5
    assert np.array_equal(fewer[rare] - fewer[~rare].max(), shared - len(own))
    assert id_rows(ids, exposures_V, 0, 50) is None
    assert id_rows(ids, exposures_V, 100, 5000).max() <= 1000, "never more rows than items"
    texts = id_rows(ids.cast(pl.String), exposures_V, 5, 50)[1:]
    assert set(texts[is_rare]) == set(shared)


def test_every_item_stays_in_the_catalogue(floored, wide_log, start):
    assert floored.items == wide_log.items
    np.testing.assert_array_equal(floored.clicks_V, wide_log.clicks_V)
    assert floored.fingerprint != wide_log.fingerprint
    assert wide_log.id_row_V is None
    log = floored.arrays()
    in_training = np.repeat(log.session_role_S == 0, log.session_items_S)
    shown_V = np.bincount(log.item_N[in_training], minlength=floored.items + 1)
    rare = int(np.sum(shown_V[1:] < FLOOR))
    assert floored.manifest["items_in_tail"] == rare
    shown = card.lines(floored.card())["items"]
    assert f"{rare:,} with fewer than 3 training exposures share 100 rows of the ID table" in shown
    spec, _, params = start
    assert len(params["item_embedding"]["item_table"]) == 64 * math.ceil(spec.id_rows / 64)
    assert len(params["heads"]["item_bias"]) == spec.rows
    assert spec.id_rows == floored.items - rare + BUCKETS + 1
    assert spec.ids == floored.items + 1
    unshared = count.parameters(spec._replace(id_rows=0)).total
    assert unshared - count.parameters(spec).total == (rare - BUCKETS) * spec.model.id_width


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_rows_taken_out_have_the_embeddings_and_the_gradients_of_the_whole_table(setting, start, devices):
    rng = np.random.default_rng(5)
    spec, side, params = start
    mesh = make_mesh(replace(setting, {"mesh.data": 1, "mesh.model": devices}).mesh)
    side = put_side(side, spec.rows, mesh)
    params = put(params, shardings(mesh, spec.model, params))
    item_GT = jnp.asarray(rng.integers(0, spec.ids, (1, 300)), jnp.int32)
    weight_TD = jnp.asarray(rng.normal(size=(300, spec.model.width)), jnp.float32)
    drawn_N = jnp.asarray(rng.integers(1, spec.ids, 50), jnp.int32)
    drawn = Negatives(drawn_N, jnp.ones(50))
    assert len(np.unique(side[ID_ROW][item_GT[0]])) < 110 < len(np.unique(item_GT)), "rows are shared"

    @jax.jit
    def of_part(params):
        """Returns the gradient of the whole tables, and the embeddings."""
        gather = RowGather.of_step(spec, mesh, item_GT=item_GT, negatives=drawn, side=side)
        read = gather.read(params, side, None)

        def loss(tables, others):
            catalogue_G, axes = gather.catalogues(ReadRows(tables, others, read.rows))
            embed = lambda rows, place_T: sessionrec.embed(gather.shard_spec, rows.params, place_T, rows.side)  # noqa: E731
            e_TD = jax.vmap(embed, in_axes=(axes, 0))(catalogue_G, gather.place_GT)[0]
            return jnp.sum(e_TD * weight_TD), e_TD

        (tables, others), e_TD = jax.grad(loss, argnums=(0, 1), has_aux=True)(read.tables, read.others)
        own, sums = gather.sum_at_owners(tables)
        unchanged = own.put(params, own.take(params))
        return own.put(jax.tree.map(jnp.zeros_like, params), joined(sums, others)), e_TD, unchanged

    @jax.jit
    def of_whole(params):
        own, params = with_own_rows(spec, mesh, params, side)
        e_TD = sessionrec.embed(own, params, item_GT[0], side)
        return jnp.sum(e_TD * weight_TD), e_TD

    part, e_TD, unchanged = of_part(params)
    whole, wanted_TD = jax.grad(of_whole, has_aux=True)(params)
    np.testing.assert_allclose(e_TD, wanted_TD, rtol=1e-5, atol=1e-6)
    assert np.any(part["item_embedding"]["item_table"])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), part, whole)
    jax.tree.map(np.testing.assert_array_equal, unchanged, params)


@pytest.mark.slow
def test_sparse_adagrad_is_dense_adagrad_without_a_prior(one):
    assert_same_step(one("sampled"), one("sparse"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "full", "sampled"])
def test_a_mesh_takes_the_step_of_one_device(setting, floored, one, name):
    before, after = (params["item_embedding"]["item_table"] for params in (one(name).before, one(name).state.params))
    assert np.any(before != after)
    assert_same_step(one(name), OneStep(replace(setting, LOSSES[name]), floored, SPREAD), NEAR)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_items_of_a_bucket_differ_by_side_information_alone(setting, start, devices):
    mesh = make_mesh(replace(setting, {"mesh.data": 1, "mesh.model": devices}).mesh)
    spec, side, params = start
    params = put(params, shardings(mesh, spec.model, params))
    e_VD = np.asarray(item_table(spec, mesh, params, put_side(side, spec.rows, mesh)).e_RD)[: spec.ids]
    known = np.concatenate([side[ID_ROW], side["category"]], axis=1)
    kinds, kind_V = np.unique(known, axis=0, return_inverse=True)
    first = e_VD[np.unique(kind_V, return_index=True)[1]]
    np.testing.assert_allclose(e_VD, first[kind_V.reshape(-1)], rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.round(first[1:], 4), axis=0)) == len(kinds) - 1, "and others differ"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"min_item_exposures": -1}, "--min-item-exposures is -1"), ({"tail_buckets": 0}, "--tail-buckets is 0")],
)
def test_bad_settings_are_reported(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        prepare(synthetic.read(PROCESS), tmp_path / "log", Settings(**given))


def test_a_model_without_rows_of_its_own_refuses_to_run(start):
    """An id past the shared rows would silently read the last one."""
    spec, side, params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, start)
    with pytest.raises(ValueError, match="items share rows of the ID table"):
        sessionrec.embed(spec, params, jnp.arange(3), side)


@pytest.mark.parametrize("labels", mostly_slow(["expected", "sampled"], quick=["expected"]))
def test_sessions_drawn_in_the_step_train_the_rows_that_evaluation_reads(tmp_path, labels):
    process = synthetic.Options(users=60, base=8, depth=2, seed=1)
    log = prepare(synthetic.read(process), tmp_path / "log", Settings(min_item_exposures=10**6, tail_buckets=4))
    fresh = {"data.fresh": labels, "data.fresh_sessions": 12_800, "data.rows": 64, "data.sessions_per_row": 2,
             "data.eval_candidates": "shown", "model.width": 8, "model.layers": 1, "model.heads": 1,
             "model.side_width": 4, "model.scored_by": ("category",), "model.clicked_in_input": False,
             "model.ignored_in_input": False, "loss.retrieval": "none", "optim.learning_rate_peak": 3e-2,
             "model.id_width": 8, "mesh.data": 1, "data.side_columns": ("category",)}  # fmt: skip
    model = train(resolve(replace(Config(), fresh), log), log, tmp_path / "run", quiet=True)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert exact_rank_nats(model) == pytest.approx(line["rank_nats_per_term"], abs=0.02)
