"""The plan of rows: every window once, no row too full, little waste, an order that changes, and one golden epoch."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import shape_of, train_batches
from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.flat_log import FlatLog
from sessionrec_jax.data.packing import PackedRows, RowPlan, plan_rows
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError

SESSIONS, ITEMS = 64, 344  # of a row


def windows_of(sessions_W: np.ndarray, items_W: np.ndarray) -> Windows:
    """Returns one window a user, with all its items in its first session."""
    last_W = np.cumsum(sessions_W)
    items_S = np.zeros(last_W[-1], np.int32)
    items_S[last_W - sessions_W] = items_W
    log = FlatLog(
        item_N=np.ones(items_W.sum(), np.int32),
        feedback_N=np.zeros(items_W.sum(), np.int8),
        session_items_S=items_S,
        session_seconds_S=np.zeros(len(items_S), np.int64),
        session_role_S=np.zeros(len(items_S), np.int8),
        user_session_offsets_U1=np.append(0, last_W),
    )
    first_W = last_W - sessions_W
    user_W = np.arange(len(sessions_W))
    return Windows(log=log, role=TRAIN, first_W=first_W, last_W=last_W, first_target_W=first_W + 1, user_W=user_W)


def drawn(count: int, mean_sessions: float, seed: int = 0) -> Windows:
    random = np.random.default_rng(seed)
    sessions_W = np.clip(random.geometric(1 / mean_sessions, count), 2, SESSIONS)
    return windows_of(sessions_W, np.minimum(sessions_W + random.poisson(4 * sessions_W), ITEMS))


def rows_of(packed: PackedRows) -> np.ndarray:
    """Returns the row of each packed window."""
    return np.repeat(np.arange(len(packed)), np.diff(packed.offset_R1))


def partners(packed: PackedRows) -> set[tuple[int, int]]:
    """Returns the pairs of windows that share a row."""
    members = np.split(packed.window_P, packed.offset_R1[1:-1])
    return {(a, b) for row in members for a in row.tolist() for b in row.tolist() if a < b}


def least_rows(windows: Windows) -> int:
    """Returns a number of rows below which no packing can be."""
    return int(np.ceil(max(windows.sessions_W.sum() / SESSIONS, windows.items_W.sum() / ITEMS)))


@pytest.mark.parametrize("count", [1, 7, 200, 3_000, 150_000])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_window_is_in_one_row_and_no_row_is_too_full(count, seed):
    windows = drawn(count, 6)
    packed = plan_rows(windows, SESSIONS, ITEMS).epoch(seed, 2)
    assert np.array_equal(np.sort(packed.window_P), np.arange(count))
    for of_W, slots in ((windows.sessions_W, SESSIONS), (windows.items_W, ITEMS)):
        assert np.bincount(rows_of(packed), of_W[packed.window_P]).max() <= slots


@pytest.mark.parametrize("mean_sessions", [6, 16])
@pytest.mark.parametrize("count", [1_000, 20_000, 300_000])
def test_a_packing_wastes_at_most_two_percent(count, mean_sessions):
    windows = drawn(count, mean_sessions)
    plan = plan_rows(windows, SESSIONS, ITEMS)
    assert len(plan) <= 1.02 * least_rows(windows)


def test_windows_that_fill_a_row_alone_and_windows_without_items_are_packed():
    windows = windows_of(np.array([64, 2, 2, 64, 3]), np.array([344, 0, 1, 5, 344]))
    assert len(plan_rows(windows, SESSIONS, ITEMS).epoch(0, 0)) == 4


def test_all_epochs_and_seeds_have_the_same_rows_and_another_order():
    plan = plan_rows(drawn(2_000, 6), SESSIONS, ITEMS)
    epochs = {(seed, epoch): plan.epoch(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert {len(packed) for packed in epochs.values()} == {len(plan)}
    assert len({packed.window_P.tobytes() for packed in epochs.values()}) == 4
    again = plan.epoch(1, 1)
    assert np.array_equal(again.window_P, epochs[1, 1].window_P)
    assert np.array_equal(again.offset_R1, epochs[1, 1].offset_R1)


@pytest.mark.parametrize(("count", "most"), [(300, 0.25), (1_000, 0.1), (20_000, 0.01)])
def test_a_window_meets_others_in_the_next_epoch(count, most):
    plan = plan_rows(drawn(count, 6), SESSIONS, ITEMS)
    first, second = (partners(plan.epoch(0, epoch)) for epoch in (0, 1))
    assert len(first & second) <= most * len(first)


def test_windows_of_every_length_are_spread_over_an_epoch():
    """The mean length of the windows is that of all, in each tenth of the rows."""
    windows = drawn(20_000, 6)
    packed = plan_rows(windows, SESSIONS, ITEMS).epoch(0, 0)
    tenth_P = rows_of(packed) * 10 // len(packed)
    mean = np.bincount(tenth_P, windows.sessions_W[packed.window_P]) / np.bincount(tenth_P)
    assert mean == pytest.approx(windows.sessions_W.mean(), rel=0.1)


def test_an_evaluation_keeps_windows_of_a_kind_in_the_order_of_the_log():
    windows = windows_of(np.full(500, 16), np.full(500, 64))
    packed = plan_rows(windows, SESSIONS, ITEMS).epoch(None, 0)
    assert np.array_equal(packed.window_P, np.arange(500))


def test_runs_of_other_seeds_have_one_plan():
    windows = drawn(100, 6)
    assert plan_rows(windows, SESSIONS, ITEMS) is plan_rows(windows, SESSIONS, ITEMS)
    assert isinstance(plan_rows(windows, SESSIONS, ITEMS), RowPlan)


def test_the_golden_epoch():
    """Another hash means that every run gets other batches. Then PACKING must be raised, and LOG.md says why."""
    packed = plan_rows(drawn(3_000, 6), SESSIONS, ITEMS).epoch(5, 1)
    content = packed.window_P.astype(np.int64).tobytes() + packed.offset_R1.astype(np.int64).tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "3db843ef199db71d"


def test_a_run_of_another_packing_does_not_go_on(config, log):
    stream = train_batches(replace(config, {"train.epochs": 1.0}), log, shape_of(config, 1))
    next(stream)
    state = stream.get_state()
    stream.set_state(state)
    for other in ({name: value for name, value in state.items() if name != "packing"}, state | {"packing": 1}):
        with pytest.raises(InputError, match=r"another release .* finish it with that release, or start it again"):
            stream.set_state(other)
