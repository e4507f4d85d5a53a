"""Tests the output of `sessionrec prepare`, `describe` and `sources`; bad input gives exit code 2 with one message."""

from __future__ import annotations

import json

import polars as pl
import pytest

from experiments.__main__ import main
from sessionrec_jax.data import store
from sessionrec_jax.data.sources.by_table import BY_TABLE
from sessionrec_jax.registry import SOURCES

NOW_MS = 1_650_000_000_000
HOUR_MS = 3_600_000


def log(users: int = 20, sessions: int = 4, items: int = 5) -> pl.DataFrame:
    rows = [
        (f"u{user}", f"i{item}", NOW_MS + session * HOUR_MS + item, int(item == session))
        for user in range(users)
        for session in range(sessions)
        for item in range(items)
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "clicked"], orient="row")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder that holds only log.csv. Returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(table: pl.DataFrame | str | None, *argv: str) -> tuple[int, str, str]:
        if isinstance(table, str):
            (tmp_path / "log.csv").write_text(table)
        elif table is not None:
            table.write_csv(tmp_path / "log.csv")
        code = main(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


TABLE = ("prepare", "table", "--exposures", "log.csv", "--out", "data/log")


def test_prepare_and_describe(run, tmp_path):
    code, out, _ = run(log(), *TABLE)
    assert code == 0
    assert "20, of them 0 without a session to predict" in out
    assert "train 40, validation 20, test 20" in out
    code, described, _ = run(None, "describe", "data/log")
    assert (code, described) == (0, out)
    code, card, _ = run(None, "describe", "data/log", "--json")
    assert code == 0
    assert json.loads(card) == store.open_log(tmp_path / "data/log").card()
    assert json.loads(card)["sessions"] == 80


def test_synthetic_and_sources(run, tmp_path):
    code, _, _ = run(
        None, "prepare", "synthetic", "--users", "30", "--base", "4", "--seed", "1", "--test-users", "5", "--out", "s"
    )
    assert code == 0
    assert len(store.open_log(tmp_path / "s").users_of(2)) == 5
    code, out, _ = run(None, "sources", "--json")
    assert code == 0
    assert set(json.loads(out)) == {*SOURCES, *BY_TABLE}
    assert json.loads(out)["kuaisar"]["files"][0]["pattern"] == "rec_inter.csv"
    listed = run(None, "sources")[1]
    assert "CC BY-SA 4.0" in listed
    assert "src_inter.csv      the search log (--search-log)" in listed


def test_a_temporal_split(run, tmp_path):
    dates = ("--validation-from", "2022-04-15T07:00", "--test-from", "2022-04-15T10:00:00+02:00")
    code, _, _ = run(log(), *TABLE, "--split", "temporal", *dates)
    assert code == 0
    assert store.open_log(tmp_path / "data/log").manifest["sessions_by_role"] == {
        "train": 40,
        "validation": 20,
        "test": 20,
    }


def test_numbers_of_the_item_table_go_into_buckets(run, tmp_path):
    items = [(f"i{item}", item / 2, item) for item in range(6)]
    pl.DataFrame(items, schema=["item_id", "price", "year"], orient="row").write_csv(tmp_path / "items.csv")
    asked = ("--items", "items.csv", "--numeric", "year", "--side-buckets", "4")
    code, out, _ = run(log(), *TABLE, *asked)
    assert code == 0
    assert "price (4 buckets), year (4 buckets)" in " ".join(out.split())
    assert run(None, "describe", "data/log")[1] == out
    code, _, err = run(log(), *TABLE[:-1], "data/other", *asked[:2], "--numeric", "yeer")
    assert code == 2
    assert "--numeric yeer: the item table has no such column; did you mean 'year'?" in " ".join(err.split())


def test_columns_of_the_log_and_hours_are_session_context(run, tmp_path):
    table = log().with_columns(device=pl.col("user_id").str.slice(1).cast(pl.Int64) % 3, day=pl.lit("Friday"))
    code, out, _ = run(table, *TABLE, "--session-context", "device", "day", "--session-time", "hour_of_day")
    assert code == 0
    line = "device (3 values), day (1 values), hour_of_day (2 values, 40 sessions out of vocabulary)"
    assert line in " ".join(out.split())
    assert run(None, "describe", "data/log")[1] == out
    prepared = store.open_log(tmp_path / "data/log")
    assert prepared.context_vocabulary("device").to_list() == [0, 1, 2]
    assert prepared.context_of_start == ["hour_of_day"]


def test_a_user_with_one_session_is_kept_and_counted(run, tmp_path):
    alone = pl.DataFrame({"user_id": ["x"], "item_id": ["i1"], "timestamp_ms": [NOW_MS], "clicked": [1]})
    code, out, _ = run(pl.concat([log(), alone]), *TABLE)
    assert code == 0
    assert "21, of them 1 without a session to predict" in out
    prepared = store.open_log(tmp_path / "data/log")
    assert prepared.users == 21
    assert len(prepared.users_of(2)) == 20


def test_exact_duplicates_are_reported_but_not_held_against_the_log(run, tmp_path):
    code, out, _ = run(pl.concat([log(), log()]), *TABLE)
    assert code == 0
    assert "exact duplicate 400 of 800 rows" in out
    assert len(pl.read_parquet(tmp_path / "data/log/rejected.parquet")) == 400


def long_session() -> pl.DataFrame:
    rows = [("u0", f"i{n}", NOW_MS + n, 1) for n in range(2000)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "clicked"], orient="row")


