"""Tests the prepared folder: written data is read back, by user and as a whole; a folder that cannot be opened
says why.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import grain
import numpy as np
import polars as pl
import pytest
from contract import assert_same_log, record_of

from sessionrec_jax.data import store
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import RawLog, synthetic
from sessionrec_jax.errors import InputError

USERS = 60
PROCESS = synthetic.Options(users=USERS, base=4, depth=3, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(synthetic.read(PROCESS), tmp_path_factory.mktemp("data") / "log", Settings()).path


@pytest.fixture
def prepared(folder):
    return store.open_log(folder)


def published(prepared: store.Prepared) -> pl.DataFrame:
    """Returns the stored log in the publisher's ids, one row an exposure."""
    log, users = prepared.arrays(), pl.read_parquet(prepared.path / "users.parquet")["user_id"]
    session_S = np.concatenate([np.arange(n) for n in np.diff(log.user_session_offsets_U1)])
    return pl.DataFrame(
        {
            "user_id": users[np.repeat(np.arange(log.users), np.diff(log.user_item_offsets_U1))],
            "item_id": prepared.item_ids()[log.item_N.astype(np.int64) - 1],
            "seconds": np.repeat(log.session_seconds_S, log.session_items_S),
            "session_id": np.repeat(session_S, log.session_items_S),
            "feedback": log.feedback_N,
        }
    )


def test_the_log_comes_back_in_the_publishers_ids(prepared):
    raw = PROCESS.exposures(0, USERS)
    wanted = raw.select(
        "user_id",
        "item_id",
        seconds=pl.col("timestamp_ms").min().over("user_id", "session_id") // 1000,
        session_id="session_id",
        feedback=pl.col("clicked").cast(pl.Int8).fill_null(2),
    )
    stored = published(prepared).sort("user_id", "session_id", maintain_order=True)
    assert stored.equals(wanted)


def test_users_one_by_one_are_the_arrays(prepared):
    log, source = prepared.arrays(), store.read_records(prepared.path)
    assert len(source) == log.users == prepared.users == USERS
    for index, record in enumerate(grain.MapDataset.source(source)):
        for name, stored in record_of(log, index).items():
            np.testing.assert_array_equal(record[name], stored)
            assert name == "user" or record[name].dtype == stored.dtype


@pytest.mark.parametrize("piece_rows", [None, 2500])
def test_a_log_that_is_cut_in_groups_is_the_same(prepared, tmp_path, monkeypatch, piece_rows):
    monkeypatch.setattr("sessionrec_jax.data.preparation.prepare._ROWS_READ", 700)
    monkeypatch.setattr("sessionrec_jax.data.preparation.prepare._ROWS_CUT", 1000)
    grouped = prepare(synthetic.read(PROCESS), tmp_path / "log", Settings(), piece_rows=piece_rows)
    assert len(list((grouped.path / "log").glob("*.array_record*"))) > 3
    assert_same_log(grouped, prepared)


def test_counts_by_role_add_up(prepared):
    log, users = prepared.arrays(), pl.read_parquet(prepared.path / "users.parquet")
    sessions = users.select(pl.sum_horizontal("sessions_train", "sessions_validation", "sessions_test")).to_series()
    np.testing.assert_array_equal(sessions, np.diff(log.user_session_offsets_U1))
    assert [len(prepared.users_of(role)) for role in (0, 1, 2)] == [USERS - 12, 6, 6]
    assert sorted(np.concatenate([prepared.users_of(role) for role in (0, 1, 2)])) == list(range(USERS))
    in_training = np.repeat(log.session_role_S == 0, log.session_items_S)
    assert prepared.clicks_V.sum() == np.sum(in_training & (log.feedback_N == 1))
    assert prepared.exposures_V.sum() == np.sum(in_training & (log.feedback_N <= 1))
    assert prepared.clicks_V[0] == prepared.exposures_V[0] == 0


