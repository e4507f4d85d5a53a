"""Tests broken logs: each ends with a clear error or with counted rejections, and no row is lost.

The law: `prepare` raises InputError and leaves nothing, or every row is in the log or, unchanged and with a reason, in
rejected.parquet, for any order of rows and any number of rows in memory.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from contract import assert_same_log
from grid import mostly_slow
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sessionrec_jax.data import session_log
from sessionrec_jax.data.preparation import prepare as preparation
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import RawLog, files, table
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError

NOW_MS = 1_650_000_000_000
ALLOWED = Settings(max_rejected_fraction=1.0, max_session_items=20)
FEW = settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink one takes minutes
MANY = settings(FEW, max_examples=150)
NAN, INF = float("nan"), float("inf")

# A column of a log has one type. For each type: values that are sound, and values that may not be.
TEXT = ["u1", " u 2", "a\nb", 'a"b,c', "😀", "[1, 2]", "007", "7", "x" * 3000, str(2**64), " ", "", "\ufffd", None]
IDS = {
    pl.String: TEXT,
    pl.Int64: [1, 2, -3, 2**63 - 1, -(2**63), None],
    pl.UInt64: [1, 2, 2**63, 2**64 - 1, None],
    pl.Float64: [1.0, 2.0, 2.0**53, 2.0**53 + 2, 1.5, 1e300, NAN, -INF, None],
}
TIMES = {
    pl.Int64: [NOW_MS, NOW_MS // 1000, NOW_MS * 1000, NOW_MS * 10**6, -1, 2**63 - 1, None],
    pl.Float64: [float(NOW_MS), NOW_MS + 0.25, NOW_MS / 1000, NAN, INF, -1e300, None],
    pl.String: [str(NOW_MS), f"{NOW_MS}.0", "1.65e12", str(NOW_MS // 1000), "noon", "nan", "9" * 400, "", None],
}
CLICKED = {
    pl.Boolean: [True, False, None],
    pl.Int64: [1, 0, 2, -1, None],
    pl.Float64: [1.0, 0.0, 0.5, NAN, None],
    pl.String: ["1", "0", "TRUE", " false ", "1.0", "yes", "", None],
}
SESSIONS = {pl.String: ["a", "b", "a\nb", "", None], pl.Int64: [1, 2, -(2**63), None]}
FEEDBACK = {pl.String: ["query", "anchor", "", None]}


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Draws sound rows of six users, dirty rows, and copies of both, in any order."""
    choices = {"user_id": IDS, "item_id": IDS, "timestamp_ms": TIMES, "clicked": CLICKED}
    choices |= draw(st.sampled_from([{}, {"session_id": SESSIONS}, {"feedback": FEEDBACK}]))
    kinds = {name: draw(st.sampled_from(list(of))) for name, of in choices.items()}
    values = {name: of[kinds[name]] for name, of in choices.items()}
    dirty = draw(st.lists(st.tuples(*(st.sampled_from(of) for of in values.values())), max_size=25))
    sound = [_sound(choices, kinds, user, place) for user in range(6) for place in range(4)]
    rows = draw(st.permutations([*sound, *dirty, *dirty[:5], *sound[:3]]))
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _sound(choices: dict[str, Any], kinds: dict[str, Any], user: int, place: int) -> tuple[Any, ...]:
    cells = {"user_id": user, "item_id": place, "timestamp_ms": NOW_MS + place * 3_600_000, "clicked": place % 2}
    cells |= {"session_id": place, "feedback": "query"}
    as_kind = {pl.String: str, pl.Float64: float, pl.Boolean: bool}
    return tuple(as_kind.get(kinds[name], int)(cells[name]) for name in choices)


# --- the law ---------------------------------------------------------------------------------------------------------


