"""Tests evaluation: the pass equals a plain one, session by session, and items seen before are no candidates."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import eval_batches, shape_of, train_catalogue
from sessionrec_jax.data.codes import CLICKED, CONTEXT, TEST, VALIDATION
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_batch, put_replicated
from sessionrec_jax.evaluation.baselines import evaluate_baselines
from sessionrec_jax.evaluation.measure import evaluate, measure, validated
from sessionrec_jax.evaluation.metrics import CUTOFFS
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import initial_state

RANKING = ("mrr", *(f"{name}_at_{k}" for name in ("recall", "ndcg", "hit") for k in CUTOFFS))


@pytest.fixture(scope="module")
def model(config, log):
    """Returns parameters with heads that are not zero, on one device."""
    catalogue = train_catalogue(config, log)
    spec, mesh = spec_of(config, log, catalogue), make_mesh(config.mesh)
    params = jax.device_get(initial_state(config, spec, catalogue, mesh).params)
    rng = np.random.default_rng(4)
    for name in ("retrieval", "rank"):
        params["heads"][name] = rng.normal(size=params["heads"][name].shape).astype(np.float32) / 3
    return catalogue, spec, params


@pytest.fixture(scope="module")
def measured(config, log, model):
    """Returns measure(overrides, devices), which caches its results."""
    catalogue, spec, params = model

    @functools.cache
    def measured(devices: int = 1, **overrides: str | float):
        other = replace(config, {name.replace("__", "."): value for name, value in overrides.items()})
        mesh = make_mesh(replace(other, {"mesh.data": devices}).mesh)
        return measure(TrainedModel(other, log, catalogue, spec, mesh, put_replicated(params, mesh), 0), TEST)

    return measured


def sessions_of(config: Config, log, model):
    """Yields (session of the log, its score of every item) for each target, from the model's queries."""
    catalogue, spec, params = model
    side = jax.tree.map(jnp.asarray, catalogue.side)
    e_VD = np.asarray(sessionrec.embed(spec, params, jnp.arange(spec.ids), side))
    apply = jax.jit(sessionrec.apply, static_argnums=0)
    for batch in eval_batches(config, log, shape_of(config, 1), TEST):
        inputs = jax.tree.map(lambda x_G: x_G[0], put_batch(batch, make_mesh(config.mesh)).shards())
        retrieval_SD = np.asarray(apply(spec, params, inputs, side)[1].retrieval_SD)
        for slot in np.flatnonzero(batch.target_GRL):
            score_V = e_VD @ retrieval_SD[slot - 1] + params["heads"]["item_bias"][: spec.ids]
            yield batch.log_session_GRL.reshape(-1)[slot], score_V


@pytest.mark.parametrize("seen_items", ["kept", "masked"])
def test_the_pass_equals_a_plain_one_session_by_session(config, log, model, measured, seen_items):
    flat, by_user = log.arrays(), {}
    recall, hit, best, auc = [], [], [], []
    for session, score_V in sessions_of(config, log, model):
        user = int(np.searchsorted(flat.user_session_offsets_U1, session, side="right")) - 1
        begin = flat.user_session_offsets_U1[user]
        before, own = (
            slice(*flat.session_item_offsets_S1[[first, last]])
            for first, last in ((begin, session), (session, session + 1))
        )
        seen = (
            set(flat.item_N[before][flat.feedback_N[before] != CONTEXT].tolist()) if seen_items == "masked" else set()
        )
        clicked = set(flat.item_N[own][flat.feedback_N[own] == CLICKED].tolist())
        ignored = flat.item_N[own][flat.feedback_N[own] < CLICKED]
        candidates = sorted(set(range(1, len(score_V))) - seen, key=lambda item: -score_V[item])
        ranks = [candidates.index(item) for item in clicked - seen]
        if ranks:
            recall.append(np.mean(np.array(ranks) < 10))
            hit.append(min(ranks) < 10)
            best.append(1 / (1 + min(ranks)))
            by_user[user] = by_user.get(user, 0) + best[-1]
        if clicked and len(ignored):
            score_C = score_V[flat.item_N[own][flat.feedback_N[own] == CLICKED]]
            auc.append(np.mean(np.sign(score_C[:, None] - score_V[ignored]) / 2 + 0.5))
    metrics = measured(data__eval_seen=seen_items)
    assert metrics.mean("recall_at_10") == pytest.approx(np.mean(recall), rel=1e-5)
    assert metrics.mean("hit_at_10") == pytest.approx(np.mean(hit), rel=1e-5)
    assert metrics.mean("mrr") == pytest.approx(np.mean(best), rel=1e-5)
    assert metrics.mean("retrieval_auc") == pytest.approx(np.mean(auc), rel=1e-5)
    frame = metrics.by_user().filter(metric="mrr")
    assert dict(zip(frame["user"], frame["x"], strict=True)) == pytest.approx(by_user, rel=1e-5)