def test_side_information_is_coded_by_dense_item(prepared):
    items = prepared.item_ids().to_frame().join(PROCESS.items(), on="item_id", maintain_order="left")
    assert prepared.side_values == {"digit_0": 4, "digit_1": 4, "digit_2": 4, "category": 8}
    for name, codes_VW in prepared.side.items():
        vocabulary = pl.read_parquet(prepared.path / f"side_{name}.parquet")
        assert vocabulary["code"].to_list() == list(range(1, len(vocabulary) + 1))
        assert not codes_VW[0].any()
        assert vocabulary["value"][codes_VW[1:, 0].astype(np.int64) - 1].to_list() == items[name].to_list()


def test_lists_nulls_and_whole_floats_as_side_information(tmp_path):
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "tag": [["b", "a"], None, [str(n) for n in range(10)]],
            "music": [4.0, None, 9.0],
        }
    )
    rows = [(u, i, 1_650_000_000_000 + i, i == 1) for u in range(4) for i in (1, 2, 3)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "clicked"], orient="row")
    prepared = prepare(RawLog("test", table, items), tmp_path / "log", Settings())
    dense = {item: number for number, item in enumerate(prepared.item_ids(), 1)}
    music, tag = prepared.side["music"], prepared.side["tag"]
    assert [music[0, 0], *(music[dense[item], 0] for item in (1, 2, 3))] == [0, 1, 0, 2]
    assert tag.shape == (4, 8)
    assert tag[dense[1]].tolist() == [10, 9, 0, 0, 0, 0, 0, 0]
    assert not tag[dense[2]].any()
    tag = next(column for column in prepared.manifest["side_columns"] if column["name"] == "tag")
    assert (tag["missing"], tag["lists_cut"]) == (1, 1)
    with pytest.raises(InputError, match="column 'day' has the type Date"):
        prepare(RawLog("test", table, items.with_columns(day=pl.date(2022, 4, 15))), tmp_path / "other", Settings())
    with pytest.raises(InputError, match="column 'a/b' cannot name a file"):
        prepare(RawLog("test", table, items.rename({"tag": "a/b"})), tmp_path / "other", Settings())


@pytest.mark.parametrize(
    ("in_log", "in_table"),
    [(pl.String, pl.Int32), (pl.Int64, pl.String), (pl.Float64, pl.UInt64), (pl.UInt8, pl.Int64)],
)
def test_item_ids_of_another_type_are_the_same_items(tmp_path, in_log, in_table):
    raw = synthetic.read(PROCESS)
    log, items = raw.exposures.cast({"item_id": in_log}), raw.items.cast({"item_id": in_table})
    prepared = prepare(RawLog("test", log, items), tmp_path / "log", Settings())
    assert prepared.manifest["rejected"] == {}
    assert prepared.items == len(raw.items)


def test_exact_copies_in_the_item_table_are_left_out_and_counted(tmp_path):
    raw = synthetic.read(PROCESS)
    plain, said = prepare(raw, tmp_path / "plain", Settings()), []
    copied = dataclasses.replace(raw, items=pl.concat([raw.items, raw.items[3:8]]), note="Mine.")
    prepared = prepare(copied, tmp_path / "copied", Settings(), say=said.append)
    assert prepared.fingerprint == plain.fingerprint
    assert said[0] == "5 rows of the item table are exact copies of others and are left out"
    assert prepared.manifest["note"] == "Mine. 5 rows of the item table were exact copies of others and were left out."


def test_rows_of_one_item_that_differ_are_refused_with_their_ids_and_columns(tmp_path):
    raw = synthetic.read(PROCESS)
    ids, side = raw.items["item_id"][:5].to_list(), next(name for name in raw.items.columns if name != "item_id")
    other = raw.items[:5].with_columns(pl.lit(None, raw.items.schema[side]).alias(side))
    both = dataclasses.replace(raw, items=pl.concat([raw.items, other, raw.items[7:9]]))
    with pytest.raises(InputError) as refused:
        prepare(both, tmp_path / "log", Settings())
    assert str(refused.value).startswith(
        f"5 item ids have rows in the item table that differ: {ids[0]!r}, {ids[1]!r}, {ids[2]!r} and 2 more; the rows "
        f"of {ids[0]!r} differ in {side!r}. Wanted one row an item"
    )
    nameless = dataclasses.replace(raw, items=raw.items.with_columns(item_id=pl.lit(None, pl.Int64)))
    with pytest.raises(InputError, match="have no item id; fill it in"):
        prepare(nameless, tmp_path / "log", Settings())


