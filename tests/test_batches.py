"""Contract 2: every target session is scored exactly once, on any number of devices, from any place it is resumed."""

from __future__ import annotations

import dataclasses
import json
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from grid import mostly_slow

from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import (
    Batch,
    Batches,
    eval_batches,
    shape_of,
    train_batches,
    train_catalogue,
    train_users,
)
from sessionrec_jax.data.codes import CLICKED, TEST, TRAIN, VALIDATION
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import RawLog, synthetic
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import make_windows
from sessionrec_jax.errors import InputError

ROLES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def one_pass(config, prepared, role: int, shards: int = 1) -> Batches:
    """Reads each window of a role once, training windows too in the log's order, so that the pass ends with the
    windows.
    """
    shape = shape_of(config, shards)
    if role != TRAIN:
        return eval_batches(config, prepared, shape, role)
    return Batches(dataclasses.replace(train_batches(config, prepared, shape).packer, seed=None))


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Batch))


class Packed(NamedTuple):
    """One session in a batch."""

    user: tuple[int, int, int]
    """The shard, the row and the number of the packed user."""
    position: int
    seconds: int
    target: bool
    items: list[tuple[int, int]]
    """The item and the feedback of each exposure."""


def sessions(batch: Batch) -> list[Packed]:
    """Yields the packed sessions of a batch in the order of slots, read by contract 2 alone."""
    found = []
    for shard, row, place in np.argwhere(batch.user_of_session_GRL):
        slot = row * batch.user_of_session_GRL.shape[2] + place
        places = np.flatnonzero(batch.session_of_item_GT[shard] == slot)
        by_slot = (batch.position_GRL, batch.seconds_GRL, batch.target_GRL)
        items = list(zip(batch.item_GT[shard, places], batch.feedback_GT[shard, places], strict=True))
        user = (shard, row, batch.user_of_session_GRL[shard, row, place])
        found.append(Packed(user, *(values[shard, row, place] for values in by_slot), items))
    return found


def stored(log: FlatLog, session: int) -> list[tuple[int, int]]:
    """Returns the items and feedback of a session of the log."""
    places = slice(*log.session_item_offsets_S1[session : session + 2])
    return list(zip(log.item_N[places], log.feedback_N[places], strict=True))


def windows_of(batches: Batches) -> list[list[Packed]]:
    """Yields packed sessions, window by window."""
    found: list[list[Packed]] = []
    for batch in batches:
        by_user: dict[tuple, list[Packed]] = {}
        for session in sessions(batch):
            by_user.setdefault(session.user, []).append(session)
        found += by_user.values()
    return found


@pytest.fixture(scope="module", params=["held_out_users", "leave_one_session_out"])
def split_log(request, tmp_path_factory):
    """Returns a log with roles by user, and one with roles along each history."""
    raw = synthetic.read(synthetic.Options(users=150, base=4, depth=3, seed=2))
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings(split=request.param))


@pytest.fixture(scope="module")
def by_content(split_log):
    """Maps the content of a session to its number in the log, for the sessions whose content is unique (nearly all)."""
    flat = split_log.arrays()
    found = {}
    for session in range(len(flat.session_items_S)):
        found.setdefault(tuple(stored(flat, session)), []).append(session)
    return {content: numbers[0] for content, numbers in found.items() if len(numbers) == 1}


@pytest.mark.parametrize("name", ROLES)
def test_every_session_of_a_role_is_scored_exactly_once(config, split_log, name):
    flat, role = split_log.arrays(), ROLES[name]
    first_S = np.isin(np.arange(len(flat.session_role_S)), flat.user_session_offsets_U1)
    wanted = [stored(flat, s) for s in np.flatnonzero((flat.session_role_S == role) & ~first_S)]
    targets = [s.items for window in windows_of(one_pass(config, split_log, role)) for s in window if s.target]
    assert sorted(targets) == sorted(wanted)