@pytest.mark.parametrize("seen_items", mostly_slow(["kept", "masked"], quick=["masked"]))
def test_eight_devices_measure_what_one_does(measured, seen_items):
    one, eight = measured(data__eval_seen=seen_items), measured(8, data__eval_seen=seen_items)
    for name, value in one.result().items():
        other = eight.result()[name]
        assert (other is None) == (value is None), name
        assert value is None or other == pytest.approx(value, rel=1e-4), name


def test_masking_changes_the_ranking_metrics_alone(measured):
    kept, masked = measured(data__eval_seen="kept").result(), measured(data__eval_seen="masked").result()
    changed = {name.removesuffix("_stderr") for name in kept if kept[name] != masked[name]}
    assert {"mrr", "ndcg_at_10", "recall_at_10"} <= changed <= set(RANKING)


def test_among_the_shown_alone_the_rest_is_the_same_and_the_catalogue_has_no_term(measured):
    all_items, shown = measured(data__eval_seen="kept").result(), measured(data__eval_candidates="shown").result()
    missing = {name.removesuffix("_stderr") for name in all_items if shown.get(name) is None} - {
        name.removesuffix("_stderr") for name in all_items if all_items[name] is None
    }
    assert missing >= {*RANKING, "loss_nats_per_item"}
    assert {"rank_nats_per_exposure", "rank_auc", "rank_loss", "rank_bayes_nats_per_exposure"} <= shown.keys() - missing
    assert all(value == pytest.approx(all_items[name], rel=1e-6) for name, value in shown.items() if value is not None)


def test_runs_that_score_the_shown_alone_are_chosen_by_the_rank_loss(config, measured):
    metrics, shown = measured(data__eval_candidates="shown"), replace(config, {"data.eval_candidates": "shown"})
    assert validated(metrics, shown)["validation_objective"] == metrics.mean("rank_loss")


@pytest.mark.parametrize("seen_items", ["kept", "masked"])
def test_before_the_first_step_the_ranking_is_popularitys(config, log, model, seen_items):
    catalogue, spec, _ = model
    config, mesh = replace(config, {"data.eval_seen": seen_items}), make_mesh(config.mesh)
    params = initial_state(config, spec, catalogue, mesh).params
    metrics = evaluate(TrainedModel(config, log, catalogue, spec, mesh, params, 0), TEST)
    popularity = evaluate_baselines(config, log, catalogue, TEST)
    assert metrics["seen_items"] == popularity["seen_items"] == seen_items
    for name in RANKING:  # ties count against the model
        assert metrics[name] == pytest.approx(popularity[f"popularity_{name}"], abs=0.03), name
        assert metrics[name] <= popularity[f"popularity_{name}"]
    assert metrics["rank_auc"] == 0.5


def test_rank_metrics_are_missing_where_the_rank_score_means_nothing(measured):
    whole, pairs, none = (measured(**{"loss__alpha": a, "loss__rank": rank}).result()
                          for a, rank in ((1.0, "pointwise"), (1.0, "pairwise"), (0.0, "pointwise")))  # fmt: skip
    orders = ("rank_auc", "rank_gauc", "rank_ndcg")
    assert whole["rank_nats_per_exposure"] > 0
    assert pairs["rank_nats_per_exposure"] is none["rank_nats_per_exposure"] is None
    assert all(pairs[name] == whole[name] and none[name] is None for name in orders)
    assert none["retrieval_auc"] == whole["retrieval_auc"]


def test_slots_know_their_user_and_session_of_the_log(config, log):
    flat = log.arrays()
    for role in (VALIDATION, TEST):
        for batch in eval_batches(config, log, shape_of(config, 2), role):
            session_GT = np.take_along_axis(
                np.pad(batch.log_session_GRL.reshape(2, -1), ((0, 0), (0, 1))), batch.session_of_item_GT, axis=1
            )
            real_GT = batch.item_GT > 0
            session, item = session_GT[real_GT], batch.item_GT[real_GT]
            np.testing.assert_array_equal(flat.item_N[flat.session_item_offsets_S1[session] + place_in(session)], item)
            used = batch.user_of_session_GRL > 0
            user = batch.log_user_GRL[used]
            session = batch.log_session_GRL[used]
            assert np.all(flat.user_session_offsets_U1[user] <= session)
            assert np.all(session < flat.user_session_offsets_U1[user + 1])


def place_in(session_X: np.ndarray) -> np.ndarray:
    """Returns the place of each entry among the neighbouring entries of its session."""
    start_X = np.flatnonzero(np.diff(session_X, prepend=-1))
    return np.arange(len(session_X)) - np.repeat(start_X, np.diff(np.append(start_X, len(session_X))))