def test_a_long_session_loses_what_is_past_the_limit_and_says_so(run, tmp_path):
    code, _, _ = run(long_session(), *TABLE, "--max-rejected-fraction", "0.8")
    assert code == 0
    manifest = store.open_log(tmp_path / "data/log").manifest
    assert manifest["max_session_items"] == 512
    assert manifest["rejected"] == {"past the session's longest length": 1488}
    code, _, _ = run(None, *TABLE, "--max-session-items", "2000", "--overwrite")
    assert store.open_log(tmp_path / "data/log").manifest["max_session_items"] == 2000


HEADER = "user_id,item_id,timestamp_ms,clicked\n"
BAD = {
    "no file": ((None, *TABLE), "no file matches 'log.csv'"),
    "no column": (
        (log().rename({"clicked": "clickd"}), *TABLE),
        "no column 'clicked' (--clicked); did you mean 'clickd'",
    ),
    "no clicks": (
        (log().drop("clicked"), *TABLE),
        "known: item_id, timestamp_ms, user_id (or --clicked all, if every row is a click)",
    ),
    "text for a number": (
        (log().with_columns(timestamp_ms=pl.lit("noon")), *TABLE),
        "time is missing or not a number: 400, is it the right column?",
    ),
    "empty": ((HEADER, *TABLE), "the log is empty"),
    "not even a header": (("", *TABLE), "not even a header"),
    "no click": ((log().with_columns(clicked=pl.lit(0)), *TABLE), "no exposure of the log is clicked"),
    "long session": ((long_session(), *TABLE), "length: 1,488, see --max-session-items"),
    "seconds": ((log().with_columns(pl.col("timestamp_ms") // 1000), *TABLE), "--time-unit s"),
    "seconds in some rows": (
        (log().with_columns(pl.col("timestamp_ms") // (1 + 999 * (pl.int_range(pl.len()) % 9 == 0))), *TABLE),
        "time before 1990 or after 2100: 45, are all files in --time-unit?",
    ),
    "unknown source": ((None, "prepare", "tabel", "--out", "x"), "unknown source 'tabel'; did you mean 'table'?"),
    "no published file": (
        (log(), "prepare", "kuaisar", ".", "--out", "x"),
        "has no rec_inter.csv and no item_features.csv. Wanted a folder that holds rec_inter.csv the recommendation",
    ),
    "no source": ((None, "prepare"), "which source?"),
    "unknown flag": ((log(), *TABLE, "--sesion", "x"), "--session"),
    "no such context": (
        (log(), *TABLE, "--session-context", "clickd"),
        "no column 'clickd' (--session-context); did you mean 'clicked'?",
    ),
    "context that is no category": (
        (log().with_columns(level=pl.col("clicked") + 0.5), *TABLE, "--session-context", "level"),
        "neither an integer nor text: 400, see --session-context",
    ),
    "context twice": (
        (
            log().rename({"clicked": "hour_of_day"}),
            *TABLE,
            "--clicked",
            "hour_of_day",
            "--session-context",
            "hour_of_day",
            "--session-time",
            "hour_of_day",
        ),
        "leave out one of them",
    ),
    "context of no name": (
        (log().with_columns(none=pl.lit(1)), *TABLE, "--session-context", "none"),
        "cannot be called 'none'",
    ),
    "no such hour": ((log(), *TABLE, "--session-time", "hour"), "hour_of_day"),
    "unknown rule": ((log(), *TABLE, "--session-rule", "gap=30"), "wanted same_timestamp or gap_minutes=30"),
    "rule and ids": ((log(), *TABLE, "--session", "clicked", "--session-rule", "same_timestamp"), "leave out one"),
    "no dates": ((log(), *TABLE, "--split", "temporal"), "wants --validation-from and --test-from; for example"),
    "no such date": (
        (log(), *TABLE, "--split", "temporal", "--validation-from", "soon", "--test-from", "2022-04-16"),
        "wanted dates in ISO 8601",
    ),
    "dates outside": (
        (log(), *TABLE, "--split", "temporal", "--validation-from", "2023-01-01", "--test-from", "2023-02-01"),
        "the dates must be inside",
    ),
    "flag of another split": ((log(), *TABLE, "--test-users", "3"), "belongs to --split held_out_users"),
    "all held out": (
        (log(), *TABLE, "--split", "held_out_users", "--test-users", "20"),
        "leave none of the 20 users to train on",
    ),
    "not prepared": ((None, "describe", "."), "is not a prepared log"),
    "nowhere": ((None, "describe", "nowhere"), "no such folder"),
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("table", "synthetic")])
def test_a_published_source_checks_its_files_first(run, tmp_path, name):
    (tmp_path / "unpacked").mkdir()
    code, _, err = run(None, "prepare", name, "unpacked", "--out", "data/log")
    assert code == 2
    assert "unpacked has no " in err
    assert "Wanted a folder that holds" in err
    module = SOURCES.find(name)
    assert all(file.pattern in err for file in module.FILES)
    assert all(getattr(module, fact) for fact in ("TITLE", "LICENCE", "SIZE", "WHERE", "CITATION"))
    assert [path.name for path in tmp_path.iterdir()] == ["unpacked"]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_and_leaves_nothing_behind(run, tmp_path, case):
    argv, message = BAD[case]
    code, out, err = run(*argv)
    assert code == 2
    assert message in " ".join((out + err).split())
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*partial*"))
    assert not (tmp_path / "data/log").exists()


def test_rejected_rows_can_be_looked_at(run, tmp_path):
    dirty = log().with_columns(clicked=pl.when(pl.int_range(pl.len()) < 8).then(pl.lit("perhaps")).otherwise("clicked"))
    code, _, err = run(dirty, *TABLE)
    assert code == 2
    assert "2.0% of 400 rows break the contract, more than the allowed 1.0%" in err
    assert "--max-rejected-fraction 0.02" in err
    rejected = pl.read_parquet(tmp_path / "data/log.rejected.parquet")
    assert rejected["clicked"].to_list() == ["perhaps"] * 8
    code, _, _ = run(None, *TABLE, "--max-rejected-fraction", "0.02")
    assert code == 0
    assert pl.read_parquet(tmp_path / "data/log/rejected.parquet").equals(rejected)
    assert not (tmp_path / "data/log.rejected.parquet").exists()


def test_an_existing_folder_is_replaced_only_when_asked_and_only_when_all_is_done(run, tmp_path, monkeypatch):
    assert run(log(), *TABLE)[0] == 0
    before = store.open_log(tmp_path / "data/log").fingerprint
    code, _, err = run(log(users=30), *TABLE)
    assert code == 2
    assert "data/log exists already" in err

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_part", killed)
        assert run(None, *TABLE, "--overwrite")[0] == 130
        assert run(None, *TABLE[:-1], "data/new")[0] == 130
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["log"]
    assert store.open_log(tmp_path / "data/log").fingerprint == before
    assert run(None, *TABLE, "--overwrite")[0] == 0
    assert store.open_log(tmp_path / "data/log").users == 30
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["log"]


def test_what_a_killed_preparation_left_is_not_read_and_is_cleared_by_the_next(run, tmp_path):
    left = tmp_path / "data/.log.partial"
    left.mkdir(parents=True)
    (left / "items.parquet").touch()
    assert run(log(), *TABLE)[0] == 0
    assert not left.exists()


def test_a_folder_of_someone_else_is_never_replaced(run, tmp_path):
    (tmp_path / "data/log").mkdir(parents=True)
    (tmp_path / "data/log/thesis.txt").write_text("mine")
    code, _, err = run(log(), *TABLE, "--overwrite")
    assert code == 2
    assert "is not a prepared log" in err
    assert (tmp_path / "data/log/thesis.txt").read_text() == "mine"
