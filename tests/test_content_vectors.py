"""Content vectors: read as they were given, projected as a dense matrix product would, and never trained."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from noise import noise_of
from onestep import OneStep, assert_same_step

from doors.state import Damaged
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.data.content_vectors import file_of
from sessionrec_jax.data.preparation import card
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import RawLog, synthetic
from sessionrec_jax.data.store import open_log
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import evaluate
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import count
from sessionrec_jax.serving.run import train

WIDTH = 12


def raw_log(users: int = 60, depth: int = 4) -> RawLog:
    """Returns a synthetic log whose item table has no side information but a vector: a random one for each category,
    which decides what a user likes. One item in five is new, rare and popular ones: only the last session of a user
    shows it."""
    raw = synthetic.read(synthetic.Options(users=users, base=4, depth=depth, seed=1))
    rng = np.random.default_rng(0)
    categories = raw.items.select("category").to_dummies("category").to_numpy().astype(np.float32)
    vectors = categories @ rng.normal(size=(categories.shape[1], WIDTH)).astype(np.float32)
    items = raw.items.select("item_id", caption=pl.Series(vectors.tolist(), dtype=pl.List(pl.Float32)))
    clicks = raw.exposures.lazy().filter("clicked").group_by("item_id").len().sort("len", "item_id").collect()
    is_new = pl.col("item_id").is_in(clicks["item_id"].reverse()[1::5].to_list())
    is_last = pl.col("session_id") == pl.col("session_id").max().over("user_id")
    exposures = raw.exposures.lazy().filter(~is_new | is_last).collect()
    return dataclasses.replace(raw, exposures=exposures, items=items, truth=None, split="leave_one_session_out")


@pytest.fixture(scope="module")
def raw():
    return raw_log()


@pytest.fixture(scope="module")
def vectors_log(raw, tmp_path_factory):
    return prepare(raw, tmp_path_factory.mktemp("vectors") / "log", Settings(vector=("caption",)))


def of_log(config, log, **settings):
    changed = {"data.path": "", "data.fingerprint": "", "data.items_per_row": 0}
    return resolve(replace(config, changed | settings), log)


def with_caption(raw: RawLog, caption: pl.Series) -> RawLog:
    return dataclasses.replace(raw, items=raw.items.with_columns(caption=caption))


def changed(raw: RawLog, at: int, vector) -> pl.Series:
    values = raw.items["caption"].to_list()
    values[at] = vector
    return pl.Series(values, dtype=pl.List(pl.Float64))


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_every_item_has_the_vector_of_the_table(raw, kind, tmp_path):
    raw = with_caption(raw, changed(raw, 3, None))
    log = prepare(raw, tmp_path / "log", Settings(vector=("caption",), vector_type=kind))
    found = open_log(log.path).vectors["caption"]
    assert found.dtype == kind
    assert isinstance(found.base, np.memmap)
    table = dict(raw.items.iter_rows())
    wanted = [table[item] or [0.0] * WIDTH for item in log.item_ids()]
    np.testing.assert_array_equal(found, np.array([[0.0] * WIDTH, *wanted], kind))
    (entry,) = log.manifest["vectors"]
    assert (entry["missing"], entry["missing_first"]) == (1, [str(raw.items["item_id"][3])])
    assert f"1 items without one ({raw.items['item_id'][3]})" in card.lines(log.card())["content vectors"]
    assert log.side_values == {}


def test_the_fingerprint_is_of_the_vectors_too(raw, vectors_log, tmp_path):
    other = prepare(with_caption(raw, changed(raw, 0, [1.0] * WIDTH)), tmp_path / "log", Settings(vector=("caption",)))
    assert other.fingerprint != vectors_log.fingerprint


@pytest.mark.parametrize(
    ("vector", "settings", "message"),
    [
        ([1.0] * 3, {}, "has 3 numbers, and that of item .* has 12; wanted vectors of one length"),
        ([float("nan")] * WIDTH, {}, r"holds NaN, an infinity or a null \(1 items in all\)"),
        ([float("inf")] * WIDTH, {}, "holds NaN, an infinity or a null"),
        ([None] * WIDTH, {}, "holds NaN, an infinity or a null"),
        ([1e6] * WIDTH, {"vector_type": "float16"}, "has a number too large for float16"),
    ],
)
def test_a_vector_that_cannot_be_used_is_refused(raw, vector, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare(with_caption(raw, changed(raw, 2, vector)), tmp_path / "log", Settings(vector=("caption",), **settings))
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_cannot_be_a_vector_is_refused(raw, tmp_path):
    def refused(raw: RawLog, message: str, name: str = "caption") -> None:
        with pytest.raises(InputError, match=message):
            prepare(raw, tmp_path / "log", Settings(vector=(name,)))

    refused(with_caption(raw, raw.items["caption"].cast(pl.List(pl.Int64))), r"has the type List\(Int64\)")
    refused(with_caption(raw, pl.lit("0.5 0.5")), "has the type String; wanted a list of floats")
    refused(with_caption(raw, pl.lit(None, pl.List(pl.Float32))), "no item of the table has a vector")
    refused(raw, "did you mean 'caption'", "captoin")
    refused(dataclasses.replace(raw, items=None), "--vector caption: the log has no item table")


def test_a_damaged_file_of_vectors_is_refused(raw, tmp_path):
    log = prepare(raw, tmp_path / "log", Settings(vector=("caption",)))
    file = log.path / file_of("caption")
    np.save(file, np.zeros((3, WIDTH), np.float32))
    with pytest.raises(Damaged, match=r"vector_caption\.npy has"):
        open_log(log.path)
    file.unlink()
    with pytest.raises(InputError, match=r"incomplete: vector_caption\.npy missing"):
        open_log(log.path)


def test_the_map_is_the_dense_product_with_the_vectors(config, vectors_log):
    from sessionrec_jax.data.batches import train_catalogue
    from sessionrec_jax.devices.mesh import make_mesh
    from sessionrec_jax.devices.placement import put_replicated, put_side
    from sessionrec_jax.model import sessionrec
    from sessionrec_jax.model.spec_of_log import spec_of

    config = of_log(config, vectors_log, **{"model.id_width": 0, "mesh.data": 8})
    catalogue = train_catalogue(config, vectors_log)
    spec, mesh = spec_of(config, vectors_log, catalogue), make_mesh(config.mesh)
    params = put_replicated(noise_of(spec, catalogue), mesh)
    side = put_side(catalogue.side, spec.rows, mesh)
    rows = {shard.data.shape[0] for shard in side["caption"].addressable_shards}
    assert rows == {spec.rows // 8}  # a device has its own rows alone
    found = jax.device_get(sessionrec.embed(spec, params, jnp.arange(spec.ids), side))
    own = jax.device_get(params["item_embedding"])
    x = np.asarray(vectors_log.vectors["caption"], np.float64) @ own["vector_caption"]
    hidden = x @ own["mlp_in"] + own["mlp_bias"]
    wanted = hidden / (1 + np.exp(-hidden)) @ own["mlp_out"] + x @ own["linear"]
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
    trained = sum(x.size for x in jax.tree.leaves(params)) - (spec.rows - spec.ids)
    assert count.parameters(spec).total == trained
    assert count.parameters(spec).frozen == (spec.ids - 1) * WIDTH


@pytest.mark.parametrize(
    "axes", [pytest.param({"data": 8}, marks=pytest.mark.slow), {"data": 2, "fsdp": 2, "model": 2}]
)
def test_every_mesh_takes_the_step_of_one_device(config, vectors_log, axes):
    config = of_log(config, vectors_log, **{"loss.negatives": 8, "data.items_per_row": 64, "data.eval_users": 5})
    one, spread = OneStep(config, vectors_log, 1), OneStep(config, vectors_log, axes)
    assert_same_step(one, spread, params_atol=1e-4)
    moved = one.state.params["item_embedding"]["vector_caption"] - one.before["item_embedding"]["vector_caption"]
    assert np.abs(moved).max() > 0


@pytest.mark.slow
def test_a_run_with_vectors_is_evaluated_exported_and_recommends(config, vectors_log, tmp_path):
    from sessionrec_jax.serving.exported import ExportedModel

    run = train(vectors_log, tmp_path / "run", of_log(config, vectors_log, **{"data.eval_users": 20}), quiet=True)
    assert run.row["params_frozen"] == vectors_log.items * WIDTH
    assert "0" in run.evaluate("test", by=("item_popularity",))["by"]["item_popularity"]
    run.export(tmp_path / "model", k=5)
    history = {"user": 1, "sessions": [[{"item": vectors_log.item_ids()[0], "clicked": True}]]}
    exported = ExportedModel.read(tmp_path / "model").recommend([history], k=5)
    assert exported == list(run.recommend([history], k=5))


def nats_on_new_items(model: TrainedModel) -> float:
    """Returns the loss of a clicked item that no training session shows."""
    segments = evaluate(model, TEST, ("item_popularity",))["by"]["item_popularity"]
    assert segments["0"]["scored_clicks"] > 20
    return segments["0"]["loss_nats_per_item"]


def trained(config, log, folder, epochs: float) -> TrainedModel:
    settings = {"train.epochs": epochs, "model.width": 16, "loss.negatives": 64, "loss.alpha": 0.0}
    settings |= {"model.id_init_std": 0.0, "loss.negatives_from": "in_batch"}  # nothing is learned about new items
    return train(log, folder, of_log(config, log, **settings), quiet=True).model


@pytest.mark.slow
def test_vectors_say_what_a_new_item_is(config, tmp_path):
    """The same model with the vectors of the new items dealt out among them in another order knows less."""
    log = prepare(raw_log(300, 3), tmp_path / "log", Settings(vector=("caption",)))
    model = trained(config, log, tmp_path / "run", epochs=5.0)
    (new_N,) = np.nonzero((log.exposures_V == 0) & (np.arange(log.items + 1) > 0))
    dealt_VF = np.array(log.vectors["caption"])
    dealt_VF[new_N] = dealt_VF[np.roll(new_N, len(new_N) // 2)]
    catalogue = dataclasses.replace(model.catalogue, side={"caption": dealt_VF})
    assert nats_on_new_items(dataclasses.replace(model, catalogue=catalogue)) - nats_on_new_items(model) > 0.05
