"""Tests tables of runs: which are refused, which rows are left out and why, and that no row goes missing."""

import dataclasses
import itertools
import json
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from scaling.errors import InputError
from scaling.laws.registry import LAWS
from scaling.laws.terms import Power
from scaling.table.run_table import Columns, from_frame, read

COLUMNS = Columns(loss="loss", d="d", n="n")
POWER = LAWS["power"]
OF_LOSS = LAWS["metric_exponential"]


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
    assert rules(table) == {"b": "no row yet"}


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        ({"loss": ["1", "2", "oops", "4", "5", "6"]}, COLUMNS, "c has 'oops'"),
        ({"d": [1.0, 2, 0, 4, 5, 6]}, COLUMNS, "'d' is 0 in c"),
        ({"n": [1.0, 2, None, 4, 5, 6]}, COLUMNS, "'n' is nan in c"),
        ({"loss": [1.0, 2, -3, 4, 5, 6]}, COLUMNS, "'loss' is -3 in c"),
        ({"loss": [True] * 6}, COLUMNS, "needs numbers"),
        ({}, Columns(loss="lost", d="d"), "did you mean 'loss'"),
        ({}, Columns(loss="loss", flops="d"), "needs --n"),
        ({}, Columns(loss="loss", metric="n", unique="d"), "needs --d"),
        ({}, Columns(loss="loss", d="d", recipe=("optimiser",)), "'optimiser' \\(--recipe\\)"),
        ({}, Columns(loss="loss", d="d", select_by="n"), "go together"),
        ({"floor": [1.0, 1, 1, 1, 1, 2]}, Columns(loss="loss", d="d", floor_column="floor"), "a law has one floor"),
        ({"d": [1.0, 2, 3, 4, 5, 1e70]}, COLUMNS, "'d' is 1e\\+70 in f"),
        ({"loss": [[1.0]] * 6}, COLUMNS, "needs numbers"),
        ({"n": [1e9] * 6}, COLUMNS, "Is D in millions or billions"),
        ({"run": ["x", None] * 3}, Columns(loss="loss", d="d", cluster="run"), "is empty in b"),
        ({"done": [1.0] * 5 + [100]}, Columns(loss="loss", d="d", progress="done"), "100 in f; wanted the fraction"),
        ({"hit": [0.1] * 5 + [31.0]}, Columns(metric="hit", d="d"), "31 in f; .*divide the column by 100"),
        ({"hit": [0.1] * 5 + [0.0]}, Columns(metric="hit", d="d"), "0 in f; .*status other than"),
        ({"c": [1.0] * 5 + [-1]}, Columns(loss="loss", d="d", n="n", flops="c"), "'c' is -1 in f"),
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
    assert table.flops_per_nd == 6


def test_flops_and_d_give_the_cost_of_a_parameter_and_an_example():
    cost = [8e3, 16e3, 24e3, 32e3, 40e3, None]
    columns = Columns(loss="loss", n="n", d="d", flops="c")
    table = from_frame(frame(c=cost), columns)
    np.testing.assert_array_equal(table.d, range(1, 7))
    assert table.flops_per_nd == 8
    assert not table.warnings
    assert "8 to 16" in from_frame(frame(c=[16e3, *cost[1:]]), columns).warnings[0]
    assert from_frame(frame(c=[None] * 6), columns).flops_per_nd == 6


def test_a_checkpoint_before_the_end_of_its_schedule_is_left_out():
    done = frame(part=[0.5, 1, 1 - 1e-12, 1, 0.999, None])
    table = from_frame(done, COLUMNS, defaults=Columns(progress="part"))
    assert table.row_id == ("b", "c", "d", "f")
    assert rules(table) == dict.fromkeys("ae", "before the end of its schedule")
    assert "1 rows have no part" in table.warnings[0]


def test_a_row_is_a_copy_only_if_it_is_one_throughout():
    runs = pl.DataFrame({"d": [1.0, 2, 1, 1], "loss": [3.0, 2, 3, 3], "more": [[1.0], [2], [1], [float("nan")]]})
    table = from_frame(runs, Columns(loss="loss", d="d"))
    assert table.row_id == ("row 1", "row 2", "row 4")
    (copy,) = table.excluded
    assert (copy.row, copy.rule) == ("row 3", "a copy of an earlier row")
    assert copy.reason == "row 3 equals row 1 in every column"


