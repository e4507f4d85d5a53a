"""Metrics against their definitions, session by session; sums merge in any order; what has no term stays missing."""

from __future__ import annotations

import functools
import itertools
import operator

import numpy as np
import pytest

from sessionrec_jax import baselines
from sessionrec_jax.data.batches import CLICKED, CONTEXT, IGNORED, Batch
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.metrics import CUTOFFS, Metrics, Ratio, add_auc, add_ranking

CATALOGUE = 800
CLUSTER_OF_SESSION = np.array([0, 0, 1, 2, 3, 3, 4, 5])
SESSIONS = len(CLUSTER_OF_SESSION)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def shuffled_sessions(rng: np.random.Generator, most: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Session of each term in random order, and the places of each session's terms."""
    session_N = rng.permutation(np.repeat(np.arange(SESSIONS), rng.integers(1, most, SESSIONS)))
    return session_N, [np.flatnonzero(session_N == s) for s in range(SESSIONS)]


def test_ranking_equals_its_definition(rng):
    session_N, places = shuffled_sessions(rng, 70)
    rank_N = np.empty(len(session_N), np.int64)
    for place in places:
        rank_N[place] = rng.choice(CATALOGUE, len(place), replace=False)
    metrics = Metrics()
    add_ranking(metrics, rank_N, session_N, CLUSTER_OF_SESSION)

    for k in CUTOFFS:
        recall, ndcg = [], []
        for place in places:
            relevant_V = np.isin(np.arange(CATALOGUE), rank_N[place])  # the ranked list, best first
            discount_V = 1 / np.log2(np.arange(CATALOGUE) + 2)
            ideal = np.sort(relevant_V)[::-1][:k] @ discount_V[:k]
            recall.append(relevant_V[:k].sum() / relevant_V.sum())
            ndcg.append(relevant_V[:k] @ discount_V[:k] / ideal)
        assert metrics.mean(f"recall_at_{k}") == pytest.approx(np.mean(recall))
        assert metrics.mean(f"ndcg_at_{k}") == pytest.approx(np.mean(ndcg))
    assert metrics.mean("mrr") == pytest.approx(np.mean([1 / (1 + rank_N[place].min()) for place in places]))


def test_a_perfect_ranking_scores_one():
    metrics = Metrics()
    add_ranking(metrics, np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]), CLUSTER_OF_SESSION)
    assert {metrics.mean(name) for name in metrics.ratios} == {1.0}


def test_auc_equals_the_share_of_ordered_pairs(rng):
    session_N, places = shuffled_sessions(rng, 12)
    score_N = rng.integers(0, 4, len(session_N)) / 2  # many ties
    clicked_N = rng.random(len(session_N)) < 0.4
    metrics = Metrics()
    add_auc(metrics, score_N, clicked_N, session_N, CLUSTER_OF_SESSION)

    auc = []
    for place in places:
        clicked, ignored = score_N[place][clicked_N[place]], score_N[place][~clicked_N[place]]
        pairs = [(c > i) + 0.5 * (c == i) for c, i in itertools.product(clicked, ignored)]
        auc += [np.mean(pairs)] if pairs else []
    assert 1 < len(auc) <= SESSIONS
    assert metrics.mean("rank_auc") == pytest.approx(np.mean(auc))


def test_auc_does_not_change_under_a_rising_function_of_the_score(rng):
    session_N, _ = shuffled_sessions(rng, 12)
    score_N, clicked_N = rng.normal(size=len(session_N)), rng.random(len(session_N)) < 0.5
    aucs = []
    for scores in (score_N, np.exp(3 * score_N), -score_N):
        metrics = Metrics()
        add_auc(metrics, scores, clicked_N, session_N, CLUSTER_OF_SESSION)
        aucs.append(metrics.mean("rank_auc"))
    assert aucs[0] == aucs[1] == pytest.approx(1 - aucs[2])


def test_ratios_merge_in_any_order_to_the_whole(rng):
    cluster_N = np.sort(rng.integers(0, 9, 60))
    x_N, n_N = rng.normal(size=60), rng.integers(1, 4, 60).astype(float)
    parts = [
        Ratio.of(x_N[cluster_N % 3 == k], n_N[cluster_N % 3 == k], cluster_N[cluster_N % 3 == k]) for k in range(3)
    ]
    whole = Ratio.of(x_N, n_N, cluster_N)
    for order in itertools.permutations(parts):
        merged = functools.reduce(operator.add, order, Ratio())
        assert merged.clusters == whole.clusters == 9
        assert merged.mean == pytest.approx(whole.mean)
        assert merged.stderr == pytest.approx(whole.stderr)


