"""Times, labels and layouts in the forms that people have: each is read, or one message says what to change."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from experiments.__main__ import main
from sessionrec_jax.data.store import open_log

START_MS = 1_700_006_400_000  # 2023-11-15, midnight UTC
STEP_MS = 7_200_000


def rows(times: list[Any] | None = None, **columns: Any) -> pl.DataFrame:
    """Ten users with six sessions of two exposures, the first of which is clicked."""
    table = [
        {"user_id": user, "item_id": (user * 7 + session * 2 + n) % 20 + 1, "visit": session, "clicked": n == 0,
         "timestamp_ms": START_MS + session * STEP_MS + user * 1000}
        for user in range(10) for session in range(6) for n in range(2)
    ]  # fmt: skip
    frame = pl.DataFrame(table)
    return frame.with_columns(**columns) if columns else frame


def prepared(file: Path, *flags: str) -> dict[str, Any]:
    out = file.with_suffix(".log")
    assert main(["prepare", "table", "--exposures", str(file), "--out", str(out), *flags]) in (0, None)
    return open_log(out).manifest


def refused(capsys: pytest.CaptureFixture[str], file: Path, *flags: str) -> str:
    assert main(["prepare", "table", "--exposures", str(file), "--out", str(file.with_suffix(".log")), *flags]) == 2
    assert not file.with_suffix(".log").exists()
    return " ".join(capsys.readouterr().err.split())


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def as_text(form: str) -> pl.Expr:
    return pl.from_epoch("timestamp_ms", "ms").dt.strftime(form).alias("timestamp_ms")


@pytest.mark.parametrize(
    ("form", "note"),
    [
        ("%Y-%m-%dT%H:%M:%SZ", False),
        ("%Y-%m-%d %H:%M:%S", True),
        ("%Y-%m-%dT%H:%M:%S+00:00", False),
        ("%Y-%m-%dT%H:%M:%S%.3f", True),
        ("%Y-%m-%d %H:%M:%S.000 +0000", False),
    ],
)
def test_text_times_are_the_log_of_their_numbers(form, note, tmp_path):
    rows().write_csv(tmp_path / "numbers.csv")
    rows().with_columns(as_text(form)).write_csv(tmp_path / "text.csv")
    numbers, text = prepared(tmp_path / "numbers.csv"), prepared(tmp_path / "text.csv")
    assert text["fingerprint"] == numbers["fingerprint"]
    assert ("read as UTC" in text["note"]) is note
    assert not numbers["note"]


def test_an_offset_moves_the_time(tmp_path):
    rows().write_csv(tmp_path / "numbers.csv")
    later = pl.from_epoch(pl.col("timestamp_ms") + 2 * 3_600_000, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S+02:00")
    rows().with_columns(later.alias("timestamp_ms")).write_csv(tmp_path / "text.csv")
    fingerprints = {prepared(tmp_path / f"{name}.csv")["fingerprint"] for name in ("numbers", "text")}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("kind", [pl.Date, pl.Datetime("ns"), pl.Datetime("us", "UTC")])
def test_dates_and_datetimes(kind, tmp_path):
    time = pl.from_epoch("timestamp_ms", "ms").cast(pl.Datetime("ns" if kind == pl.Datetime("ns") else "us"))
    time = time.dt.replace_time_zone("UTC") if getattr(kind, "time_zone", None) else time.cast(kind)
    rows().with_columns(time.alias("timestamp_ms")).write_parquet(tmp_path / "a.parquet")
    manifest = prepared(tmp_path / "a.parquet", "--session", "visit")
    assert manifest["sessions"] == 60
    first = datetime.datetime.fromtimestamp(manifest["time_range_ms"][0] / 1000, datetime.UTC)
    assert first.date() == datetime.date(2023, 11, 15)
    assert ("read as UTC" in manifest["note"]) is (getattr(kind, "time_zone", None) is None)


def test_numbers_in_nanoseconds(tmp_path):
    rows().with_columns(pl.col("timestamp_ms") * 1_000_000).write_csv(tmp_path / "a.csv")
    rows().write_csv(tmp_path / "b.csv")
    ns = prepared(tmp_path / "a.csv", "--time-unit", "ns")
    assert ns["fingerprint"] == prepared(tmp_path / "b.csv")["fingerprint"]


def test_a_log_without_times_is_ordered_by_its_rows(tmp_path, capsys):
    table = rows().sort("user_id", "visit").drop("timestamp_ms")
    table.write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv", "--order", "row", "--session", "visit")
    assert (manifest["sessions"], manifest["exposures"]) == (60, 120)
    assert "no times" in manifest["note"]
    rows().write_csv(tmp_path / "b.csv")
    same = open_log(tmp_path / "a.log").arrays(), None
    prepared(tmp_path / "b.csv", "--session", "visit")
    assert same[0].item_N.tolist() == open_log(tmp_path / "b.log").arrays().item_N.tolist()
    table.write_csv(tmp_path / "c.csv")
    assert "name the column of sessions with --session" in refused(capsys, tmp_path / "c.csv", "--order", "row")


@pytest.mark.parametrize(("user", "item", "hint"), [("who", "what", False), ("what", "who", True)])
@pytest.mark.parametrize("unique", [True, False])
def test_swapped_columns_of_users_and_items_get_a_hint(tmp_path, user, item, hint, unique):
    """Session ids that begin again for each user give no sign."""
    visit = pl.format("{}-{}", "user_id", "visit") if unique else pl.col("visit")
    rows().with_columns(visit.alias("visit")).rename({"user_id": "who", "item_id": "what"}).write_csv(
        tmp_path / "a.csv"
    )
    words = ("--user", user, "--item", item, "--session", "visit")
    note = prepared(tmp_path / "a.csv", *words)["note"]
    assert ("are --user and --item swapped?" in note) is (hint and unique)


def test_times_that_lost_their_digits_are_refused_where_sessions_rest_on_them(tmp_path, capsys):
    coarse = (pl.col("timestamp_ms") // 10_000_000 * 10_000_000).cast(pl.Float64)
    rows().with_columns(coarse.map_elements(lambda x: f"{x:.5E}", pl.String).alias("timestamp_ms")).write_csv(
        tmp_path / "a.csv"
    )
    assert "lost their last digits" in refused(capsys, tmp_path / "a.csv")
    assert prepared(tmp_path / "a.csv", "--session", "visit")["sessions"] == 60


def test_whole_days_are_not_coarse(tmp_path):
    rows().with_columns(pl.col("timestamp_ms") // 86_400_000 * 86_400_000 + pl.col("visit") * 86_400_000).write_csv(
        tmp_path / "a.csv"
    )
    assert prepared(tmp_path / "a.csv")["sessions"] == 60


@pytest.mark.parametrize("name", ["a.parquet", "a.ndjson"])
def test_a_row_that_is_a_whole_session_names_the_line_that_flattens_it(name, tmp_path, capsys):
    lists = rows().group_by("user_id", "visit", maintain_order=True).agg("item_id", "clicked", pl.first("timestamp_ms"))
    write = lists.write_parquet if name.endswith("parquet") else lists.write_ndjson
    write(tmp_path / name)
    words = refused(capsys, tmp_path / name)
    assert "flatten it first" in words
    assert ".explode(['item_id', 'clicked'])" in words


def test_a_header_with_another_separator_is_named(tmp_path, capsys):
    rows().write_csv(tmp_path / "a.csv", separator=";")
    words = refused(capsys, tmp_path / "a.csv")
    assert "separated by ';', not by commas" in words


def test_a_log_of_clicks_alone_has_a_road(tmp_path, capsys):
    rows().drop("clicked").write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv", "--clicked", "all")
    assert manifest["click_rate"] == 1
    assert "--loss.alpha 0" in manifest["note"]
    train = ["train", str(tmp_path / "a.log"), "--out", str(tmp_path / "run")]
    assert main(train) == 2
    assert "every exposure of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_clicks_past_the_longest_session_are_counted(tmp_path, capsys):
    rows().write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv", "--session-rule", "gap_minutes=600", "--max-session-items", "5",
                        "--max-rejected-fraction", "1")  # fmt: skip
    assert manifest["lost_clicks"] == 30
    assert "30 clicks are lost" in said(capsys)


def test_a_history_that_shows_what_happens_later_is_counted(tmp_path, capsys):
    """Session ids of the log may overlap: user 1 opens a second session before the last click of the first."""
    times = {0: (0, 9), 1: (5, 20), 2: (20, 30)}  # the third begins when the second ends, which is no overlap
    table = [
        (1, item, START_MS + 1000 * second, 1, session)
        for session, both in times.items()
        for item, second in enumerate(both)
    ]
    columns = ("user_id", "item_id", "timestamp_ms", "clicked", "session_id")
    pl.DataFrame(table, schema=columns, orient="row").write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv", "--session", "session_id")
    assert manifest["overlapping_sessions"] == 1
    assert "50.0% of the sessions to predict begin before an earlier session" in " ".join(said(capsys).split())


@pytest.mark.parametrize(
    "flags", [("--paradigm", "nipp", "--loss.alpha", "0"), ("--model.no-ignored-in-input",)], ids=["clicks", "nothing"]
)
def test_something_enters_the_model(tmp_path, capsys, flags):
    rows().write_csv(tmp_path / "a.csv")
    prepared(tmp_path / "a.csv")
    train = ["train", str(tmp_path / "a.log"), "--out", str(tmp_path / "run"), "--model.no-clicked-in-input"]
    assert main([*train, *flags]) == 2
    assert "nothing would enter the model" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_split_says_what_it_leaks(tmp_path, capsys):
    """Users one after the other: under leave-one-out all training of later users is after the first test session."""
    shifted = pl.col("timestamp_ms") + pl.col("user_id") * 100 * 3_600_000
    rows().with_columns(shifted).write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv")
    assert manifest["training_after_first_test"] == pytest.approx(0.9)
    assert "90.0% of the training exposures are later than the first test session" in said(capsys)
    dates = ("--validation-from", "2023-11-30", "--test-from", "2023-12-10")
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    assert prepared(tmp_path / "b.csv", "--split", "temporal", *dates)["training_after_first_test"] == 0


def test_the_split_says_how_many_test_clicks_are_on_new_items(tmp_path, capsys):
    """The last session of every user shows one item that no other session does, and clicks it."""
    is_new = (pl.col("visit") == 5) & pl.col("clicked")
    rows(item_id=pl.when(is_new).then(99).otherwise("item_id")).write_csv(tmp_path / "a.csv")
    manifest = prepared(tmp_path / "a.csv", "--session", "visit")
    assert manifest["test_clicks_on_new_items"] == 1
    assert "100.0% of the test clicks are on items that no training session shows, which a model" in said(capsys)


def test_no_new_item_is_not_said(tmp_path, capsys):
    rows().write_csv(tmp_path / "a.csv")
    assert prepared(tmp_path / "a.csv", "--session", "visit")["test_clicks_on_new_items"] == 0
    assert "no training session shows" not in said(capsys)
