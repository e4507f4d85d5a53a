"""Compares metrics with their definitions, session by session, and with scikit-learn; a metric without a term
stays missing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score, top_k_accuracy_score

from sessionrec_jax.evaluation.metrics import CUTOFFS, Exposures, Metrics, add_ranking, add_within_session

CATALOGUE = 800
USER_OF_SESSION = np.array([0, 0, 1, 2, 3, 3, 4, 5])
SESSIONS, USERS = len(USER_OF_SESSION), 7


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def shuffled_sessions(rng: np.random.Generator, most: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the session of each term in random order, and the places of each session's terms."""
    session_N = rng.permutation(np.repeat(np.arange(SESSIONS), rng.integers(1, most, SESSIONS)))
    return session_N, [np.flatnonzero(session_N == s) for s in range(SESSIONS)]


@pytest.fixture
def ranked(rng):
    """Returns random catalogue ranks of the clicked items of each session."""
    session_N, places = shuffled_sessions(rng, 70)
    rank_N = np.empty(len(session_N), np.int64)
    for place in places:
        rank_N[place] = rng.choice(CATALOGUE, len(place), replace=False)
    return session_N, places, rank_N


@pytest.fixture
def exposed(rng):
    """Returns random scores with many ties, and labels, of the exposures of each session."""
    session_N, places = shuffled_sessions(rng, 12)
    return session_N, places, rng.integers(0, 4, len(session_N)) / 2, rng.random(len(session_N)) < 0.4


def rank_metrics(rank_N, session_N):
    metrics = Metrics(USERS)
    add_ranking(metrics, rank_N, session_N + 1_000, USER_OF_SESSION[session_N])
    return metrics


def score_metrics(score_N, clicked_N, session_N):
    metrics = Metrics(USERS)
    add_within_session(metrics, "rank", score_N, Exposures(clicked_N, session_N, USER_OF_SESSION[session_N]))
    return metrics


def test_ranking_equals_its_definition(ranked):
    session_N, places, rank_N = ranked
    metrics = rank_metrics(rank_N, session_N)
    for k in CUTOFFS:
        recall, hit, ndcg = [], [], []
        for place in places:
            relevant_V = np.isin(np.arange(CATALOGUE), rank_N[place])  # the ranked list, best first
            recall.append(relevant_V[:k].sum() / relevant_V.sum())
            hit.append(relevant_V[:k].any())
            ndcg.append(ndcg_score(relevant_V[None].astype(int), -np.arange(CATALOGUE)[None], k=k))
        assert metrics.mean(f"recall_at_{k}") == pytest.approx(np.mean(recall))
        assert metrics.mean(f"hit_at_{k}") == pytest.approx(np.mean(hit))
        assert metrics.mean(f"ndcg_at_{k}") == pytest.approx(np.mean(ndcg))
    assert metrics.mean("mrr") == pytest.approx(np.mean([1 / (1 + rank_N[place].min()) for place in places]))


def test_with_one_click_recall_and_hit_rate_are_the_top_k_accuracy(rng):
    item_S, score_SV = rng.integers(0, CATALOGUE, SESSIONS), rng.normal(size=(SESSIONS, CATALOGUE))
    score_SV[np.arange(SESSIONS), item_S] += 2
    rank_S = np.sum(score_SV > score_SV[np.arange(SESSIONS), item_S][:, None], axis=1)
    metrics = rank_metrics(rank_S, np.arange(SESSIONS))
    for k in CUTOFFS:
        accuracy = top_k_accuracy_score(item_S, score_SV, k=k, labels=np.arange(CATALOGUE))
        assert metrics.mean(f"recall_at_{k}") == metrics.mean(f"hit_at_{k}") == pytest.approx(accuracy)


def test_a_perfect_ranking_scores_one():
    metrics = rank_metrics(np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]))
    assert {metrics.mean(name) for name in metrics.sums} == {1.0}


def test_order_within_the_session_equals_scikit_learns(exposed):
    session_N, places, score_N, clicked_N = exposed
    metrics = score_metrics(score_N, clicked_N, session_N)
    both = [place for place in places if 0 < clicked_N[place].sum() < len(place)]
    assert 1 < len(both) < SESSIONS
    auc = [roc_auc_score(clicked_N[place], score_N[place]) for place in both]
    ndcg = [ndcg_score(clicked_N[place][None].astype(int), score_N[place][None]) for place in both]
    assert metrics.mean("rank_auc") == pytest.approx(np.mean(auc))
    assert metrics.mean("rank_gauc") == pytest.approx(np.average(auc, weights=[len(place) for place in both]))
    assert metrics.mean("rank_ndcg") == pytest.approx(np.mean(ndcg))