@pytest.mark.parametrize("name", ROLES)
def test_a_window_is_a_stretch_of_one_users_history_without_later_roles(config, split_log, by_content, name):
    flat, role = split_log.arrays(), ROLES[name]
    user_S = np.repeat(np.arange(flat.users), np.diff(flat.user_session_offsets_U1))
    for window in windows_of(one_pass(config, split_log, role)):
        places = [place for place, s in enumerate(window) if tuple(s.items) in by_content]
        numbers = np.array([by_content[tuple(window[place].items)] for place in places], np.int64)
        assert len(set(user_S[numbers])) <= 1
        assert len(set(numbers - places)) <= 1  # neighbours in the log are neighbours here
        assert all(flat.session_role_S[numbers] <= role)
        assert [s.position for s in window] == list(range(len(window)))
        assert not window[0].target
        if len(numbers):
            start = flat.session_seconds_S[numbers[0] - places[0]]
            assert [window[p].seconds for p in places] == (flat.session_seconds_S[numbers] - start).tolist()


def test_a_long_history_is_cut_with_half_a_row_of_history_before_each_target(config, log):
    flat, slots = log.arrays(), config.data.sessions_per_row
    users, items = train_users(config, log), config.data.items_per_row
    windows = make_windows(flat, users, TRAIN, sessions=slots, items=items)
    user_S = np.repeat(np.arange(flat.users), np.diff(flat.user_session_offsets_U1))
    begin_W = flat.user_session_offsets_U1[user_S[windows.first_W]]
    assert np.any(begin_W < windows.first_W)  # some histories were too long
    assert np.all(windows.last_W - windows.first_W <= slots)
    assert np.all(windows.items_W <= config.data.items_per_row)
    history_W, full_W = windows.first_target_W - windows.first_W, windows.items_W > 0.8 * config.data.items_per_row
    assert np.all((windows.first_W == begin_W) | (history_W >= slots // 2) | full_W)
    assert np.all(history_W >= 1)


@pytest.mark.parametrize("shards", [1, 8])
def test_the_arrays_keep_contract_2(config, log, shards):
    shape = shape_of(config, shards)
    for batch in train_batches(config, log, shape):
        slots = shape.sessions
        padding_GT = batch.item_GT == 0
        assert np.all(np.diff(batch.session_of_item_GT) >= 0)
        assert np.array_equal(padding_GT, batch.session_of_item_GT == slots)
        assert np.all(np.diff(padding_GT.astype(int)) >= 0)  # padding is last
        assert np.all(batch.feedback_GT[padding_GT] == 0)
        user_GRL = batch.user_of_session_GRL
        packed_GRL = user_GRL > 0
        assert np.all(np.diff(packed_GRL.astype(int)) <= 0)
        same_user_GRL = (np.diff(user_GRL) == 0) & packed_GRL[..., 1:]
        next_user_GRL = np.diff(user_GRL, prepend=0) == 1
        assert np.array_equal(next_user_GRL, packed_GRL & (batch.position_GRL == 0))  # users count 1, 2, ... in a row
        assert np.all(packed_GRL[..., 1:] <= (same_user_GRL | next_user_GRL[..., 1:]))
        assert not np.any(batch.target_GRL & (~packed_GRL | (batch.position_GRL == 0)))
        assert np.all(np.diff(batch.seconds_GRL)[same_user_GRL] >= 0)


def test_packing_loses_and_adds_no_exposure(config, log):
    batches = eval_batches(config, log, shape_of(config, 1), VALIDATION)
    windows = batches.packer.windows
    numbers = [s for first, last in zip(windows.first_W, windows.last_W, strict=True) for s in range(first, last)]
    wanted = [pair for session in numbers for pair in stored(windows.log, session)]
    packed = [pair for batch in batches for session in sessions(batch) for pair in session.items]
    assert sorted(packed) == sorted(wanted)


@pytest.mark.parametrize("name", ["train", "test"])
def test_eight_devices_hold_the_rows_of_one(config, log, name):
    one, eight = (one_pass(config, log, ROLES[name], shards) for shards in (1, 8))
    assert len(one) == len(eight)
    for whole, split in zip(one, eight, strict=True):
        rows = whole.user_of_session_GRL.shape[1:]
        for field in ("user_of_session_GRL", "position_GRL", "seconds_GRL", "target_GRL"):
            assert np.array_equal(getattr(whole, field)[0], getattr(split, field).reshape(rows))
        assert [s.items for s in sessions(whole)] == [s.items for s in sessions(split)]


def test_a_stream_goes_on_from_every_place_it_was_left(config, log):
    config, shape = replace(config, {"train.epochs": 1.5}), shape_of(config, 1)
    stream = train_batches(config, log, shape)
    states, wanted = [json.dumps(stream.get_state())], []
    for batch in stream:
        wanted.append(batch)
        states.append(json.dumps(stream.get_state()))
    assert len(wanted) == len(stream)
    for place in range(0, len(wanted), 5):
        resumed = train_batches(config, log, shape)
        next(resumed)  # a stream that has started is set back, too
        resumed.set_state(json.loads(states[place]))
        rest = list(resumed)
        assert len(rest) == len(wanted) - place
        assert all(same(a, b) for a, b in zip(rest, wanted[place:], strict=True))


def test_every_epoch_has_every_window_once_in_an_order_of_its_own(config, log):
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        packer = train_batches(replace(config, {"train.seed": seed}), log, shape_of(config, 1)).packer
        window_P = packer.epoch(epoch).window_P
        assert sorted(window_P) == list(range(len(packer.windows)))
        return tuple(window_P)

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 6)}
    assert len(set(orders.values())) == 6
    assert all(order(*key) == value for key, value in orders.items())