def law(raw: RawLog, how: Settings = ALLOWED) -> Prepared | None:
    """Prepares `raw` in three ways and asserts the law for each."""
    came = raw.exposures.lazy().collect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, refusal = attempt(raw, folder / "whole", how)
        with mock.patch.multiple(preparation, _ROWS_READ=len(came) // 8 + 1, _ROWS_CUT=len(came) // 4 + 1):
            in_parts, also_refusal = attempt(raw, folder / "parts", how, piece_rows=len(came) // 3 + 1)
        reversed_ = RawLog(raw.source, came[::-1], raw.items, time_unit=raw.time_unit)
        backwards, refusal_backwards = attempt(reversed_, folder / "backwards", how)
        assert refusal == also_refusal == refusal_backwards
        if whole is None:
            assert all(path.name.endswith(".rejected.parquet") for path in folder.iterdir())
            return None
        assert_same_log(in_parts, whole)
        assert exposures_of(backwards) == exposures_of(whole)
        assert backwards.manifest["rejected"] == whole.manifest["rejected"]

        rejected = pl.read_parquet(whole.path / "rejected.parquet")
        assert rejected["reason"].null_count() == 0
        assert dict(rejected.group_by("reason").len().iter_rows()) == whole.manifest["rejected"]
        kept = rows_of(came)
        kept.subtract(rows_of(rejected.select(came.columns)))
        assert min(kept.values(), default=0) >= 0, "a rejected row was changed"
        assert len(came) == whole.manifest["rows"] == whole.manifest["exposures"] + len(rejected)
        wanted = Counter()
        for row, count in (+kept).items():
            wanted[meant(dict(zip(came.columns, row, strict=True)), whole)] += count
        assert wanted == exposures_of(whole)
        return whole


def attempt(raw: RawLog, out: Path, how: Settings, **kwargs: Any) -> tuple[Prepared | None, str]:
    try:
        return prepare(raw, out, how, **kwargs), ""
    except InputError as error:
        return None, str(error).replace(out.name, "OUT")


def rows_of(frame: pl.DataFrame) -> Counter:
    """Returns the rows with their numbers; NaN equals itself here."""
    return Counter(tuple("nan" if cell != cell else cell for cell in row) for row in frame.iter_rows())


def meant(row: dict[str, Any], log: Prepared) -> tuple[Any, ...]:
    """Returns user, item and feedback of a sound row."""
    user, item = (int(row[n]) if isinstance(row[n], float) else row[n] for n in ("user_id", "item_id"))
    item = str(item) if log.item_ids().dtype == pl.String else item
    label = row["clicked"].strip().lower() if isinstance(row["clicked"], str) else row["clicked"]
    if label in (None, ""):
        kind = row.get("feedback")
        return user, item, "context" if kind is None else kind
    return user, item, "clicked" if label in (True, "1", "1.0", "true") else "ignored"


def exposures_of(log: Prepared) -> Counter:
    """Returns the same of a stored row."""
    flat, users = log.arrays(), pl.read_parquet(log.path / "users.parquet")["user_id"].to_list()
    items, user_N = log.item_ids().to_list(), np.repeat(np.arange(flat.users), np.diff(flat.user_item_offsets_U1))
    stored = zip(user_N.tolist(), flat.item_N.tolist(), flat.feedback_N.tolist(), strict=True)
    return Counter((users[user], items[item - 1], log.feedback_names[code]) for user, item, code in stored)


EMPTY = pl.all().replace("", None)
ITEMS = st.none() | st.lists(st.sampled_from([1, 2, 0, 3, 2**53]), unique=True, min_size=3)


@FEW
@given(log=logs(), items=ITEMS, as_text=st.booleans())
def test_every_row_is_taken_or_rejected_unchanged(log, items, as_text):
    law(RawLog("test", log, item_table(items, as_text)))


@pytest.mark.slow
@MANY
@given(log=logs(), items=ITEMS, as_text=st.booleans())
def test_many_more_rows_are_taken_or_rejected_unchanged(log, items, as_text):
    law(RawLog("test", log, item_table(items, as_text)))


def item_table(items: list[int] | None, as_text: bool) -> pl.DataFrame | None:
    return None if items is None else pl.DataFrame({"item_id": items}).cast(pl.String if as_text else pl.Int64)


# --- files -----------------------------------------------------------------------------------------------------------


def write(log: pl.DataFrame, folder: Path, kind: str) -> Path:
    path = folder / f"log.{kind}"
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(log.write_csv().encode()))
    else:
        writers = {"csv": log.write_csv, "ndjson": log.write_ndjson, "parquet": log.write_parquet}
        writers["feather"] = log.write_ipc
        writers[kind](path)
    return path


def read(path: Path | str, log: pl.DataFrame, **options: Any) -> RawLog:
    further = {"session": "session_id", "feedback": "feedback"}
    given = {option: name for option, name in further.items() if name in log.columns}
    return table.read(table.Options(str(path), **given, **options))


def through_a_file(log: pl.DataFrame, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = read(write(log, Path(folder), kind), log)
        came = raw.exposures.collect()
        if kind in ("csv", "csv.gz"):  # where nothing has a type
            written = pl.read_csv(log.write_csv().encode(), infer_schema=False)
            floats = [
                name for name, kind in came.schema.items() if kind.is_float()
            ]  # 1e15 may be written in several ways
            as_came = written.cast(dict.fromkeys(floats, pl.Float64)).cast(pl.String).with_columns(EMPTY)
            assert came.select(log.columns).cast(pl.String).with_columns(EMPTY).equals(as_came)
        law(raw)


@FEW
@given(log=logs(), kind=st.sampled_from(["csv", "csv.gz", "ndjson", "parquet"]))
def test_files_say_what_was_written_into_them(log, kind):
    through_a_file(log, kind)


@pytest.mark.slow
@MANY
@given(log=logs(), kind=st.sampled_from(["csv", "csv.gz", "ndjson", "parquet"]))
def test_many_more_files_say_what_was_written_into_them(log, kind):
    through_a_file(log, kind)


SOUND = pl.DataFrame(
    [(f"u{user}", f"i{item}", NOW_MS + item * 3_600_000, item % 2) for user in range(40) for item in range(5)],
    schema=["user_id", "item_id", "timestamp_ms", "clicked"],
    orient="row",
)


def test_a_file_that_was_cut_short_or_is_not_utf8_is_named(tmp_path):
    for kind in ("csv.gz", "parquet", "feather", "ndjson"):
        path = write(SOUND, tmp_path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=rf"log\.{kind} cannot be read as \w+: .* Is it whole"):
            read(path, SOUND)
    for kind in ("csv", "ndjson"):
        path = write(SOUND, tmp_path, kind)
        path.write_bytes(path.read_bytes().replace(b"u7", b"\xe9"))
        with pytest.raises(InputError, match=rf"log\.{kind} cannot be read as {kind}: .*(?i:utf-?8)"):
            read(path, SOUND)


def test_a_csv_that_was_cut_short_loses_its_last_row_to_a_rejection(tmp_path):
    path = write(SOUND, tmp_path, "csv")
    path.write_bytes(path.read_bytes()[:-12])  # in the middle of the last time
    log = law(read(path, SOUND))
    assert log.manifest["rejected"] == {session_log.ABSURD_TIME: 1}


def test_a_row_with_fields_too_many_or_a_quote_too_many_is_reported(tmp_path):
    lines = write(SOUND, tmp_path, "csv").read_text().splitlines()
    for bad in ("u,1,i1,1650000000000,1", '"u1,i1,1650000000000,1'):
        (tmp_path / "log.csv").write_text("\n".join([*lines[:100], bad, *lines[100:]]))
        with pytest.raises(InputError, match=r"log\.csv cannot be read as csv"):
            read(tmp_path / "log.csv", SOUND)


def test_bytes_that_are_not_utf8_make_two_ids_of_a_published_log_one_so_they_are_rejected(tmp_path):
    path = write(SOUND, tmp_path, "csv")
    path.write_bytes(path.read_bytes().replace(b"u7,", b"\xe8,").replace(b"u8,", b"\xe9,"))
    scanned = files.scan_csv([path], dict.fromkeys(SOUND.columns, pl.String))
    assert law(RawLog("test", scanned)).manifest["rejected"] == {session_log.BAD_ID: 10}


# --- ids and times that look the same----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "came"),
    [
        (["7", "-8"], [7, -8]),
        (["7", "007"], ["7", "007"]),
        (["7", "+8"], ["7", "+8"]),
        (["7", " 8"], ["7", " 8"]),
        (["7", str(2**63)], ["7", str(2**63)]),
        (["7", "x"], ["7", "x"]),
        (["7.0", "8"], [7, 8]),  # how pandas writes integers with gaps
        ([f"{2**53}.0", f"{2**53 + 1}.0"], [f"{2**53}.0", f"{2**53 + 1}.0"]),
        (["true", "false"], ["true", "false"]),
    ],
)
def test_ids_in_a_csv_stay_as_many_as_they_are(tmp_path, written, came):
    lines = [f"{user},{item},{NOW_MS + item * 3_600_000},{item % 2}" for user in written for item in range(3)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp_ms,clicked", *lines]))
    raw = table.read(table.Options(str(tmp_path / "log.csv")))
    assert law(raw).manifest["rejected"] == {}
    assert session_log.type_rows(raw.exposures, None).collect()["user_id"].unique(maintain_order=True).to_list() == came


def test_codes_with_leading_zeros_stay_text_and_numbers_numbers_in_an_item_table(tmp_path):
    items = pl.DataFrame({"item_id": ["i0", "i1"], "code": ["01", "1"], "year": ["1999", ""], "size": ["2.0", "nan"]})
    items.write_csv(tmp_path / "items.csv")
    raw = table.read(table.Options(str(write(SOUND, tmp_path, "csv")), items=str(tmp_path / "items.csv")))
    assert raw.items.schema == {"item_id": pl.String, "code": pl.String, "year": pl.Int64, "size": pl.Float64}
    assert raw.items["year"].to_list() == [1999, None]


UNITS = {"s": 10**-3, "ms": 1, "us": 10**3, "ns": 10**6}


PAIRS = list(itertools.product(UNITS, UNITS))


@pytest.mark.parametrize(
    ("unit", "given"),
    mostly_slow(PAIRS, quick=[pair for pair in PAIRS if pair not in (("us", "us"), ("ms", "ms"))], several=True),
)
def test_a_log_in_another_unit_is_refused_with_its_unit(tmp_path, unit, given):
    path = write(SOUND.with_columns((pl.col("timestamp_ms") * UNITS[unit]).cast(pl.Int64)), tmp_path, "csv")
    raw = read(path, SOUND, time_unit=given)
    if unit == given:
        assert law(raw).manifest["rejected"] == {}
    elif (unit, given) != ("ns", "s"):  # past an int64: the rows are rejected one by one
        with pytest.raises(InputError, match=rf"when read as {unit}\. Give the unit \(--time-unit {unit}\)"):
            prepare(raw, tmp_path / "log", ALLOWED)


def test_a_few_times_in_other_units_are_rejected_unchanged(tmp_path):
    times = pl.Series([*SOUND["timestamp_ms"] // 1000])
    times[0], times[1], times[2] = NOW_MS, NOW_MS * 1000, -1
    raw = read(write(SOUND.with_columns(timestamp_ms=times), tmp_path, "csv"), SOUND, time_unit="s")
    assert law(raw).manifest["rejected"] == {session_log.ABSURD_TIME: 3}


def test_a_log_whose_clicks_are_all_past_the_longest_session_is_refused(tmp_path):
    rows = [(1, item, NOW_MS + item, None if item < 3 else True) for item in range(5)]
    log = pl.DataFrame(rows, schema=SOUND.columns, orient="row")
    with pytest.raises(InputError, match="no exposure that is left when sessions are cut is clicked"):
        prepare(RawLog("test", log), tmp_path / "log", Settings(max_session_items=3, max_rejected_fraction=1.0))
    assert not any(tmp_path.iterdir())


def test_columns_that_cannot_be_meant_are_refused_before_anything_is_read(tmp_path):
    odd = {
        "timestamp_ms": pl.lit(True),
        "user_id": pl.concat_list("user_id"),
        "clicked": pl.struct("clicked"),
        "feedback": pl.lit(b"x"),
    }
    for name, column in odd.items():
        for unit in ("ms", "s"):
            raw = RawLog("test", SOUND.with_columns(column.alias(name)), time_unit=unit)
            with pytest.raises(InputError, match=f"column '{name}' has the type"):
                prepare(raw, tmp_path / "log", Settings())
    assert not any(tmp_path.iterdir())