def test_ties_are_worth_what_a_random_order_of_them_gives():
    """Enumerates all orders of three exposures with one score and takes the mean."""
    clicked_N, session_N = np.array([True, False, False]), np.zeros(3, np.int64)
    tied = score_metrics(np.zeros(3), clicked_N, session_N)
    orders = [score_metrics(np.array(order, float), clicked_N, session_N) for order in itertools.permutations(range(3))]
    for name in ("rank_auc", "rank_gauc", "rank_ndcg"):
        assert tied.mean(name) == pytest.approx(np.mean([metrics.mean(name) for metrics in orders]))


def test_a_rising_function_of_the_score_changes_nothing(exposed):
    session_N, _, score_N, clicked_N = exposed
    plain, bent, turned = (score_metrics(score, clicked_N, session_N) for score in (score_N, np.exp(score_N), -score_N))
    assert plain.result() == bent.result()
    assert turned.mean("rank_auc") == pytest.approx(1 - plain.mean("rank_auc"))


# Users.


def test_the_order_of_batches_does_not_matter_and_a_user_may_be_in_several(rng):
    user_N, x_N, n_N = rng.integers(0, USERS, 60), rng.normal(size=60), rng.integers(1, 4, 60).astype(float)
    whole = Metrics(USERS)
    whole.add("loss", x_N, user_N, n_N)
    parts = Metrics(USERS)
    for part in np.array_split(rng.permutation(60), 7):
        parts.add("loss", x_N[part], user_N[part], n_N[part])
    assert parts.mean("loss") == pytest.approx(whole.mean("loss"))
    assert parts.stderr("loss") == pytest.approx(whole.stderr("loss"))


def test_the_standard_error_is_the_bootstraps_over_users(rng):
    """Users differ in size and the terms of a user are the same: taking terms as independent would be far too sure."""
    users = 300
    user_N = np.repeat(np.arange(users), rng.geometric(0.2, users))
    x_N = rng.normal(size=users)[user_N] + 0.3 * rng.normal(size=len(user_N)) + 5
    metrics = Metrics(users + 50)  # users without a term do not count
    metrics.add("loss", x_N, user_N)

    x_U, n_U = np.bincount(user_N, x_N), np.bincount(user_N)
    draw_BU = rng.integers(0, users, (2_000, users))
    bootstrap = (x_U[draw_BU].sum(axis=1) / n_U[draw_BU].sum(axis=1)).std()
    assert metrics.stderr("loss") == pytest.approx(bootstrap, rel=0.2)
    assert metrics.stderr("loss") > 1.5 * x_N.std() / np.sqrt(len(x_N))


def test_the_sums_by_user_give_the_means_back(ranked):
    session_N, _, rank_N = ranked
    metrics = rank_metrics(rank_N, session_N)
    frame = metrics.by_user()
    assert frame.columns == ["user", "metric", "x", "n"]
    assert frame.filter(metric="mrr")["user"].to_list() == sorted(set(USER_OF_SESSION))
    for (name,), part in frame.group_by("metric"):
        assert part["x"].sum() / part["n"].sum() == pytest.approx(metrics.mean(name))
    assert set(frame["metric"]) == set(metrics.sums)
    assert Metrics(USERS).by_user().columns == frame.columns


def test_missing_stays_missing():
    none, one_session = np.zeros(0, np.int64), np.array([1, 1])
    metrics = Metrics(USERS)
    add_ranking(metrics, none, none, none)
    add_within_session(metrics, "rank", none.astype(float), Exposures(none.astype(bool), none, none))
    add_within_session(
        metrics, "rank", np.array([0.1, 0.2]), Exposures(np.array([True, True]), one_session, one_session)
    )
    metrics.add("loss", none.astype(float), none)
    assert set(metrics.sums) >= {"mrr", "rank_auc", "rank_gauc", "rank_ndcg", "loss"}
    assert set(metrics.result().values()) == {None}
    assert metrics.mean("never added") is metrics.stderr("never added") is None


def test_one_user_has_a_mean_and_no_standard_error():
    metrics = Metrics(USERS)
    metrics.add("loss", np.array([1.0, 2.0]), np.zeros(2, np.int64))
    assert metrics.result() == {"loss": 1.5, "loss_stderr": None}
