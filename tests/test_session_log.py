"""Tests contract 1: which rows are taken or rejected, how sessions are cut, and which sessions train and test."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from contract import check, names_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionrec_jax.data import session_log
from sessionrec_jax.errors import InputError

NOW_MS = 1_650_000_000_000
MINUTE_MS = 60_000


def exposures(rows: list[tuple], names=("user_id", "item_id", "timestamp_ms", "clicked"), **schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(names) | schema, orient="row")


GOOD = [(user, item, NOW_MS + item, item == 1) for user in (1, 2) for item in (1, 2, 3)]


def reason_of(bad_row: tuple, item_ids: pl.Series | None = None, **schema) -> list[str]:
    checked = check(exposures([*GOOD, bad_row], **schema), item_ids)
    assert len(checked.exposures) == len(GOOD)
    assert checked.reasons["row"].to_list() == [len(GOOD)]
    return checked.reasons["reason"].item()


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        ((None, 1, NOW_MS, True), session_log.NULL_ID),
        ((1, None, NOW_MS, True), session_log.NULL_ID),
        ((1, 1.5, NOW_MS, True), session_log.BAD_ID),
        ((1, 1, None, True), session_log.NOT_A_TIME),
        ((1, 1, -5, True), session_log.ABSURD_TIME),
        ((1, 1, NOW_MS // 1000, True), session_log.ABSURD_TIME),
        ((1, 1, NOW_MS * 1000, False), session_log.ABSURD_TIME),
        (GOOD[0], session_log.DUPLICATE),
        ((1, 1, NOW_MS + 1, False), session_log.CONTRADICTION),
        ((1, 99, NOW_MS, False), session_log.UNKNOWN_ITEM),
    ],
)
def test_a_breach_has_its_reason(bad_row, reason):
    assert reason_of(bad_row, pl.Series([1, 2, 3])) == reason


def test_text_in_a_number_column_is_rejected_row_by_row():
    as_text = exposures([tuple(map(str, row)) for row in GOOD])
    assert check(as_text, None).reasons.is_empty()
    assert reason_of_text(("1", "1", "yesterday", "True")) == session_log.NOT_A_TIME
    assert reason_of_text(("1", "1", str(NOW_MS), "maybe")) == session_log.NOT_BOOLEAN


def reason_of_text(bad_row: tuple) -> str:
    checked = check(exposures([*(tuple(map(str, row)) for row in GOOD), bad_row]), None)
    return checked.reasons["reason"].item()


@pytest.mark.parametrize("kind", [pl.Boolean, pl.Int64, pl.Float64, pl.String])
def test_clicked_comes_in_several_types_and_means_the_same(kind):
    table = exposures([*GOOD, (1, 1, NOW_MS, None)]).with_columns(pl.col("clicked").cast(pl.Int64).cast(kind))
    clicked = check(table, None).exposures["clicked"]
    assert clicked.to_list() == [*(row[3] for row in GOOD), None]


def test_times_may_be_datetimes_and_ids_whole_floats():
    table = exposures(GOOD).with_columns(
        pl.from_epoch("timestamp_ms", "ms").alias("timestamp_ms"), pl.col("user_id").cast(pl.Float64)
    )
    assert check(table, None).exposures.equals(check(exposures(GOOD), None).exposures)


def test_of_copies_the_clicked_one_stays():
    table = exposures([(1, 1, NOW_MS, False), (1, 1, NOW_MS, True), (1, 1, NOW_MS, False)])
    checked = check(table, None)
    assert checked.exposures["row"].to_list() == [1]
    assert checked.reasons["reason"].to_list() == [session_log.CONTRADICTION] * 2


def test_a_context_row_is_no_copy_of_an_exposure():
    table = exposures([(1, 1, NOW_MS, True), (1, 1, NOW_MS, None)])
    checked = check(table, None)
    assert checked.exposures["feedback"].to_list() == [None, "context"]
    assert names_of(checked) == [
        "ignored",
        "clicked",
        "context",
    ]


DIRTY = st.lists(
    st.tuples(
        st.sampled_from([1, 2, None]),
        st.sampled_from([1, 2, 3, None]),
        st.sampled_from([NOW_MS, NOW_MS + 1, -1, None]),
        st.sampled_from([True, False, None]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(dirty=DIRTY, order=st.randoms(use_true_random=False))
def test_every_row_is_taken_or_rejected_in_any_order(dirty, order):
    rows = [*GOOD, *GOOD, *dirty]
    shuffled = order.sample(rows, len(rows))
    taken = []
    for table in (rows, shuffled):
        checked = check(exposures(table), pl.Series([1, 2]))
        assert sorted([*checked.exposures["row"], *checked.reasons["row"]]) == list(range(len(rows)))
        taken.append(checked.exposures.drop("row").sort(pl.all()))
    assert taken[0].equals(taken[1])


@pytest.mark.parametrize(("divide", "unit"), [(1e3, "s"), (1e-3, "us"), (1e-6, "ns")])
def test_times_in_another_unit_are_named(divide, unit):
    table = exposures(GOOD).with_columns((pl.col("timestamp_ms") / divide).cast(pl.Int64))
    with pytest.raises(InputError, match=rf"do not look like milliseconds.*--time-unit {unit}"):
        check(table, None)


def test_logs_that_cannot_be_meant_are_refused():
    with pytest.raises(InputError, match="empty"):
        check(exposures(GOOD).clear(), None)
    with pytest.raises(InputError, match="lacks the column 'item_id'; did you mean 'itemid'"):
        check(exposures(GOOD).rename({"item_id": "itemid"}), None)
    with pytest.raises(InputError, match="no exposure of the log is clicked"):
        check(exposures(GOOD).with_columns(clicked=pl.lit(False)), None)
    with pytest.raises(InputError, match="column 'user_id' has the type List"):
        check(exposures(GOOD).with_columns(pl.concat_list("user_id")), None)


# --- sessions --------------------------------------------------------------------------------------------------------


def log(times_by_user: dict[int, list[float]]) -> pl.DataFrame:
    rows = [(user, NOW_MS + round(minutes * MINUTE_MS)) for user, times in times_by_user.items() for minutes in times]
    return pl.DataFrame(rows, schema=["user", "timestamp_ms"], orient="row").with_row_index("row")


def test_a_gap_longer_than_the_rule_opens_a_session():
    cut = session_log.cut_sessions(log({0: [0, 30, 60.1], 1: [60.2, 0]}), "gap_minutes=30")
    assert cut["session"].to_list() == [0, 0, 1, 2, 3]
    assert cut["row"].to_list() == [0, 1, 2, 4, 3]


def test_one_request_is_one_time():
    cut = session_log.cut_sessions(log({0: [0, 0, 1], 1: [1]}), "same_timestamp")
    assert cut["session"].to_list() == [0, 0, 1, 2]


def test_own_session_ids_are_honoured_even_where_sessions_interleave():
    table = log({0: [3, 1, 2, 4], 1: [0]}).with_columns(session_id=pl.Series(["b", "a", "b", "a", "a"]))
    cut = session_log.cut_sessions(table, "session_id")
    assert cut["row"].to_list() == [1, 3, 2, 0, 4]
    assert cut["session"].to_list() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rule", ["gap", "gap_minutes", "gap_minutes=-3", "same_time"])
def test_an_unknown_rule_is_refused(rule):
    with pytest.raises(InputError, match="same_timestamp or gap_minutes=30"):
        session_log.cut_sessions(log({0: [0]}), rule)


# --- roles -----------------------------------------------------------------------------------------------------------


def sessions(spans_by_user: list[list[tuple[int, int]]]) -> pl.DataFrame:
    rows = [(user, *span) for user, spans in enumerate(spans_by_user) for span in spans]
    return pl.DataFrame(rows, schema=["user", "start_ms", "end_ms"], orient="row")


def test_the_last_session_tests_and_the_one_before_validates_if_another_comes_first():
    by_user = [[(t, t)] * n for n, t in ((1, 0), (2, 0), (3, 0), (5, 0))]
    roles = session_log.assign_roles(sessions(by_user), "leave_one_session_out")
    assert roles.to_list() == [0, *(0, 2), *(0, 1, 2), *(0, 0, 0, 1, 2)]


SPANS = st.lists(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), min_size=1, max_size=6).map(
        lambda spans: sorted((start, start + length) for start, length in spans)
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(spans=SPANS, validation=st.integers(1, 60), further=st.integers(1, 40))
def test_training_never_sees_a_session_that_ends_after_a_held_out_one_begins(spans, validation, further):
    table = sessions(spans)
    test = validation + further
    roles = session_log.assign_roles(table, "temporal", validation_from_ms=validation, test_from_ms=test)
    for held_out in (1, 2):
        before, after = table.filter(roles < held_out), table.filter(roles >= held_out)
        assert not len(before) or not len(after) or before["end_ms"].max() < after["start_ms"].min()
    straddles = ((table["start_ms"] < validation) & (table["end_ms"] >= validation)) | (
        (table["start_ms"] < test) & (table["end_ms"] >= test)
    )
    assert roles.is_null().to_list() == straddles.to_list()


def test_held_out_users_are_the_first_of_the_stored_order():
    roles = session_log.assign_roles(sessions([[(0, 0)] * 2] * 4), "held_out_users", test_users=1, validation_users=2)
    assert roles.to_list() == [2, 2, 1, 1, 1, 1, 0, 0]


# --- the random order of users ---------------------------------------------------------------------------------------


def test_the_order_is_splitmix64_of_the_id():
    assert session_log.random_order(pl.Series([0]))[0] == 0xE220A8397B1DCDAF  # first output of the reference, seed 0


@pytest.mark.parametrize("ids", [pl.Series(range(-500, 500)), pl.Series([f"u{n}" for n in range(1000)])])
def test_the_order_is_a_function_of_the_id_alone_and_looks_random(ids):
    keys = session_log.random_order(ids)
    np.testing.assert_array_equal(session_log.random_order(ids.reverse())[::-1], keys)
    assert len(set(keys)) == len(ids)
    place = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(place, np.arange(len(ids)))[0, 1]) < 0.1
