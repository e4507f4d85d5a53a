"""Sessions drawn on the device: the same process as the log's, the same run on any devices and in any calls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from onestep import assert_same_bits

from experiments.plans import fresh_data
from experiments.plans.unlimited_data import Plan
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.synthetic.device import Draw, draw, process_tables
from sessionrec_jax.data.synthetic.known import dense_ids, known_truth
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.data.synthetic.truth import Truth, bernoulli_kl
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.exact import exact_rank_nats
from sessionrec_jax.row import run
from sessionrec_jax.runfolder.stopping import Stopped
from sessionrec_jax.training.fresh_counts import counting_excess
from sessionrec_jax.training.fresh_step import sessions_key
from sessionrec_jax.training.loop import train
from sessionrec_jax.training.step import root_key

PROCESS = ZipfIntent(users=1, base=8, depth=2, categories=3, click_low=0.1, click_high=0.8, keep_interest=0.7, seed=3)
TRUTH = Truth(PROCESS)
TABLES = process_tables(TRUTH, np.arange(1, PROCESS.item_count + 1))
FRESH = {
    "data.fresh": "expected", "data.fresh_sessions": 2_560, "data.rows": 64, "data.sessions_per_row": 2,
    "data.eval_candidates": "shown", "model.width": 8, "model.layers": 1, "model.heads": 1, "model.id_width": 0,
    "model.side_width": 4, "model.scored_by": ("category",), "model.clicked_in_input": False,
    "model.ignored_in_input": False, "loss.retrieval": "none", "optim.learning_rate_peak": 2e-2,
    "mesh.data": 1, "train.log_every_steps": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh(log):
    return resolve(replace(Config(), FRESH), log)


def drawn(labels, history=1, steps=16, rows=4_096):
    """Returns the sessions of many steps, joined, with anchors as item_id."""
    how = Draw(PROCESS, rows=rows, history=history, labels=labels)
    made = jax.vmap(lambda key: draw(TABLES, key, how))(jax.random.split(jax.random.key(5), steps))
    anchor, exposures, clicks = (np.asarray(x, np.float64).reshape(-1, *x.shape[2:]) for x in made)
    return anchor.astype(int) - 1, exposures, clicks


def within_errors(x_N, expected, errors=4.5):
    """Checks the mean of independent numbers against its expectation."""
    error = np.std(x_N, axis=0) / np.sqrt(len(x_N)) + 1e-12
    assert np.all(np.abs(np.mean(x_N, axis=0) - expected) < errors * error)


@pytest.mark.parametrize("labels", ["sampled", "expected"])
def test_anchors_are_drawn_by_popularity(labels):
    anchor_BL, _, _ = drawn(labels)
    share_K = np.bincount(anchor_BL[:, 0], minlength=PROCESS.item_count) / len(anchor_BL)
    error_K = np.sqrt(TRUTH.popularity_K * (1 - TRUTH.popularity_K) / len(anchor_BL))
    assert np.all(np.abs(share_K - TRUTH.popularity_K) < 4.5 * error_K)


def test_expected_labels_are_the_exact_click_probability():
    anchor_BL, exposures_BLC, clicks_BLC = drawn("expected", steps=1)
    np.testing.assert_allclose(exposures_BLC[0, 0], TRUTH.category_mass_C, rtol=1e-6)
    wanted = TRUTH.click_probability_ZC[anchor_BL[:, 0]] * TRUTH.category_mass_C
    np.testing.assert_allclose(clicks_BLC[:, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("history", mostly_slow([1, 3], quick=[3]))
def test_sampled_sessions_have_the_moments_of_the_process(history):
    """Exposures, their categories, and clicks given the anchor of the session before, for every slot of a row."""
    anchor_BL, exposures_BLC, clicks_BLC = drawn("sampled", history, rows=2_048)
    for slot in range(history):
        count_B = exposures_BLC[:, slot].sum(axis=1)
        assert (count_B.min(), count_B.max()) == (1, PROCESS.exposures_max)
        within_errors(count_B, PROCESS.exposures_mean)
        within_errors(exposures_BLC[:, slot], PROCESS.exposures_mean * TRUTH.category_mass_C)
        q_BC = TRUTH.click_probability_ZC[anchor_BL[:, slot]]
        within_errors(clicks_BLC[:, slot] - q_BC * exposures_BLC[:, slot], 0.0)


def test_interests_drift_as_in_the_process():
    anchor_BL, _, _ = drawn("sampled", history=3)
    same = PROCESS.keep_interest + (1 - PROCESS.keep_interest) * np.sum(TRUTH.popularity_K**2)
    for slot in (1, 2):
        within_errors(anchor_BL[:, slot] == anchor_BL[:, slot - 1], same)


def test_the_bayes_predictor_reaches_the_exact_floor_on_sampled_sessions():
    anchor_BL, exposures_BLC, clicks_BLC = drawn("sampled")
    q_BC = TRUTH.click_probability_ZC[anchor_BL[:, 0]]
    nats_B = -(clicks_BLC[:, 0] * np.log(q_BC) + (exposures_BLC - clicks_BLC)[:, 0] * np.log1p(-q_BC)).sum(axis=1)
    exposures_B = exposures_BLC[:, 0].sum(axis=1)
    floor = TRUTH.rank_floor_nats_per_exposure
    error = np.std(nats_B - floor * exposures_B) / np.sqrt(len(nats_B)) / exposures_B.mean()
    assert abs(nats_B.sum() / exposures_B.sum() - floor) < 3 * error


def test_draws_of_rare_items_are_exact():
    """Items of a million have whole numbers of tickets, in proportion to their popularity."""
    process = ZipfIntent(users=1, base=32, depth=4, categories=2)
    truth = Truth(process)
    first_K = np.asarray(process_tables(truth, np.arange(1, process.item_count + 1)).first_K, np.float64)
    tickets_K = np.diff(np.append(first_K, 2.0**32))
    assert np.all(np.abs(tickets_K - np.sort(truth.popularity_K)[::-1] * 2**32) <= 1)


def test_coins_of_every_category_are_those_of_the_truth():
    process = ZipfIntent(users=1, base=4, depth=3, categories=40, keep_interest=1.0, alpha=0.1)
    truth = Truth(process)
    tables = process_tables(truth, np.arange(1, process.item_count + 1))
    sessions = draw(tables, jax.random.key(0), Draw(process, rows=2_048, history=1, labels="expected"))
    q_BC = np.asarray(sessions.clicks_BLC[:, 0]) / np.maximum(truth.category_mass_C, 1e-30)
    coin_BC = truth.coin_ZC[np.asarray(sessions.anchor_BL)[:, 0] - 1]
    present = truth.category_mass_C > 0
    np.testing.assert_array_equal((q_BC > 0.2)[:, present], coin_BC[:, present])


@pytest.mark.parametrize(("labels", "data", "model"), [
    ("expected", 2, 1), pytest.param("expected", 8, 1, marks=pytest.mark.slow),
    pytest.param("expected", 2, 2, marks=pytest.mark.slow), pytest.param("sampled", 8, 1, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_mesh_takes_the_run_of_one_device(fresh, log, tmp_path, labels, data, model):
    one, many = (
        train(replace(fresh, {"data.fresh": labels, "mesh.data": n, "mesh.model": m}), log, tmp_path / f"{n}{m}")
        for n, m in ((1, 1), (data, model))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one.params, many.params)


def test_how_steps_are_divided_into_calls_changes_no_bit(fresh, log, tmp_path):
    whole = train(replace(fresh, {"train.log_every_steps": 40}), log, tmp_path / "whole")
    single = train(replace(fresh, {"train.log_every_steps": 1}), log, tmp_path / "single")
    assert_same_bits(whole.params, single.params)


def test_a_stopped_run_goes_on_to_the_assert_same_bits(fresh, log, tmp_path):
    whole = train(fresh, log, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(fresh, log, tmp_path / "part", stop=contextlib.nullcontext(iter([0, 0, signal.SIGTERM]).__next__))
    resumed = train(fresh, log, tmp_path / "part")
    assert_same_bits(whole.params, resumed.params)


def test_a_fresh_run_has_a_whole_row(fresh, log, tmp_path):
    row = run(fresh, tmp_path / "run", "train", quiet=True)
    assert (row["status"], row["fresh"], row["steps"], row["sessions_unique"]) == ("done", "expected", 40, 2_560)
    assert row["users"] is row["exposures_unique"] is row["negatives"] is None
    assert row["rank_floor_nats_per_exposure"] < row["rank_exact_nats_per_exposure"]
    assert row["loss_nats_per_item"] is None
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["retrieval_nats_per_item"] is None
    assert 0.1 < line["rank_nats_per_term"] < 1


def test_the_exact_loss_is_the_expected_loss_of_test_sessions(fresh, log, tmp_path):
    """The paired loss of the same model on the test sessions has the exact loss as its expectation."""
    row = run(replace(fresh, {"data.fresh_sessions": 25_600}), tmp_path / "run", "train", quiet=True)
    off = row["rank_paired_nats_per_exposure"] - row["rank_exact_nats_per_exposure"]
    assert abs(off) < 4 * row["rank_nats_per_exposure_stderr"]


def test_the_exact_loss_of_a_model_without_knowledge(fresh, log, tmp_path):
    """At the first step the model gives every exposure the click rate of the log, whose loss has a closed form."""
    model = train(replace(fresh, {"data.fresh_sessions": 64}), log, tmp_path / "run")
    zero = jax.tree.map(jnp.zeros_like, model.params["heads"])
    params = model.params | {"heads": zero}
    truth = known_truth(log)
    excess = truth.popularity_K @ bernoulli_kl(truth.click_probability_ZC, np.array(0.5)) @ truth.category_mass_C
    found = exact_rank_nats(dataclasses.replace(model, params=params))
    assert found == pytest.approx(truth.rank_floor_nats_per_exposure + excess, rel=1e-6)


def test_dense_ids_find_every_item_of_the_process(log):
    process = known_truth(log).process
    dense_K = dense_ids(log, process.item_count)
    np.testing.assert_array_equal(np.sort(dense_K), np.arange(1, process.item_count + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.rank": "pairwise"}, "also needs --loss.rank pointwise"),
        ({"loss.retrieval": "bce", "model.scored_by": ()}, "--loss.retrieval none.*--model.scored-by category"),
        ({"model.clicked_in_input": True}, "--model.no-clicked-in-input"),
        ({"data.fresh_sessions": 0}, "--data.fresh-sessions is 0; wanted the number of sessions"),
        ({"data.fresh": "no"}, "--data.fresh-sessions is 2560; wanted left out"),
        ({"loss.alpha": 0.0}, "--loss.retrieval none trains the rank loss alone, but --loss.alpha is 0"),
        ({"data.eval_candidates": "catalogue"}, "trains the rank loss alone, but --data.eval-candidates catalogue"),
    ],
)  # fmt: skip
def test_settings_that_fresh_sessions_cannot_have_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check(replace(Config(), FRESH | changes))


def test_a_log_of_no_known_process_is_refused(fresh, log, tmp_path):
    copy = tmp_path / "log"
    copy.mkdir()
    for file in log.path.iterdir():
        if file.name != "truth.json":
            (copy / file.name).symlink_to(file)
    unknown = dataclasses.replace(log, path=copy)
    with pytest.raises(InputError, match="was not made by a known process"):
        train(fresh, unknown, tmp_path / "run")


def test_the_plan_gives_each_size_its_sessions_and_its_tables(log):
    plan = Plan(sizes=("8x1x1", "16x1x1"), sessions=(1_000, 4_000))
    small, large = plan.configs(replace(Config(), {"data.fresh": "expected"}), users=10)
    assert (small.data.fresh_sessions, large.data.fresh_sessions) == (1_000, 4_000)
    assert (small.model.side_width, large.model.side_width) == (4, 8)
    assert {small.loss.retrieval, small.data.eval_candidates, small.model.scored_by} == {"none", "shown", ("category",)}
    kept = plan.configs(replace(Config(), {"data.fresh": "expected", "model.side_width": 6}), users=10)
    assert {config.model.side_width for config in kept} == {6}


@pytest.mark.parametrize(
    ("fresh", "sessions", "message"),
    [
        ("expected", (), "needs --sessions: one number for all sizes, or one for each of the 6 sizes; 0 came"),
        ("expected", (1, 2), "or one for each of the 6 sizes; 2 came"),
        ("no", (5,), "--sessions came, but --data.fresh is no"),
    ],
)
def test_numbers_of_sessions_that_fit_no_size_are_refused(fresh, sessions, message):
    with pytest.raises(InputError, match=message):
        Plan(sessions=sessions).configs(replace(Config(), {"data.fresh": fresh}), users=10)


def test_the_law_of_a_fresh_sweep_is_of_the_exact_loss(log):
    laid_out = Plan(sizes=("8x1x1", "16x1x1"), sessions=(1_000,)).lay_out(
        replace(Config(), {"data.fresh": "expected", "data.rows": 64}), log
    )
    assert laid_out.files["report.json"]["loss"] == "rank_exact_nats_per_exposure"
    theory = laid_out.files["theory.json"]
    assert (theory["exponent"], theory["floor"]) == (0.5, known_truth(log).rank_floor_nats_per_exposure)


def test_the_counting_learner_counts_the_sessions_that_a_run_draws(fresh, log):
    """Session by session, in Python; and a longer run begins with the sessions of a shorter one."""
    config = replace(fresh, {"data.fresh": "sampled", "data.sessions_per_row": 3, "train.seed": 4})
    truth, steps = known_truth(log), (2, 5)
    tables = process_tables(truth, dense := dense_ids(log, truth.process.item_count))
    item_of = {int(id_): item for item, id_ in enumerate(dense)}
    how = Draw(truth.process, rows=config.data.rows, history=2, labels="sampled")
    seen, clicked = (np.zeros(truth.coin_ZC.shape) for _ in range(2))
    wanted = []
    for step in range(max(steps)):
        key = sessions_key(jax.random.fold_in(root_key(4), step))
        anchor, exposures, clicks = (np.asarray(x).reshape(-1, *x.shape[2:]) for x in draw(tables, key, how))
        for one in range(len(anchor)):
            seen[item_of[int(anchor[one])]] += exposures[one]
            clicked[item_of[int(anchor[one])]] += clicks[one]
        if step + 1 in steps:
            wanted.append(truth.bayes_excess_of_counts(seen, clicked))
    np.testing.assert_allclose(counting_excess(config, log, steps), wanted, rtol=1e-9)


@pytest.mark.slow
def test_no_model_does_better_than_the_counting_learner_on_the_same_sessions(log, tmp_path):
    base = replace(Config(), FRESH | {"data.fresh": "no", "data.fresh_sessions": 0, "data.path": str(log.path)})
    base = replace(base, {"model.id_width": 4, "model.id_init_std": 0.0, "optim.table_rate_ratio": 30.0})
    layout = fresh_data.Plan(sizes=("8x1x1",), sessions=(6_400, 25_600), learning_rates=(1e-2,)).lay_out(base, log)
    theory = layout.files["theory.json"]
    assert theory["exponent"] == known_truth(log).data_exponent
    for config, (sessions, excess) in zip(layout.configs, theory["curve"], strict=True):
        row = run(config, tmp_path / str(sessions), "sweep", quiet=True)
        assert row["sessions_unique"] == sessions
        assert row["rank_exact_nats_per_exposure"] > theory["floor"] + excess


def test_fresh_data_gives_a_body_without_a_table_digits_that_grow(log):
    base = replace(Config(), {"data.path": str(log.path), "model.id_width": 0})
    configs = fresh_data.Plan(sizes=("8x1x1", "32x1x1"), sessions=(10_000,)).configs(base, 100)
    assert [config.model.side_width for config in configs] == [4, 16]
    with_table = fresh_data.Plan(sizes=("32x1x1",)).configs(replace(base, {"model.id_width": 8}), 100)
    assert {config.model.side_width for config in with_table} == {Config().model.side_width}
    assert {config.data.fresh for config in (*configs, *with_table)} == {"sampled"}
