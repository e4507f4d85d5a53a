"""A run that never learned says so: its status is stuck, and nothing that chooses or fits takes it."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from experiments.sweep.comparison import left_out
from sessionrec_jax.config.values import replace
from sessionrec_jax.evaluation.history_spread import STUCK_BELOW_NATS, history_spread_nats, stuck
from sessionrec_jax.serving.load import restore


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
