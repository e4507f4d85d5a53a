"""A run that never learned says so: its status is stuck, and nothing that chooses or fits takes it. A prior on the ID
table does not keep a run at its start."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.sweep.comparison import left_out
from sessionrec_jax.config.settings import Config, Model
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.evaluation.history_spread import STUCK_BELOW_NATS, history_spread_nats, stuck
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.serving.load import restore
from sessionrec_jax.training.loop import train_together
from sessionrec_jax.training.step import Program, Scalars, dense_update, initial_state


@pytest.fixture(scope="module")
def run_folder(config, log, tmp_path_factory):
    from sessionrec_jax.row import run

    folder = tmp_path_factory.mktemp("stuck") / "run"
    run(replace(config, {"mesh.data": 1, "train.epochs": 1.0}), folder, "train", quiet=True)
    return folder


def test_scores_of_a_trained_model_depend_on_the_history_and_those_of_zero_heads_do_not(run_folder):
    model = restore(run_folder)
    trained = history_spread_nats(model)
    row = json.loads((run_folder / "row.json").read_text())
    assert row["history_spread_nats"] == pytest.approx(trained, rel=1e-4)
    assert trained > 0

    def zero(path: tuple, x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x) if "heads" in str(path) else x

    start = dataclasses.replace(model, params=jax.tree_util.tree_map_with_path(zero, model.params))
    assert history_spread_nats(start) == pytest.approx(0, abs=1e-6)


def test_only_a_long_run_without_spread_is_stuck():
    assert "never left its start" in stuck(500, STUCK_BELOW_NATS / 2)
    assert stuck(500, 2 * STUCK_BELOW_NATS) is None
    assert stuck(500, None) is None
    assert stuck(99, 0.0) is None


def test_compare_counts_the_runs_that_are_stuck(tmp_path):
    names = {"a": "done", "b": "stuck", "c": "dropped", "d": "stuck"}
    for name, status in names.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        row = {
            "run_id": name,
            "status": status,
            "reason": "it never left its start",
            "flops_saved": 1,
            "flops_spent": 1,
        }
        (folder / "row.json").write_text(json.dumps(row))
    arm = {"table": "t", "budget": "b", "arm": "a", "is_reference": True, "runs": {"0": [*names]}}
    (tmp_path / "comparison.json").write_text(json.dumps({"arms": [arm], "select_by": "x"}))
    assert left_out(tmp_path) == {"stuck": 2}


@pytest.fixture(scope="module")
def ids_alone(tmp_path_factory):
    """A log without side information, so that only the ID table tells items apart."""
    raw = synthetic.read(synthetic.Options(users=400, base=4, depth=4, seed=1))
    raw = dataclasses.replace(raw, items=None, truth=None)
    return prepare(raw, tmp_path_factory.mktemp("ids") / "log", Settings())


def spreads(log, folder, priors: list[float], seeds: list[int], part: float) -> list[float | None]:
    """Returns the history spread of each run after `part` of its steps."""
    small = {
        "mesh.data": 1, "data.rows": 8, "data.sessions_per_row": 16, "data.eval_users": 100,
        "model.width": 16, "model.layers": 1, "model.id_width": 8, "loss.negatives": 32, "loss.alpha": 0.0,
        "train.epochs": 3.0,
    }  # fmt: skip
    config = resolve(replace(Config(), small), log)
    runs = [
        (replace(config, {"optim.table_prior": prior, "train.seed": seed}), folder / f"{prior}-{seed}")
        for prior in priors
        for seed in seeds
    ]
    models = train_together(runs, log, quiet=True, parts=[part] * len(runs))
    return [history_spread_nats(model) for model in models if model is not None]


def test_a_seed_that_a_strong_prior_kept_at_its_start_learns(ids_alone, tmp_path):
    """With the prior at full strength from the first step the spread is below .001 nats, here and after all steps."""
    (spread,) = spreads(ids_alone, tmp_path, [300.0], [4], part=0.4)
    assert spread is not None
    assert spread > 5 * STUCK_BELOW_NATS


@pytest.mark.slow
def test_all_seeds_learn_with_any_prior(ids_alone, tmp_path):
    found = spreads(ids_alone, tmp_path, [0.0, 1.0, 10.0, 300.0], list(range(8)), part=1.0)
    assert len(found) == 32
    assert all(spread is not None and spread > 3 * STUCK_BELOW_NATS for spread in found)


@pytest.mark.parametrize("parametrization", ["standard", "mup"])
def test_the_prior_is_of_second_order_in_the_heads_and_full_once_they_have_grown(parametrization):
    model = Model(width=128, parametrization=parametrization)
    spec = Spec(model, 5, (), 3, 4, 4)
    params = sessionrec.init_params(spec, jax.random.key(0))
    assert sessionrec.heads_share(spec, params) == 0

    def share(size: float) -> float:
        head = size * jax.random.normal(jax.random.key(1), params["heads"]["rank"].shape)
        return float(sessionrec.heads_share(spec, params | {"heads": params["heads"] | {"rank": head}}))

    assert share(2e-4) == pytest.approx(4 * share(1e-4), rel=1e-4)
    assert share(0.1 * model.width**-0.5) == (pytest.approx(1.0, rel=0.05) if parametrization == "standard" else 1.0)
    assert share(1.0) == 1.0


@pytest.mark.slow  # the seed that learns is its consequence
def test_a_prior_moves_no_row_while_the_heads_are_zero(run_folder):
    model = restore(run_folder)
    state = initial_state(model.config, model.spec, model.catalogue, model.mesh)
    program = Program(model.spec, model.config.loss, model.config.optim, model.mesh, microbatches=1)
    none = jax.tree.map(jnp.zeros_like, state.params)
    after, _ = dense_update(program, state, Scalars(jnp.float32(0.1), jnp.float32(1e3)), none)
    before = state.params["item_embedding"]["item_table"]
    assert jnp.array_equal(after["item_embedding"]["item_table"], before)
    assert float(jnp.abs(before).max()) > 0