def test_unique_data_is_at_most_all_data():
    runs = frame(distinct=[2.5] * 6)
    table = from_frame(runs, Columns(loss="loss", d="d", unique="distinct"))
    np.testing.assert_array_equal(table.unique, [1, 2, 2.5, 2.5, 2.5, 2.5])
    assert from_frame(runs, Columns(loss="loss", d="d")).unique is None


def test_defaults_are_taken_as_far_as_the_table_has_them():
    defaults = Columns(n="n", unique="distinct", metric="hit", recipe="a,b,c")
    named = Columns(loss="loss", d="d", unique="d", recipe="e")
    taken = from_frame(frame(b=[1] * 6, c=[1] * 6, e=[1] * 6), named, defaults=defaults).columns
    assert (taken.n, taken.unique, taken.metric, taken.recipe) == ("n", "d", None, ("e", "b", "c"))
    assert (taken.run_id, taken.seed_column) == ("run_id", None)


class PandasLike:
    """The part of a pandas frame that is used."""

    def __init__(self, columns: dict[str, np.ndarray]):
        self.columns, self._arrays = list(columns), columns

    def __getitem__(self, name: str) -> "PandasSeries":
        return PandasSeries(self._arrays[name])

    def isna(self) -> None: ...


class PandasSeries:
    def __init__(self, array: np.ndarray):
        self._array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._array

    def isna(self) -> list[bool]:
        return [value is None or value != value for value in self._array]


def test_a_pandas_frame_reads_like_a_polars_one():
    runs = frame(loss=[6.0, 5, 4, 3, float("nan"), None], name=["x", None, "y", "x", "x", "x"])
    arrays = {name: runs[name].to_numpy() for name in runs.columns}
    arrays["name"] = np.array(["x", float("nan"), "y", "x", "x", "x"], object)
    polars, pandas = (read(table, loss="loss", d="d", n="n", cluster=None) for table in (runs, PandasLike(arrays)))
    assert pandas.data_hash() == polars.data_hash()
    assert pandas.row_id == polars.row_id == ("a", "b", "c", "d")
    assert pandas.frame["name"].to_list() == ["x", None, "y", "x"]


def test_what_has_no_usual_name_must_be_named():
    other = frame().rename({"n": "x", "d": "y", "loss": "z"})
    with pytest.raises(InputError, match="--loss, or a metric with --metric"):
        from_frame(other, Columns(d="y"))
    with pytest.raises(InputError, match="--d, or training FLOPs with --flops"):
        from_frame(other, Columns(loss="z"))


def test_a_table_that_is_none_and_a_misspelled_name_are_refused():
    with pytest.raises(
        InputError, match="the table is a list; expected a path, a Polars or pandas frame, or a list of dicts"
    ):
        read([1, 2], loss="loss", d="d")
    with pytest.raises(InputError, match=r"unknown argument 'los'; did you mean 'loss'\?"):
        read(frame(), los="loss", d="d")


def test_a_metric_alone_is_fitted_as_its_error():
    hit = [0.1, 0.2, 0.3, None, 0.4, 0.6]
    base = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    table = from_frame(frame(hit=hit, base=base), Columns(metric="hit", d="d", baseline="base"), drop_worst=1)
    assert table.row_id == ("c", "e", "f")
    assert rules(table) == {"a": "does not beat the baseline", "d": "no metric", "b": "among the 1 lowest metrics"}
    np.testing.assert_allclose(table.response(POWER), [0.7, 0.6, 0.4])
    assert table.loss is None


def test_a_law_gets_its_axes_and_its_response():
    table = from_frame(frame(hit=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), Columns(loss="loss", metric="hit"))
    np.testing.assert_array_equal(table.points(OF_LOSS)["l"], table.loss)
    np.testing.assert_array_equal(table.response(OF_LOSS), table.metric)
    np.testing.assert_array_equal(table.response(POWER), table.loss)
    with pytest.raises(InputError, match=r"power .* needs D; .*--d$"):
        table.points(POWER)


@pytest.mark.parametrize(("axis", "flag"), [("n", "--n"), ("d", "--d"), ("u", "--unique"), ("l", "--loss")])
def test_a_missing_axis_names_its_flag(axis, flag):
    table = from_frame(frame(hit=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), Columns(loss="loss", metric="hit"))
    with pytest.raises(InputError, match=f"name its column with {flag}$"):
        dataclasses.replace(table, loss=None).points(dataclasses.replace(POWER, terms=(Power("A", "beta", axis),)))
    with pytest.raises(InputError, match=r"name its column with --metric$"):
        from_frame(frame(), COLUMNS).response(OF_LOSS)