def test_the_standard_error_is_the_bootstraps_over_clusters(rng):
    """Clusters of unequal size whose terms are alike: taking the terms as independent would be far too sure."""
    clusters = 300
    cluster_N = np.repeat(np.arange(clusters), rng.geometric(0.2, clusters))
    x_N = rng.normal(size=clusters)[cluster_N] + 0.3 * rng.normal(size=len(cluster_N)) + 5
    ratio = Ratio.of(x_N, np.ones(len(x_N)), cluster_N)

    x_C, n_C = np.bincount(cluster_N, x_N), np.bincount(cluster_N)
    draw_BC = rng.integers(0, clusters, (2_000, clusters))
    bootstrap = (x_C[draw_BC].sum(axis=1) / n_C[draw_BC].sum(axis=1)).std()
    assert ratio.stderr == pytest.approx(bootstrap, rel=0.2)
    assert ratio.stderr > 1.5 * x_N.std() / np.sqrt(len(x_N))


def test_missing_stays_missing():
    none, one_kind = np.zeros(0, np.int64), np.array([1, 1])
    metrics = Metrics()
    add_ranking(metrics, none, none, CLUSTER_OF_SESSION)
    add_auc(metrics, none.astype(float), none.astype(bool), none, CLUSTER_OF_SESSION)
    add_auc(metrics, np.array([0.1, 0.2]), np.array([True, True]), one_kind, CLUSTER_OF_SESSION)
    metrics.add("loss", none, none)
    assert set(metrics.ratios) >= {"mrr", "rank_auc", "loss"}
    for name in (*metrics.ratios, "never added"):
        assert metrics.mean(name) is None
        assert metrics.stderr(name) is None


def test_one_cluster_has_a_mean_and_no_standard_error():
    ratio = Ratio.of(np.array([1.0, 2.0]), np.ones(2), np.zeros(2, np.int64))
    assert ratio.mean == 1.5
    assert ratio.stderr is None


# Baselines: predictors without parameters, by the same metrics.


@pytest.fixture
def catalogue():
    clicks_V, exposures_V = np.array([0, 3, 9, 0, 3, 1]), np.array([0, 10, 10, 4, 3, 8])
    return from_counts(clicks_V, exposures_V, {}, {})


def test_popularity_is_a_distribution_in_the_order_of_clicks(catalogue):
    share_V = np.exp(catalogue.log_popularity_V)
    assert share_V[0] == 0
    assert share_V.sum() == pytest.approx(1)
    assert share_V[1:].min() > 0  # unseen items too
    assert baselines.popularity_rank(catalogue).tolist() == [5, 1, 0, 4, 2, 3]


def test_click_rates_lie_between_the_items_own_and_the_mean(catalogue):
    own_V = np.array([3 / 10, 9 / 10, 0, 1, 1 / 8])
    low_V, high_V = np.minimum(own_V, catalogue.click_rate), np.maximum(own_V, catalogue.click_rate)
    assert np.all((low_V <= catalogue.click_rate_V[1:]) & (catalogue.click_rate_V[1:] <= high_V))
    nats = baselines.popularity_rank_nats(catalogue, np.array([2, 2]), np.array([True, False]))
    assert np.exp(-nats).sum() == pytest.approx(1)


def test_repeating_the_last_session_ranks_its_clicks_first(catalogue):
    """Shown: 3 ignored, 5 clicked, 4 clicked, 1 as context. Popularity order is 2 1 4 5 3."""
    slots = np.array([[[1, 1]]], np.int32)
    batch = Batch(
        item_GT=np.array([[3, 5, 4, 1, 2, 5, 3, 0]], np.int32),
        feedback_GT=np.array([[IGNORED, CLICKED, CLICKED, CONTEXT, CLICKED, CLICKED, CLICKED, 0]], np.int8),
        session_of_item_GT=np.array([[0, 0, 0, 0, 1, 1, 1, 2]], np.int32),
        user_of_session_GRL=slots,
        position_GRL=np.array([[[0, 1]]], np.int32),
        seconds_GRL=np.zeros_like(slots),
        target_GRL=np.array([[[False, True]]]),
        log_user_GRL=slots,
    )
    rank_N = baselines.repeat_rank(batch, 0, np.array([4, 5, 6]), baselines.popularity_rank(catalogue))
    assert rank_N.tolist() == [4, 1, 3]  # the whole list: 4 5, then 1 3, then 2
