"""The item-level baselines: what a slot is, that no label of next-session prediction is missing, the same targets."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import eval_batches, shape_of
from sessionrec_jax.data.codes import CLICKED, TEST, TRAIN, VALIDATION
from sessionrec_jax.data.item_level import slots, targets
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import make_windows
from sessionrec_jax.errors import InputError

ITEM_LEVEL = ("nipp", "nipp_plus")


def random_log(seed: int, users: int = 30) -> FlatLog:
    """Makes users of one to six sessions of one to four exposures, ignored, clicked and context, with roles along
    the history.
    """
    rng = np.random.default_rng(seed)
    sessions_U = rng.integers(1, 7, users)
    items_S = rng.integers(1, 5, sessions_U.sum())
    left_S = np.concatenate([np.arange(n, 0, -1) for n in sessions_U])
    return FlatLog(
        item_N=rng.integers(1, 50, items_S.sum()).astype(np.int32),
        feedback_N=rng.integers(0, 3, items_S.sum()).astype(np.int8),
        session_items_S=items_S.astype(np.int32),
        session_seconds_S=np.cumsum(rng.integers(1, 100, len(items_S))),
        session_role_S=np.select([left_S == 1, left_S == 2], [TEST, VALIDATION], TRAIN).astype(np.int8),
        user_session_offsets_U1=np.append(0, np.cumsum(sessions_U)),
    )


def histories(log: FlatLog) -> list[list[tuple[list[tuple[int, int]], int, int]]]:
    """Returns the sessions of each user, each as (exposures, seconds, role)."""
    exposures = list(zip(log.item_N.tolist(), log.feedback_N.tolist(), strict=True))
    item_S1, of_user = log.session_item_offsets_S1, log.user_session_offsets_U1
    whole = [
        (exposures[item_S1[s] : item_S1[s + 1]], int(log.session_seconds_S[s]), int(log.session_role_S[s]))
        for s in range(len(log.session_items_S))
    ]
    return [whole[of_user[u] : of_user[u + 1]] for u in range(log.users)]


def expected_slots(history, name: str) -> list:
    """Returns a user's history slot by slot, by the definition."""
    kept = [[x for x in content if name == "nipp_plus" or x[1] == CLICKED] for content, _, _ in history]
    found = [] if kept[0] else [([], history[0][1], TRAIN)]
    return found + [([x], seconds, role) for one, (_, seconds, role) in zip(kept, history, strict=True) for x in one]


@pytest.mark.parametrize("name", ITEM_LEVEL)
@pytest.mark.parametrize("seed", range(5))
def test_slots_are_the_kept_exposures_in_order(name, seed):
    log = random_log(seed)
    assert histories(slots(log, name).log) == [expected_slots(history, name) for history in histories(log)]


def test_next_session_prediction_takes_the_log_as_it_is():
    log = random_log(0)
    assert slots(log, "nspp").log is log


def test_on_sessions_of_one_clicked_item_all_paradigms_are_the_same():
    log = random_log(1)
    first_N = log.session_item_offsets_S1[:-1]
    ones = dataclasses.replace(
        log,
        item_N=log.item_N[first_N],
        feedback_N=np.full(len(first_N), CLICKED, np.int8),
        session_items_S=np.ones(len(first_N), np.int32),
    )
    for name in ITEM_LEVEL:
        assert histories(slots(ones, name).log) == histories(ones)


@pytest.mark.parametrize("name", ITEM_LEVEL)
@pytest.mark.parametrize("history", [1, 3, 40])
def test_a_held_out_session_follows_whole_after_the_slots_of_its_history(name, history):
    log = random_log(2)
    users = np.arange(3, log.users)
    for role in (VALIDATION, TEST):
        view = targets(log, users, role, name, history=history)
        wanted, whose = [], []
        for user in users:
            sessions = histories(log)[user]
            for place, (content, seconds, its_role) in enumerate(sessions):
                if place and its_role == role:
                    past = [(x, t, TRAIN) for x, t, _ in expected_slots(sessions[:place], name)]
                    wanted.append([*past[-history:], (content, seconds, role)])
                    whose.append(user)
        assert histories(view.log) == wanted
        assert view.user_U.tolist() == whose
        assert np.array_equal(view.log.session_seconds_S, log.session_seconds_S[view.session_S])


@pytest.mark.parametrize("name", ITEM_LEVEL)
def test_every_training_label_of_next_session_prediction_is_one_of_the_baselines(name):
    log = random_log(3)

    def labels(view: FlatLog) -> Counter:
        """Returns the clicked items of training targets with the second of the click."""
        windows = make_windows(view, np.arange(view.users), TRAIN, sessions=200, items=200)
        found: Counter = Counter()
        for first, last in zip(windows.first_target_W, windows.last_W, strict=True):
            for session in range(first, last):
                place = slice(*view.session_item_offsets_S1[session : session + 2])
                clicked = view.feedback_N[place] == CLICKED
                found.update((item, view.session_seconds_S[session]) for item in view.item_N[place][clicked].tolist())
        return found

    assert labels(log) <= labels(slots(log, name).log)


@pytest.fixture(scope="module", params=["held_out_users", "leave_one_session_out"])
def split_log(request, tmp_path_factory):
    from sessionrec_jax.data.preparation.prepare import Settings, prepare
    from sessionrec_jax.data.sources import synthetic

    raw = synthetic.read(synthetic.Options(users=120, base=4, depth=3, seed=3))
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings(split=request.param))


def test_all_paradigms_are_scored_on_the_same_targets(config, split_log):
    def scored(name: str) -> Counter:
        changed = {"paradigm": name, "data.items_per_row": 0, "data.fingerprint": "", "loss.alpha": 0.0}
        its = resolve(replace(config, changed), split_log)
        found: Counter = Counter()
        for batch in eval_batches(its, split_log, shape_of(its, 2), TEST):
            target_GS = batch.target_GRL.reshape(2, -1)
            user_GS = batch.log_user_GRL.reshape(2, -1)
            for shard, place in np.argwhere(batch.item_GT):
                slot = batch.session_of_item_GT[shard, place]
                if target_GS[shard, slot] and batch.feedback_GT[shard, place] <= CLICKED:
                    exposure = (batch.item_GT[shard, place], batch.feedback_GT[shard, place])
                    found[(int(user_GS[shard, slot]), *map(int, exposure))] += 1
        return found

    assert scored("nspp") == scored("nipp") == scored("nipp_plus") != Counter()


def test_what_a_paradigm_cannot_learn_is_refused(config):
    with pytest.raises(InputError, match=r"nipp sees clicked items only, .* wanted --loss.alpha 0"):
        check(replace(config, {"paradigm": "nipp"}))
    with pytest.raises(InputError, match=r"no pairs; wanted --loss.rank pointwise"):
        check(replace(config, {"paradigm": "nipp_plus", "loss.rank": "pairwise"}))
