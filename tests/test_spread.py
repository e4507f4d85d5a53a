"""Evaluation and recommendation over item tables spread by rows give the numbers of one device and send no table."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import noise_of
from onestep import most_sent

from sessionrec_jax.config.settings import Mesh, Model
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.devices.mesh import batch_shards, by_row, make_mesh, over_batch
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.evaluation import catalogue_ranks, measure, scoring
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec import Spec, extra_rows
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.serving import recommend
from sessionrec_jax.serving.batch import HistoryBatch
from sessionrec_jax.serving.histories import log_histories
from sessionrec_jax.serving.program import answer

MESHES = [Mesh(8), Mesh(4, 1, 2), Mesh(1, 2, 4), Mesh(1, 1, 8)]


@pytest.fixture(scope="module")
def on_mesh(config, wide_log):
    """Returns a run with noise for parameters, on a mesh."""
    wide = {"data.path": str(wide_log.path), "data.fingerprint": wide_log.fingerprint, "data.sessions_per_row": 4,
            "data.items_per_row": 0, "data.side_columns": ("category",)}  # fmt: skip
    config = resolve(replace(config, wide), wide_log)
    catalogue = train_catalogue(config, wide_log)
    spec = spec_of(config, wide_log, catalogue)
    params = noise_of(spec, catalogue)

    def on_mesh(axes: Mesh) -> TrainedModel:
        mesh = make_mesh(axes)
        here = jax.device_put(params, shardings(mesh, spec.model, params))
        return TrainedModel(config, wide_log, catalogue, spec, mesh, here, 0)

    return on_mesh


@pytest.fixture(scope="module")
def one(on_mesh):
    return found(on_mesh(Mesh(1)))


def found(run: TrainedModel):
    """Returns metrics with seen items masked, and recommendations."""
    masked = dataclasses.replace(run, config=replace(run.config, {"data.eval_seen": "masked"}))
    measured = measure.evaluate(masked, TEST)
    return measured, list(recommend.recommend(run, log_histories(run.log, 0), 20, "masked", quiet=True))


@pytest.mark.parametrize(
    "axes", [pytest.param(axes, marks=() if axes.model == 4 else pytest.mark.slow) for axes in MESHES], ids=str
)
def test_every_mesh_finds_what_one_device_finds(on_mesh, one, axes):
    (metrics, lines), (metrics_of_one, lines_of_one) = found(on_mesh(axes)), one
    ranking = [name for name in metrics if name.startswith(("mrr", "recall", "ndcg", "hit", "retrieval"))]
    for name, value in metrics_of_one.items():
        near = 1e-12 if name in ranking else 1e-6  # ranks are the same in any order of summation
        assert metrics[name] == (
            value if value is None or isinstance(value, str) else pytest.approx(value, rel=near)
        ), name
    assert len(lines) == len(lines_of_one) == 60
    for line, line_of_one in zip(lines, lines_of_one, strict=True):
        assert line["items"] == line_of_one["items"]
        np.testing.assert_allclose(line["scores"], line_of_one["scores"], rtol=1e-6, atol=2e-6)  # equal to 1e-6


ITEMS = 4_000_000
SPEC = Spec(Model(width=16, heads=2, id_width=8), ITEMS + 1, (("category", 9),), 2, 8, 4, extra_rows(ITEMS + 1))


def programs(axes: Mesh) -> dict[str, jax.stages.Compiled]:
    """Compiles every program that touches the tables for four million items, without making them."""
    mesh = make_mesh(axes)
    shards = batch_shards(mesh)

    def batch(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((shards, *shape), dtype, sharding=over_batch(mesh))

    shapes = jax.eval_shape(lambda: sessionrec.init_params(SPEC, jax.random.key(0)))
    params = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings(mesh, SPEC.model, shapes)
    )
    spread = by_row(mesh, SPEC.rows)
    side = {"category": jax.ShapeDtypeStruct((SPEC.rows, 1), jnp.int32, sharding=spread)}
    inputs = ShardedInputs(*[batch(64)] * 3, *[batch(2, 8)] * 3, target_GS=batch(16, dtype=bool))
    table = scoring.ItemTable(
        jax.ShapeDtypeStruct((SPEC.rows, SPEC.model.width), jnp.float32, sharding=spread),
        jax.ShapeDtypeStruct((SPEC.rows,), jnp.float32, sharding=spread),
    )
    pairs = (batch(scoring.PAIRS),) * 2
    histories = HistoryBatch(*[batch(64, 32)] * 3, batch(64), batch(64, 7), {}, pairs)
    given = {"table": table, "side": side, "inputs": inputs}
    items, asked = scoring.ITEMS_AT_ONCE, catalogue_ranks.QUERIES
    clicked = batch(asked, items), batch(asked, items, dtype=jnp.float32)
    asked = batch(asked, SPEC.model.width, dtype=jnp.float32)
    return {
        "table": scoring.item_table.lower(SPEC, mesh, params, side).compile(),
        "evaluate": measure._score.lower(SPEC, "pointwise", mesh, params, **given).compile(),
        "ranks": catalogue_ranks._ranks.lower(mesh, table, asked, *clicked, pairs).compile(),
        "answer": answer.lower(SPEC, mesh, 50, params, side, table, histories).compile(),
    }


def test_no_table_is_sent_and_a_device_holds_its_part_once():
    spread, rows = 8, SPEC.rows
    side, table, params = 4 * rows, 4 * rows * (SPEC.model.width + 1), 4 * rows * (SPEC.model.id_width + 1)
    held = {
        "table": side + params + table,
        "ranks": table,
        "evaluate": side + params + table,
        "answer": side + params + table,
    }
    for name, program in programs(Mesh(2, 1, 4)).items():
        assert 0 < most_sent(program) < rows / spread / 5, name  # a number for every row would be too many
        used = program.memory_analysis()
        used = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
        assert used < 1.1 * held[name] / spread + 32e6, name  # the scores of a chunk do not fall
