"""Tables of runs: what is refused, what is left out and why, and that nothing goes missing."""

import json

import numpy as np
import polars as pl
import pytest

from scaling.errors import InputError
from scaling.table import Columns, from_frame, read

COLUMNS = Columns(loss="loss", d="d", n="n")


def frame(**columns) -> pl.DataFrame:
    base = {"run_id": list("abcdef"), "n": [1e3] * 6, "d": [1.0, 2, 3, 4, 5, 6], "loss": [6.0, 5, 4, 3, 2, 1]}
    return pl.DataFrame(base | columns)


def rules(table) -> dict[str, str]:
    return {row.row: row.rule for row in table.excluded}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "folder"])
def test_every_format_reads_the_same(tmp_path, suffix):
    path = tmp_path / f"runs.{suffix}"
    if suffix == "csv":
        frame().write_csv(path)
    elif suffix == "parquet":
        frame().write_parquet(path)
    elif suffix == "jsonl":
        frame().write_ndjson(path)
    else:
        for row in frame().to_dicts():
            (path / "runs" / row["run_id"]).mkdir(parents=True)
            (path / "runs" / row["run_id"] / "row.json").write_text(json.dumps(row))
    table = read(path, COLUMNS)
    assert table.row_id == tuple("abcdef")
    np.testing.assert_array_equal(table.loss, [6, 5, 4, 3, 2, 1])
    assert table.data_hash() == from_frame(frame(), COLUMNS).data_hash()
    assert table.data_hash() == from_frame(frame().reverse(), COLUMNS).data_hash()


def test_a_run_without_a_row_is_listed(tmp_path):
    for name, file in (("a", "row.json"), ("b", "config.json")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).write_text(json.dumps({"run_id": name, "d": 1, "loss": 2.0}))
    table = read(tmp_path, Columns(loss="loss", d="d"))
    assert table.row_id == ("a",)
    assert rules(table) == {"b": "not done"}


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        ({"loss": ["1", "2", "oops", "4", "5", "6"]}, COLUMNS, "c has 'oops'"),
        ({"d": [1.0, 2, 0, 4, 5, 6]}, COLUMNS, "'d' is 0 in c"),
        ({"n": [1.0, 2, None, 4, 5, 6]}, COLUMNS, "'n' is nan in c"),
        ({"loss": [1.0, 2, -3, 4, 5, 6]}, COLUMNS, "'loss' is -3 in c"),
        ({"loss": [True] * 6}, COLUMNS, "wants numbers"),
        ({}, Columns(loss="lost", d="d"), "did you mean 'loss'"),
        ({}, Columns(loss="loss"), "--d-from-flops"),
        ({}, Columns(loss="loss", d="d", select_by="n"), "go together"),
        ({"floor": [1.0, 1, 1, 1, 1, 2]}, Columns(loss="loss", d="d", floor="floor"), "a law has one floor"),
    ],
)
def test_what_the_user_must_put_right(columns, named, message):
    with pytest.raises(InputError, match=message):
        from_frame(frame(**columns), named)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("runs.csv", "", "is empty"),
        ("runs.csv", "d,loss\n", "has no rows"),
        ("runs.txt", "d", "wanted .csv"),
        ("runs.jsonl", "{oops", "cannot be read"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, Columns(loss="loss", d="d"))


def test_a_misspelt_file_is_named(tmp_path):
    frame().write_csv(tmp_path / "runs.csv")
    with pytest.raises(InputError, match=r"did you mean 'runs\.csv'"):
        read(tmp_path / "run.csv", COLUMNS)


def test_every_row_left_out_has_its_reason():
    runs = frame(
        status=["done", "failed", "done", "done", "done", "done"],
        loss=[6.0, None, None, 3, 2.5, 1],
        baseline=[5.0] * 6,
    )
    table = from_frame(runs, Columns(loss="loss", d="d", baseline="baseline"), drop_worst=1)
    assert table.row_id == ("e", "f")
    assert rules(table) == {
        "a": "does not beat the baseline",
        "b": "not done",
        "c": "no loss",
        "d": "among the 1 highest losses",
    }
    assert len(table) + len(table.excluded) == len(runs)
    assert set(table.left_out["run_id"]) == set(rules(table))


def test_tuned_runs_keep_the_best_by_validation_and_not_by_the_loss():
    runs = frame(d=[1.0, 1, 2, 2, 3, 3], validation=[1.0, 2, 5, 4, 7, float("nan")])
    table = from_frame(runs, Columns(loss="loss", d="d", select_by="validation", select_within=("d",)))
    assert table.row_id == ("a", "d", "e")
    assert rules(table)["f"] == "no value to tune by"


def test_d_from_flops():
    table = from_frame(frame(c=[6e3 * x for x in range(1, 7)]), Columns(loss="loss", n="n", flops="c"))
    np.testing.assert_allclose(table.d, range(1, 7), rtol=1e-15)


def test_repeated_points_of_one_seed_ask_for_a_cluster_column():
    repeated = frame(d=[1.0, 1, 2, 3, 4, 5], seed=[0] * 6)
    assert "2 rows" in from_frame(repeated, COLUMNS).warnings[0]
    assert not from_frame(repeated.with_columns(seed=pl.int_range(6)), COLUMNS).warnings
    assert not from_frame(repeated, Columns(loss="loss", d="d", cluster="run_id")).warnings


def test_a_floor_column_without_numbers_is_no_floor():
    frame = pl.DataFrame({"d": [1.0, 10.0, 100.0], "loss": [3.0, 2.0, 1.5], "floor": [None] * 3})
    assert from_frame(frame, Columns(loss="loss", d="d", floor="floor"), source="rows").known_floor is None
