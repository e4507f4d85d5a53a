"""Training: the same on any number of devices, refused where it must be, and better than popularity."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onestep import OneStep, assert_same_bits, assert_same_step

from sessionrec_jax.config.settings import Optim
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import eval_batches, train_batches
from sessionrec_jax.data.codes import CLICKED, TEST
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_batch, put_replicated
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import evaluate
from sessionrec_jax.loss.negatives import sample_negatives
from sessionrec_jax.model import sessionrec
from sessionrec_jax.row import run
from sessionrec_jax.runfolder.files import MetricsLog
from sessionrec_jax.training import optim
from sessionrec_jax.training.checkpoint import Checkpoints
from sessionrec_jax.training.loop import Diverged, train


def steps_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_step(config, log):
    """Returns the first step on a number of devices."""
    return functools.cache(lambda devices: OneStep(config, log, devices))


@pytest.fixture(scope="module")
def whole(config, log, tmp_path_factory):
    """A run that nothing disturbed: (config, folder, what train returned)."""
    config = replace(config, {"train.epochs": 8.0, "train.log_every_steps": 1})
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return config, folder, train(config, log, folder, quiet=True)


# One step.


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.slow  # test_mesh.py has one mesh of eight devices
def test_eight_devices_take_the_step_of_one(one_step):
    assert one_step(8).batch.item_GT.shape[0] == 8
    assert_same_step(one_step(1), one_step(8))


def test_a_step_moves_the_rows_of_items_that_it_saw_and_no_others(one_step):
    """Unseen rows neither drift nor decay."""
    one = one_step(1)
    ids = len(one.proposal.log_q_V)
    key = jax.random.fold_in(jax.random.fold_in(one.key, 0), 0)
    drawn = sample_negatives(key, jax.tree.map(jnp.asarray, one.proposal), 32).item_N
    seen_V = np.isin(np.arange(ids), np.append(one.batch.item_GT, drawn))
    assert not seen_V.all()
    after, before = (params["heads"]["item_bias"][:ids] for params in (one.state.params, one.before))
    assert not np.any((after != before)[~seen_V])
    assert np.any((after != before)[seen_V])


def test_the_mesh_cannot_have_more_devices_than_there_are(config):
    with pytest.raises(InputError, match=r"--mesh data=9 wants 9 devices, but there are 8 .*use --mesh data=8"):
        make_mesh(replace(config, {"mesh.data": 9}).mesh)


# A whole run.


def test_a_short_run_beats_popularity_and_not_the_truth(whole):
    trained = whole[2]
    metrics = evaluate(trained, TEST)
    assert metrics["loss_nats_per_item"] < metrics["loss_baseline_nats_per_item"] - 0.05
    assert metrics["loss_nats_per_item"] > metrics["loss_bayes_nats_per_item"]
    assert metrics["rank_nats_per_exposure"] < metrics["rank_baseline_nats_per_exposure"] - 0.03
    assert metrics["rank_nats_per_exposure"] > metrics["rank_bayes_nats_per_exposure"]
    assert metrics["rank_auc"] > 0.6


@pytest.mark.slow  # test_evaluate.py has a quick one, of parameters that were not trained
def test_a_trained_model_is_measured_the_same_on_eight_devices(whole):
    config, _, trained = whole
    metrics = evaluate(trained, TEST)
    mesh = make_mesh(replace(config, {"mesh.data": 8}).mesh)
    params = put_replicated(jax.device_get(trained.params), mesh)
    elsewhere = evaluate(dataclasses.replace(trained, params=params, mesh=mesh), TEST)
    assert elsewhere.pop("seen_items") == "kept"
    assert elsewhere.pop("split") == metrics["split"]
    for name, value in elsewhere.items():
        assert (value is None) == (metrics[name] is None), name
        assert value is None or value == pytest.approx(metrics[name], rel=1e-4), name


def test_evaluation_is_what_scoring_click_by_click_gives(whole, log):
    config, _, trained = whole
    spec, params, side = trained.spec, trained.params, jax.tree.map(jnp.asarray, trained.catalogue.side)
    e_VD = np.asarray(sessionrec.embed(spec, params, jnp.arange(spec.ids), side))
    apply = jax.jit(sessionrec.apply, static_argnums=0)
    nats, best_ranks = [], []
    for batch in eval_batches(config, log, trained.shape, TEST):
        inputs = jax.tree.map(lambda x_G: x_G[0], put_batch(batch, trained.mesh).shards())
        _, queries = apply(spec, params, inputs, side)
        for slot in np.flatnonzero(batch.target_GRL):
            clicked_T = (batch.session_of_item_GT[0] == slot) & (batch.feedback_GT[0] == CLICKED)
            score_V = e_VD @ queries.retrieval_SD[slot - 1] + params["heads"]["item_bias"][: spec.ids]
            clicked = batch.item_GT[0, clicked_T]
            nats += list(jax.nn.logsumexp(score_V[1:]) - score_V[clicked])
            best_ranks += [np.sum(score_V[1:] > score_V[clicked].max())] if len(clicked) else []
    metrics = evaluate(trained, TEST)
    assert metrics["loss_nats_per_item"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert metrics["mrr"] == pytest.approx(np.mean(1 / (1 + np.array(best_ranks))), rel=1e-5)


def test_the_log_has_every_step_once_and_the_losses_fall(whole):
    _, folder, trained = whole
    steps = steps_of(folder)
    assert [line["step"] for line in steps] == list(range(trained.history.steps))
    losses = [line["rank_nats_per_term"] for line in steps]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


def test_a_line_of_the_log_is_the_mean_since_the_line_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n{"st')  # a run that was killed after its checkpoint at step 2
    log = MetricsLog(path, 2, 7, every_steps=2)
    for step in range(2, 7):
        log.add(step, 0.1, (1.0 * step, 2.0, 0.0, 0.0), lambda: {"sessions_per_second": 1.0})
    log.close()
    lines = steps_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 3, 5, 6]  # the last step too
    assert [line["steps"] for line in lines[1:]] == [7, 7, 7]
    assert [line["retrieval_nats_per_item"] for line in lines[1:]] == [(2 + 3) / 4, (4 + 5) / 4, 6 / 2]
    assert all(line["rank_nats_per_term"] is None for line in lines[1:])


def test_counters_count_what_was_seen(whole, log):
    config, _, trained = whole
    batches = list(train_batches(config, log, trained.shape))
    seen = trained.history.counters
    assert len(batches) == trained.history.steps
    assert seen.target_sessions == sum(batch.counts().target_sessions for batch in batches)
    assert seen.items == sum(np.count_nonzero(batch.item_GT) for batch in batches)
    assert seen.item_slots == sum(batch.item_GT.size for batch in batches)
    assert seen.target_items > 0


def test_a_finished_run_started_again_does_nothing(whole, log):
    config, folder, trained = whole
    again = train(config, log, folder, quiet=True)
    assert_same_bits(again.params, trained.params)
    assert again.history.counters.target_sessions == trained.history.counters.target_sessions
    assert len(steps_of(folder)) == trained.history.steps


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(config, log, tmp_path):
    wild = replace(config, {"optim.learning_rate_peak": 1e3})
    with pytest.raises(Diverged, match=r"not a number at step \d+; lower --optim.learning-rate-peak") as error:
        train(wild, log, tmp_path / "run", quiet=True)
    assert 0 < error.value.step < 10


# What is refused.


def test_a_folder_of_another_run_is_refused(whole, log):
    config, folder, _ = whole
    with pytest.raises(InputError, match=r"holds run \w+, not \w+: its settings differ \(--train.seed is \d there"):
        train(replace(config, {"train.seed": 1}), log, folder)


def test_a_log_that_was_prepared_again_is_refused(config, log):
    with pytest.raises(InputError, match="was prepared again"):
        resolve(replace(config, {"data.fingerprint": "0" * 16}), log)


def test_a_model_that_nothing_would_enter_is_refused(config, log, monkeypatch):
    context_alone = replace(config, {"model.clicked_in_input": False, "model.ignored_in_input": False})
    assert resolve(context_alone, log).model == context_alone.model
    monkeypatch.setitem(log.manifest, "feedback_names", ["ignored", "clicked"])
    with pytest.raises(InputError, match="both given, and the log has no other kind of exposure"):
        resolve(context_alone, log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "b": jnp.zeros((2, 3))}, r"has b = \(\(2, 2\), 'float32'\), .* wants \(\(2, 3\), 'float32'\)"),
        (lambda s: {**s, "b": jnp.zeros((2, 2), jnp.bfloat16)}, r"b = .*wants \(\(2, 2\), 'bfloat16'\)"),
        (lambda s: {"a": s["a"]}, r"b = .* wants nothing"),
        (lambda s: {**s, "c": s["a"]}, r"c = nothing, .* wants \(\(3,\), 'float32'\)"),
    ],
)
def test_a_checkpoint_of_other_arrays_is_refused_by_name(tmp_path, change, message):
    state = {"a": jnp.zeros(3), "b": jnp.ones((2, 2))}
    with Checkpoints(tmp_path, kept=2) as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(5, state, {"data": {"next": 7}})
    with Checkpoints(tmp_path, kept=2) as checkpoints:
        restored, progress = checkpoints.restore(state)
        assert_same_bits(restored, state)
        assert progress == {"data": {"next": 7}}
        with pytest.raises(InputError, match=message):
            checkpoints.restore(change(state))


# The schedule.


@pytest.mark.parametrize("steps", [1, 2, 7, 1_000])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(steps):
    config = Optim(learning_rate_peak=2.0, warmup_fraction=0.1)
    rates = [optim.learning_rate(config, step, steps) for step in range(steps)]
    peak = int(np.argmax(rates))
    assert max(rates) == 2.0
    assert min(rates) > 0
    assert peak == max(1, round(0.1 * steps)) - 1
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak + 1 :]) < 0)
    assert optim.learning_rate(config, steps, steps) == pytest.approx(0, abs=1e-9) or steps == 1


@pytest.mark.parametrize("steps", [10, 1_000])
def test_a_cooldown_is_constant_and_then_falls_to_zero_by_one_minus_the_root(steps):
    config = Optim(schedule="cooldown", learning_rate_peak=2.0, warmup_steps=3, cooldown_fraction=0.2)
    rates = np.array([optim.learning_rate(config, step, steps) for step in range(steps + 1)])
    start = optim.cooldown_start(config, steps)
    assert start == 0.8 * steps
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2])
    assert np.all(rates[3 : start + 1] == 2.0)
    assert rates[start:] == pytest.approx(2 * (1 - np.sqrt(np.arange(steps - start + 1) / (steps - start))))


def test_runs_of_different_length_share_their_rates_up_to_the_cooldown_of_the_shorter():
    config = Optim(schedule="cooldown", warmup_steps=5)
    shared = optim.cooldown_start(config, 40)
    assert shared == 32
    short, long = ([optim.learning_rate(config, step, steps) for step in range(shared + 2)] for steps in (40, 200))
    assert short[:-1] == long[:-1]
    assert short[-1] < long[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cooldown", "warmup_steps": 17}, "a warm-up of 17 steps and a cooldown of 4 do not fit into a"),
        ({"warmup_steps": 21}, "a warm-up of 21 steps does not fit into a run of 20 steps; lower --optim.warmup-"),
    ],
)
def test_a_schedule_longer_than_its_run_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        optim.check_length(Optim(**settings), 20)
    fits = settings | {"warmup_steps": settings["warmup_steps"] - 1}
    optim.check_length(Optim(**fits), 20)


def test_a_refused_schedule_leaves_no_run_folder(config, log, tmp_path):
    too_long = replace(config, {"optim.schedule": "cooldown", "optim.warmup_steps": 1_000})
    with pytest.raises(InputError, match="a warm-up of 1000 steps and a cooldown of"):
        run(too_long, tmp_path / "run", "train", quiet=True)
    assert not (tmp_path / "run").exists()