def test_epochs_follow_each_other_without_a_gap(config, log):
    """Seven epochs, more than the loader remembers, hold each training session seven times, except the rest of the
    last batch.
    """
    packer = train_batches(replace(config, {"train.epochs": 7.0}), log, shape_of(config, 1)).packer
    targets = sum(packer[index].counts().target_sessions for index in range(len(packer)))
    per_batch = packer[0].user_of_session_GRL.size
    assert abs(targets - 7 * packer.windows.target_sessions) < per_batch
    assert len(train_batches(replace(config, {"train.epochs": 1e-3}), log, shape_of(config, 1))) == 1


def test_subsets_of_users_are_nested_and_count_their_own_popularity(config, log):
    small, large = (replace(config, {"data.users": n}) for n in (40, 120))
    users = [set(train_users(c, log)) for c in (small, large, config)]
    assert [len(u) for u in users] == [40, 120, 160]
    assert users[0] < users[1] < users[2]
    flat = log.arrays()
    windows = train_batches(small, log, shape_of(small, 1)).packer.windows
    user_S = np.repeat(np.arange(flat.users), np.diff(flat.user_session_offsets_U1))
    assert set(user_S[windows.first_W]) <= users[0]
    ours_N = np.isin(np.repeat(user_S, flat.session_items_S), list(users[0])) & (flat.feedback_N <= CLICKED)
    assert train_catalogue(small, log).click_rate == pytest.approx(np.mean(flat.feedback_N[ours_N] == CLICKED))


def test_popularity_counts_users_with_a_single_training_session(config, tmp_path):
    """Under leave-one-session-out these are the users of three sessions, most of many a log."""
    sessions = [(user, session) for user in range(60) for session in range(3 if user < 50 else 6)]
    raw = RawLog("table", pl.DataFrame({
        "user_id": [user for user, _ in sessions], "item_id": [1 if user < 50 else 2 for user, _ in sessions],
        "timestamp_ms": [1_700_000_000_000 + 86_400_000 * session for _, session in sessions],
        "session_id": [session for _, session in sessions], "clicked": [True] * len(sessions),
    }))  # fmt: skip
    counted = prepare(raw, tmp_path / "log", Settings())
    catalogue = train_catalogue(replace(config, {"data.fingerprint": counted.fingerprint}), counted)
    popularity = dict(zip(counted.item_ids(), catalogue.log_popularity_V[1:], strict=True))
    assert popularity[1] > popularity[2], "50 clicks and 40 clicks"


