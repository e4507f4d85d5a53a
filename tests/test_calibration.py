"""Calibration: which settings leave the nats of a loss column uncalibrated, and the plans that are refused for it."""

from __future__ import annotations

import pytest

from experiments.__main__ import main
from experiments.plans import PLANS
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss.calibration import uncalibrated
from sessionrec_jax.row_columns import LOSS, RANK_LOSS, RANK_LOSS_PAIRED


@pytest.mark.parametrize("column", [LOSS, RANK_LOSS, RANK_LOSS_PAIRED, "ndcg_at_50"])
def test_the_defaults_are_calibrated(column):
    assert uncalibrated(Config(), column) is None


@pytest.mark.parametrize(
    ("settings", "column", "flag"),
    [
        ({"loss.other_clicks": "masked"}, LOSS, "wanted --loss.other-clicks counted"),
        ({"loss.other_clicks": "masked", "loss.retrieval": "full_softmax"}, LOSS, "wanted --loss.other-clicks counted"),
        # A draw that equals the clicked item is taken out too: a target of one item is no exception.
        ({"loss.other_clicks": "masked", "paradigm": "nipp"}, LOSS, "wanted --loss.other-clicks counted"),
        ({"loss.negatives_from": "in_batch"}, LOSS, "wanted --loss.negatives-from mixed"),
        ({"loss.log_q": False}, LOSS, "wanted --loss.log-q"),
        ({"loss.log_q": False, "loss.retrieval": "bce"}, LOSS, "wanted --loss.log-q"),
        ({"loss.rank": "pairwise"}, RANK_LOSS, "wanted --loss.rank pointwise"),
        ({"loss.rank": "listwise"}, RANK_LOSS_PAIRED, "wanted --loss.rank pointwise"),
        ({"loss.alpha": 0.0}, RANK_LOSS, "wanted --loss.alpha above 0"),
    ],
)
def test_what_spoils_a_likelihood_is_named_with_the_flag_to_change(settings, column, flag):
    config = replace(Config(), settings)
    assert flag in uncalibrated(config, column)
    other = LOSS if column != LOSS else RANK_LOSS
    assert uncalibrated(config, other) is None
    assert uncalibrated(config, "ndcg_at_50") is None


@pytest.mark.parametrize(
    "settings",
    [
        {"loss.log_q": False, "loss.negatives_from": "uniform"},  # the same correction for every item
        {"loss.log_q": False, "loss.negatives_uniform": 1.0},
        {"loss.log_q": False, "loss.retrieval": "full_softmax"},  # nothing is drawn
        {"loss.other_clicks": "masked", "loss.retrieval": "full_softmax", "paradigm": "nipp", "loss.alpha": 0.0},
        {"loss.negatives_from": "in_batch", "loss.retrieval": "full_softmax"},
    ],
)
def test_settings_without_an_effect_spoil_nothing(settings):
    assert uncalibrated(replace(Config(), settings), LOSS) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss.other_clicks": "masked"}, "loss_nats_per_item.*wanted --loss.other-clicks counted"),
        ({"loss.rank": "listwise", "data.eval_candidates": "shown"}, "rank_.*wanted --loss.rank pointwise"),
    ],
)
def test_a_plan_whose_law_would_be_of_uncalibrated_nats_is_refused(log, settings, message):
    base = replace(Config(), settings | {"data.path": str(log.path), "data.rows": 1})
    with pytest.raises(InputError, match=message):
        PLANS.find("grid")().lay_out(base, log)
    assert PLANS.find("grid")(law="none").lay_out(base, log).configs
    assert PLANS.find("seeds")().lay_out(base, log).configs  # it has no law


def test_the_dry_run_of_such_a_plan_ends_with_2_and_the_flag(log, tmp_path, capsys):
    argv = ["sweep", "grid", "--data", str(log.path), "--out", str(tmp_path / "sweep"), "--dry-run"]
    assert main([*argv, "--loss.other-clicks", "masked"]) == 2
    assert "--loss.other-clicks counted" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_an_ablation_marks_arms_whose_nats_are_not_calibrated(log):
    base = replace(Config(), {"data.path": str(log.path), "data.rows": 1})
    plan = PLANS.find("ablation")(tables=("retrieval loss", "rank loss"), seeds=(0,))
    arms = plan.lay_out(base, log).files["comparison.json"]["arms"]
    marked = {arm["arm"]: arm["uncalibrated"] for arm in arms if arm["uncalibrated"]}
    assert {name for name, columns in marked.items() if LOSS in columns} == {
        "sampled softmax, 512 mixed, no log-q, other clicks counted", "sampled softmax, 512 mixed, other clicks masked",
        "sampled softmax, 512 in-batch, other clicks counted",
    }  # fmt: skip
    assert all(columns == [RANK_LOSS] for name, columns in marked.items() if name.startswith(("pairwise", "listwise")))