def test_a_user_whose_only_session_straddles_the_dates_keeps_a_place(tmp_path):
    hour = 3_600_000
    rows = [(u, i, 1_650_000_000_000 + s * hour, i == 1) for u in range(4) for s in range(4) for i in (1, 2)]
    rows += [(9, i, 1_650_000_000_000 + hour + i * hour, i == 1) for i in (0, 1)]
    names = ["user_id", "item_id", "timestamp_ms", "clicked"]
    table = pl.DataFrame(rows, schema=names, orient="row").with_columns(session_id=pl.col("timestamp_ms"))
    table = table.with_columns(session_id=pl.when(pl.col("user_id") == 9).then(1).otherwise("session_id"))
    dates = Settings(
        split="temporal",
        validation_from="2022-04-15T07:00",
        test_from="2022-04-15T08:00",
        max_rejected_fraction=0.1,
    )
    prepared = prepare(RawLog("test", table), tmp_path / "log", dates)
    assert prepared.manifest["rejected"] == {"session straddles a split date": 2}
    assert (prepared.users, prepared.manifest["users_without_target"]) == (5, 1)
    assert sorted(len(record["item"]) for record in store.read_records(prepared.path)) == [0, 8, 8, 8, 8]
    assert sorted(np.diff(prepared.arrays().user_item_offsets_U1)) == [0, 8, 8, 8, 8]


def test_the_fingerprint_follows_the_content_not_the_order_of_rows(prepared, tmp_path):
    raw = synthetic.read(PROCESS)
    shuffled = RawLog("synthetic", raw.exposures.sample(fraction=1, shuffle=True, seed=1), raw.items[::-1])
    same = prepare(shuffled, tmp_path / "same", Settings(split="held_out_users"))
    assert same.fingerprint == prepared.fingerprint
    other_click = raw.exposures.with_columns(clicked=pl.col("clicked") ^ (pl.int_range(pl.len()) == 1))
    other = prepare(RawLog("synthetic", other_click, raw.items), tmp_path / "other", Settings(split="held_out_users"))
    assert other.fingerprint != prepared.fingerprint


def test_truth_is_kept(folder):
    assert synthetic.Options(**json.loads((folder / "truth.json").read_text())) == PROCESS


def test_a_folder_that_cannot_be_opened_says_why(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder; `sessionrec prepare"):
        store.open_log(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a prepared log"):
        store.open_log(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"incomplete: items.parquet missing"):
        store.open_log(copy)
    manifest = json.loads((copy / store.MANIFEST).read_text())
    (copy / store.MANIFEST).write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(InputError, match="format version 99; this release reads 3"):
        store.open_log(copy)
    (copy / store.MANIFEST).write_text("{")
    with pytest.raises(InputError, match="prepare the log again"):
        store.open_log(copy)


def test_neighbours_of_the_publisher_are_no_neighbours_here(tmp_path):
    """Publishers number items by time, so new and popular ones are neighbours; no device may have most of them."""
    rows = [(u, i, 1_650_000_000_000 + 3_600_000 * i, True) for u in range(3) for i in range(800)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "clicked"], orient="row")
    ids = prepare(RawLog("test", table, None), tmp_path / "log", Settings()).item_ids().to_numpy()
    assert sorted(ids) == list(range(800))
    newest_of_eight = np.array([np.sum(part >= 700) for part in np.split(ids, 8)])
    assert newest_of_eight.max() < 30, "12.5 are expected"