def test_part_of_a_table_keeps_every_column():
    runs = frame(hit=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], u=[1.0, 1, 2, 2, 3, 3], run=list("xxyyzz"))
    table = from_frame(runs, Columns(loss="loss", metric="hit", d="d", n="n", unique="u", cluster="run"))
    part = table.take(table.d > 4)
    assert part.row_id == ("e", "f")
    for name in ("loss", "metric", "d", "n", "unique", "cluster"):
        np.testing.assert_array_equal(getattr(part, name), getattr(table, name)[4:])
    assert part.data_hash() != table.data_hash()
    assert part.cluster.tolist() == [2, 2]


def test_the_hash_separates_a_loss_from_an_error():
    runs = frame(hit=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    hashes = {
        from_frame(runs, Columns(d="d", **named)).data_hash()
        for named in ({"loss": "hit"}, {"metric": "hit"}, {"loss": "loss", "metric": "hit"})
    }
    assert len(hashes) == 3


def test_repeated_points_of_one_seed_ask_for_a_cluster_column():
    repeated = frame(d=[1.0, 1, 2, 3, 4, 5], seed=[0] * 6)
    assert "2 rows" in from_frame(repeated, COLUMNS).warnings[0]
    assert not from_frame(repeated.with_columns(seed=pl.int_range(6)), COLUMNS).warnings
    assert not from_frame(repeated, Columns(loss="loss", d="d", cluster="run_id")).warnings


def test_a_floor_column_without_numbers_is_no_floor():
    frame = pl.DataFrame({"d": [1.0, 10.0, 100.0], "loss": [3.0, 2.0, 1.5], "floor": [None] * 3})
    assert from_frame(frame, Columns(loss="loss", d="d", floor_column="floor"), source="rows").known_floor is None


def sweep(folder: Path, runs: int) -> list[Path]:
    """Makes a sweep folder of planned runs. Returns the paths of their row.json."""
    names = [f"run{i}" for i in range(runs)]
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"runs": {name: {} for name in names}}))
    for name in names:
        (folder / "runs" / name).mkdir(parents=True)
    return [folder / "runs" / name / "row.json" for name in names]


def test_a_sweep_under_way_lists_every_planned_run(tmp_path):
    done, failed, under_way, _ = sweep(tmp_path, 4)
    (under_way.parent / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no run is done yet \(1 under way or dead, 3 waiting\)"):
        read(tmp_path, Columns(loss="loss", d="d"))
    failed.write_text(json.dumps({"run_id": "run1", "status": "failed"}))
    with pytest.raises(InputError, match=r"no run is done yet \(1 failed, 1 under way or dead, 2 waiting\)"):
        read(tmp_path, Columns(loss="loss", d="d"))
    done.write_text(json.dumps({"run_id": "run0", "status": "done", "d": 1, "loss": 2.0}))
    table = read(tmp_path, Columns(loss="loss", d="d"))
    assert table.row_id == ("run0",)
    assert rules(table) == {"run1": "not done", "run2": "no row yet", "run3": "no row yet"}


def test_a_table_is_whole_while_rows_come_and_go(tmp_path):
    """Every planned run is in the table, or left out with a reason, at every moment."""
    kept, *others = sweep(tmp_path, 6)
    kept.write_text(json.dumps({"run_id": "run0", "status": "done", "d": 1, "loss": 2.0}))
    is_over, seen = threading.Event(), set()

    def disturb() -> None:
        for path in itertools.cycle(others):
            partial = path.with_name(".row")
            partial.write_text(json.dumps({"run_id": path.parent.name, "status": "failed", "d": 1, "loss": None}))
            partial.rename(path)
            if is_over.wait(1e-4):
                return
            path.unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(300):
            table = read(tmp_path, Columns(loss="loss", d="d"))
            assert {*table.row_id, *(row.row for row in table.excluded)} == {f"run{i}" for i in range(6)}
            assert len(table) + len(table.excluded) == 6
            seen.add(len(table.left_out))
    finally:
        is_over.set()
        thread.join()
    assert len(seen) > 1  # it was disturbed