def test_the_whole_logs_popularity_is_the_prepared_one(config, log):
    catalogue = train_catalogue(config, log)
    assert catalogue.click_rate == log.clicks_V.sum() / log.exposures_V.sum()
    assert np.array_equal(np.argsort(-catalogue.log_popularity_V, kind="stable")[:-1],
                          np.argsort(-log.clicks_V[1:], kind="stable") + 1)  # fmt: skip


def test_named_side_columns_are_seen_and_no_others(config, log):
    assert list(train_catalogue(config, log).side) == list(log.side_values)
    catalogue = train_catalogue(replace(config, {"data.side_columns": ("category", "digit_1")}), log)
    assert catalogue.side_values == {"category": 8, "digit_1": 4}
    assert all(np.array_equal(catalogue.side[name], log.side[name]) for name in ("category", "digit_1"))
    with pytest.raises(InputError, match=r"--data.side-columns categry: did you mean 'category'\?"):
        train_catalogue(replace(config, {"data.side_columns": ("categry",)}), log)


def test_the_scarcer_slots_waste_little(config, log):
    roomy = resolve(replace(config, {"data.sessions_per_row": 64, "data.items_per_row": 0, "train.epochs": 3.0}), log)
    counts = [batch.counts() for batch in train_batches(roomy, log, shape_of(roomy, 1))]
    waste = np.mean([(1 - c.items / c.item_slots, 1 - c.sessions / c.session_slots) for c in counts], axis=0)
    assert min(waste) < 0.04


# Errors.


def test_rows_that_do_not_spread_name_ones_that_do(config):
    with pytest.raises(InputError, match=r"--data.rows 12 does not spread over 8 devices.*16.*--mesh data=6"):
        shape_of(replace(config, {"data.rows": 12}), 8)


def test_neighbouring_sessions_that_do_not_fit_a_row_are_refused(config, log):
    narrow = replace(config, {"data.items_per_row": 24})
    with pytest.raises(InputError, match=r"exposures do not fit a row of 24 item slots; raise --data.items-per-row"):
        train_batches(narrow, log, shape_of(narrow, 1))


def test_more_users_than_there_are_is_refused(config, log):
    with pytest.raises(InputError, match=r"--data.users 161: .* has 160 training users"):
        train_users(replace(config, {"data.users": 161}), log)


def test_a_log_without_a_second_session_is_refused(config, tmp_path):
    table = pl.DataFrame(
        {"user_id": [1, 1, 2], "item_id": [1, 2, 1], "timestamp_ms": [1.7e12] * 3, "session_id": [0] * 3}
    )
    raw = RawLog("table", table.with_columns(clicked=pl.Series([True, False, True])))
    single = prepare(raw, tmp_path / "log", Settings())
    with pytest.raises(InputError, match="no training user has two sessions"):
        train_batches(config, single, shape_of(config, 1))
    with pytest.raises(InputError, match="no session of role 2 with a session before it"):
        eval_batches(config, single, shape_of(config, 1), TEST)


@pytest.mark.parametrize("slots", mostly_slow([2, 5], quick=[2]))
def test_a_window_can_be_shorter_than_its_row(config, split_log, slots):
    changed = {"data.window": slots, "data.fingerprint": split_log.fingerprint}
    short = replace(config, changed)
    for role in (TRAIN, VALIDATION, TEST):
        whole, split = (windows_of(one_pass(c, split_log, role)) for c in (config, short))
        assert max(map(len, split)) == slots
        assert all(sum(s.target for s in window) >= 1 for window in split)
        targets = [sorted(s.items for window in found for s in window if s.target) for found in (whole, split)]
        assert targets[0] == targets[1]
