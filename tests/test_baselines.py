"""Compares baselines with dense transcriptions of their definitions, on a log small enough to sort every list in
full.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array

from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.catalogue import from_counts, popularity_rank
from sessionrec_jax.data.codes import CLICKED, CONTEXT, IGNORED, TEST, TRAIN
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.evaluation import baselines
from sessionrec_jax.evaluation.baselines import HeldOutSessions, Predictor, evaluate_baselines, measure_baselines
from sessionrec_jax.evaluation.knn import session_knn
from sessionrec_jax.evaluation.seen import holds, seen_items, users_of

IDS = 9


def flat_log(users: list[list[list[tuple[int, int]]]], held_out: int = 0) -> FlatLog:
    """Makes a log of users given as sessions of (item, feedback); the last `held_out` sessions of each are test
    sessions.
    """
    sessions = [session for user in users for session in user]
    roles = [np.where(np.arange(len(user)) < len(user) - held_out, TRAIN, TEST) for user in users]
    return FlatLog(
        item_N=np.array([item for session in sessions for item, _ in session], np.int32),
        feedback_N=np.array([feedback for session in sessions for _, feedback in session], np.int8),
        session_items_S=np.array([len(session) for session in sessions], np.int32),
        session_seconds_S=np.random.default_rng(0).permutation(len(sessions)).astype(np.int64),
        session_role_S=np.concatenate(roles).astype(np.int8),
        user_session_offsets_U1=np.append(0, np.cumsum([len(user) for user in users], dtype=np.int64)),
    )


@pytest.fixture(scope="module")
def small() -> FlatLog:
    """Makes 25 users of up to 6 sessions of up to 4 exposures, some without a click, some with an item twice; one
    user has no session."""
    rng = np.random.default_rng(3)

    def session() -> list[tuple[int, int]]:
        return [(int(rng.integers(1, IDS)), int(rng.integers(0, 3))) for _ in range(rng.integers(1, 5))]

    users = [[session() for _ in range(rng.integers(2, 7))] for _ in range(25)]
    return flat_log([*users[:4], [], *users[4:]], held_out=1)


def clicked_in(log: FlatLog, session: int) -> set[int]:
    exposures = slice(*log.session_item_offsets_S1[session : session + 2])
    return set(log.item_N[exposures][log.feedback_N[exposures] == CLICKED].tolist())


# Popularity.


@pytest.fixture
def catalogue():
    clicks_V, exposures_V = np.array([0, 3, 9, 0, 3, 1]), np.array([0, 10, 10, 4, 3, 8])
    return from_counts(clicks_V, exposures_V, {}, {})


def test_popularity_is_a_distribution_in_the_order_of_clicks(catalogue):
    share_V = np.exp(catalogue.log_popularity_V)
    assert share_V[0] == 0
    assert share_V.sum() == pytest.approx(1)
    assert share_V[1:].min() > 0  # unseen items too
    assert popularity_rank(catalogue).tolist() == [5, 1, 0, 4, 2, 3]


def test_click_rates_lie_between_the_items_own_and_the_mean(catalogue):
    own_V = np.array([3 / 10, 9 / 10, 0, 1, 1 / 8])
    low_V, high_V = np.minimum(own_V, catalogue.click_rate), np.maximum(own_V, catalogue.click_rate)
    assert np.all((low_V <= catalogue.click_rate_V[1:]) & (catalogue.click_rate_V[1:] <= high_V))
    nats = baselines.popularity_rank_nats(catalogue, np.array([2, 2]), np.array([True, False]))
    assert np.exp(-nats).sum() == pytest.approx(1)


def test_recent_popularity_counts_the_last_part_of_training_and_no_more(small):
    popular_V = np.append(IDS - 1, np.arange(IDS - 1))
    is_trained_S = small.session_role_S == TRAIN
    seconds = small.session_seconds_S
    since = seconds[is_trained_S].max() - 0.3 * np.ptp(seconds[is_trained_S])
    count_V, click = np.zeros(IDS, int), small.feedback_N == CLICKED
    for session in np.flatnonzero(is_trained_S & (seconds >= since)):
        exposures = slice(*small.session_item_offsets_S1[session : session + 2])
        np.add.at(count_V, small.item_N[exposures][click[exposures]], 1)
    by_count = sorted(range(1, IDS), key=lambda item: (-count_V[item], popular_V[item]))
    place_V = baselines.recent_popularity_rank(small, is_trained_S, 0.3, popular_V)
    assert np.argsort(place_V).tolist() == [*by_count, 0]


# Ranks.


@pytest.mark.parametrize("masked", [False, True])
def test_ranks_are_places_in_the_sorted_list_of_candidates(masked):
    rng = np.random.default_rng(5)
    score_SV = rng.integers(0, 4, (30, IDS)) * (rng.random((30, IDS)) < 0.5)
    seen_SV = (rng.random((30, IDS)) < 0.3) & masked
    score_SV[:, 0] = seen_SV[:, 0] = 0
    place_V = np.append(IDS - 1, rng.permutation(IDS - 1))
    row_N, item_N = np.nonzero((rng.random((30, IDS)) < 0.4) & ~seen_SV & (np.arange(IDS) > 0))
    seen = csr_array(seen_SV.astype(float))
    block = HeldOutSessions(np.arange(30), np.arange(30), row_N, item_N, seen)
    rank_N = baselines.ranks(block, Predictor(csr_array(score_SV.astype(float)), place_V))
    for row, item, rank in zip(row_N, item_N, rank_N, strict=True):
        candidates = [v for v in range(1, IDS) if not seen_SV[row, v]]
        assert sorted(candidates, key=lambda v: (-score_SV[row, v], place_V[v])).index(item) == rank


def test_repeating_the_last_session_ranks_its_clicks_first(catalogue):
    """The history shows 3 ignored, 5 and 4 clicked, 1 as context, 4 again ignored. Popularity order is 2 1 4 5 3."""
    shown = [(3, IGNORED), (5, CLICKED), (4, CLICKED), (1, CONTEXT), (4, IGNORED), (5, CLICKED)]
    log = flat_log([[[(1, CLICKED)], shown, [(2, CLICKED), (5, CLICKED), (3, CLICKED)]]])
    block = HeldOutSessions(np.array([2]), np.array([0]), np.zeros(3, int), np.array([2, 5, 3]), csr_array((1, 6)))
    score_SV = baselines.last_session(log, block.session_S, 6)
    rank_N = baselines.ranks(block, Predictor(score_SV, popularity_rank(catalogue)))
    assert rank_N.tolist() == [4, 1, 3]  # the whole list: 4 5, then 1 3, then 2


# Seen items.


def test_seen_items_are_the_exposures_of_earlier_sessions(small):
    session_S = np.arange(len(small.session_role_S))
    seen_SV = seen_items(small, session_S, IDS)
    for session, user in enumerate(users_of(small, session_S)):
        begin = small.user_session_offsets_U1[user]
        exposures = slice(small.session_item_offsets_S1[begin], small.session_item_offsets_S1[session])
        wanted = set(small.item_N[exposures][small.feedback_N[exposures] != CONTEXT].tolist())
        assert set(seen_SV[[session]].indices.tolist()) == wanted
        of_row = holds(seen_SV, np.full(IDS, session), np.arange(IDS))
        assert set(np.flatnonzero(of_row).tolist()) == wanted


# Session kNN.


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_session_knn_equals_its_definition(small, decay, monkeypatch):
    """Finds neighbours by a full sort of all transitions, without held-out sessions."""
    monkeypatch.setattr("sessionrec_jax.evaluation.knn._ENTRIES", 40)  # many parts
    is_trained_S = small.session_role_S == TRAIN
    user_S = users_of(small, np.arange(len(is_trained_S)))
    pairs = [
        (s, s + 1)
        for s in range(len(user_S) - 1)
        if user_S[s] == user_S[s + 1] and is_trained_S[[s, s + 1]].all() and clicked_in(small, s)
        if clicked_in(small, s + 1)
    ]
    session_S = np.flatnonzero(~is_trained_S)
    ks = (1, 5, 1_000)
    votes = list(session_knn(small, is_trained_S, IDS).votes(session_S, decay, ks))
    for row, session in enumerate(session_S):
        query_V = np.zeros(IDS)
        for past in range(small.user_session_offsets_U1[user_S[session]], session):
            exposures = slice(*small.session_item_offsets_S1[past : past + 2])
            items = small.item_N[exposures][small.feedback_N[exposures] == CLICKED]
            np.add.at(query_V, items, decay ** (session - 1 - past))
        near = []
        for earlier, later in pairs:
            clicked_V = np.isin(np.arange(IDS), list(clicked_in(small, earlier)))
            cosine = query_V @ clicked_V / (np.linalg.norm(query_V) * np.linalg.norm(clicked_V)) if any(query_V) else 0
            near.append((-round(cosine, 9), -small.session_seconds_S[later], later))
        for k, vote_SV in zip(ks, votes, strict=True):
            wanted_V = np.zeros(IDS)
            for minus_cosine, _, later in sorted(near)[:k]:
                wanted_V[list(clicked_in(small, later))] -= minus_cosine
            np.testing.assert_allclose(vote_SV.toarray()[row], wanted_V, atol=1e-7)


# The whole pass.


def test_popularity_over_a_prepared_log_equals_its_definition(config, log):
    catalogue = train_catalogue(config, log)
    metrics = evaluate_baselines(config, log, catalogue, TEST)
    place_V, flat, best = popularity_rank(catalogue), log.arrays(), []
    for user in log.users_of(TEST):
        begin, end = flat.user_session_offsets_U1[user : user + 2]
        for session in range(begin + 1, end):
            ranks = [place_V[item] for item in clicked_in(flat, session)]
            best += [min(ranks)] if ranks else []
    assert metrics["popularity_mrr"] == pytest.approx(np.mean(1 / (1 + np.array(best))))
    assert metrics["popularity_hit_at_10"] == pytest.approx(np.mean(np.array(best) < 10))
    assert metrics["seen_items"] == "kept"
    assert metrics["session_knn_ndcg_at_50_stderr"] > 0


def test_what_is_chosen_and_counted_does_not_depend_on_the_sessions_that_are_scored(config, log):
    catalogue = train_catalogue(config, log)
    fewer = replace(config, {"data.eval_users": 5})
    sums, chosen = measure_baselines(config, log, catalogue, TEST)
    of_few, _ = measure_baselines(fewer, log, catalogue, TEST)
    assert chosen["recent_popularity_part"] in baselines.RECENT_PARTS
    few = log.users_of(TEST)[:5]
    for name in ("popularity_mrr", "repeat_last_mrr"):  # the choice of the others reads fewer validation users too
        np.testing.assert_allclose(sums.sums[name][0][few], of_few.sums[name][0][few])
        assert of_few.sums[name][1].sum() == of_few.sums[name][1][few].sum()


@pytest.mark.slow
def test_session_knn_of_rich_sessions_takes_less_than_a_gigabyte():
    """2,438 users, 92,000 items, sessions of 18 clicks: the process is asked for its peak, with what it began with."""
    program = """
import resource, numpy as np
from scipy.sparse import csr_array
from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.evaluation import baselines
from sessionrec_jax.evaluation.knn import DECAYS, NEIGHBOURS, session_knn
users, sessions, clicks, ids = 2_438, 10, 18, 92_000
rng = np.random.default_rng(0)
n = users * sessions
item = np.minimum((rng.pareto(0.7, n * clicks) * 20).astype(np.int64), ids - 2) + 1
role = np.tile([0] * (sessions - 1) + [2], users).astype(np.int8)
log = FlatLog(item.astype(np.int32), np.full(n * clicks, CLICKED, np.int8), np.full(n, clicks, np.int32),
              np.sort(rng.integers(0, 10**6, n)), role, np.arange(0, n + 1, sessions))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
knn = session_knn(log, role == 0, ids)
asked = np.flatnonzero(role == 2)
row, of = np.nonzero(np.ones((len(asked), clicks)))
target = item.reshape(n, clicks)[asked].reshape(-1)
held = baselines.HeldOutSessions(asked, np.arange(users), row, target, csr_array((users, ids)))
place = rng.permutation(ids)
for block in held.blocks(knn.sessions_at_once):
    for votes in knn.votes(block.session_S, 0.8, NEIGHBOURS):
        assert baselines.ranks(block, baselines.Predictor(votes, place)).min() >= 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024
