"""Tests sources: any table in any file format, the known truth, and messages about files that do not fit."""

from __future__ import annotations

import dataclasses
import gzip

import polars as pl
import pytest
from contract import check, names_of

from sessionrec_jax.data import session_log
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import files, synthetic, table
from sessionrec_jax.errors import InputError
from sessionrec_jax.registry import SOURCES

NOW_MS = 1_650_000_000_000
EXPOSURES = pl.DataFrame(
    {
        "user_id": [1, 1, 2, 2],
        "item_id": [7, 8, 7, 9],
        "timestamp_ms": [NOW_MS, NOW_MS + 1, NOW_MS, NOW_MS + 2],
        "clicked": [True, False, None, True],
    }
)


def write(frame: pl.DataFrame, path, kind: str):
    text = {"csv": frame.write_csv(), "tsv": frame.write_csv(separator="\t")}
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(text[kind.removesuffix(".gz")].encode()))
    elif kind in text:
        path.write_text(text[kind])
    else:
        writers = {"parquet": frame.write_parquet, "feather": frame.write_ipc, "ndjson": frame.write_ndjson}
        writers[kind](path)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "feather", "ndjson"])
def test_every_format_gives_the_same_exposures(tmp_path, kind):
    path = write(EXPOSURES, tmp_path / f"log.{kind}", kind)
    raw = table.read(table.Options(exposures=str(path)))
    checked = check(raw.exposures, None)
    assert checked.reasons.is_empty()
    assert checked.exposures.select(EXPOSURES.columns).equals(EXPOSURES)


def test_a_glob_reads_all_files_and_columns_by_their_own_names(tmp_path):
    published = EXPOSURES.rename({"user_id": "u", "item_id": "i", "timestamp_ms": "t", "clicked": "c"})
    published = published.with_columns(pl.col("t") // 1000)
    for part in range(2):
        write(published[2 * part : 2 * part + 2], tmp_path / f"part{part}.csv", "csv")
    options = table.Options(f"{tmp_path}/*.csv", user="u", item="i", time="t", clicked="c", session="t", time_unit="s")
    raw = table.read(options)
    typed = session_log.type_rows(raw.exposures, None, time_unit=raw.time_unit).collect()
    assert typed["user_id"].to_list() == [1, 1, 2, 2]
    assert typed["timestamp_ms"].unique().to_list() == [NOW_MS]
    assert typed["session_id"].unique().to_list() == [NOW_MS // 1000]


def test_an_item_table_keeps_the_named_columns(tmp_path):
    items = pl.DataFrame({"item_id": [7, 8, 9], "category": ["a", None, "b"], "price": [0.5, 1.0, 2.0]})
    files = write(EXPOSURES, tmp_path / "log.csv", "csv"), write(items, tmp_path / "items.csv", "csv")
    raw = table.read(table.Options(str(files[0]), items=str(files[1]), side=("category",)))
    assert raw.items.equals(items.drop("price"))
    with pytest.raises(InputError, match=r"no column 'categry' \(--side\); did you mean 'category'"):
        table.read(table.Options(str(files[0]), items=str(files[1]), side=("categry",)))


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        table.read(table.Options(str(tmp_path / "nothing*.csv")))
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(InputError, match="unknown kind of file 'xlsx'"):
        table.read(table.Options(str(tmp_path / "log.xlsx")))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match="empty: it has not even a header"):
        table.read(table.Options(str(tmp_path / "empty.csv")))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        table.read(table.Options(str(tmp_path / "broken.parquet")))
    path = write(EXPOSURES, tmp_path / "log.csv", "csv")
    with pytest.raises(InputError, match=r"no column 'users' \(--user\); did you mean 'user_id'"):
        table.read(table.Options(str(path), user="users"))
    write(EXPOSURES.drop("clicked"), tmp_path / "log2.csv", "csv")
    with pytest.raises(InputError, match=r"do not have the same columns .*clicked"):
        table.read(table.Options(str(tmp_path / "log*.csv")))


def test_text_in_one_of_several_files_makes_the_column_text(tmp_path):
    write(EXPOSURES, tmp_path / "a.csv", "csv")
    write(EXPOSURES[:1].with_columns(timestamp_ms=pl.lit("noon")), tmp_path / "b.csv", "csv")
    checked = check(table.read(table.Options(f"{tmp_path}/*.csv")).exposures, None)
    assert checked.exposures.select(EXPOSURES.columns).equals(EXPOSURES)
    assert checked.reasons["reason"].to_list() == [session_log.NOT_A_TIME]


# --- the process with a known truth ----------------------------------------------------------------------------------


def test_synthetic_is_a_sound_log_with_its_truth():
    raw = synthetic.read(synthetic.Options(users=40, base=4, depth=2, seed=3))
    checked = check(raw.exposures, raw.items["item_id"])
    assert checked.reasons.is_empty()
    assert names_of(checked) == [
        "ignored",
        "clicked",
        "anchor",
    ]
    assert synthetic.Options(**raw.truth) == synthetic.Options(users=40, base=4, depth=2, seed=3)


def test_sources_are_found_by_name():
    for name in ("kuaisar", "recflow", "kuairand", "ebnerd", "mind", "movielens", "table", "synthetic"):
        assert name == SOURCES.find(name).NAME
    with pytest.raises(InputError, match="unknown source 'kuairnd'; did you mean 'kuairand'"):
        SOURCES.find("kuairnd")


# --- what all published sources share --------------------------------------------------------------------------------


def test_rows_left_out_by_declaration_are_reported_and_do_not_count(tmp_path):
    raw = synthetic.read(synthetic.Options(users=40, base=4, depth=2, seed=3))
    whole = prepare(raw, tmp_path / "whole", Settings())
    others = raw.exposures.with_columns(
        left_out=pl.lit("of no interest"), item_id=pl.lit(-1, raw.items["item_id"].dtype)
    )
    both = dataclasses.replace(raw, exposures=pl.concat([raw.exposures, others], how="diagonal"))
    log = prepare(both, tmp_path / "log", Settings())
    assert log.manifest["rejected"] == {"of no interest": len(others)}
    assert log.fingerprint == whole.fingerprint


TYPES = {"user_id": pl.Int64, "clicked": pl.String}


def test_a_value_of_another_type_is_null_and_a_stray_quote_spoils_its_own_row_alone(tmp_path):
    rows = ["1,1", "x,1", '"2,0', "3"]
    path = tmp_path / "log.csv"
    path.write_text("user_id,clicked\n" + "\n".join(rows))
    table = files.collected(files.scan_csv([path], TYPES), "test")
    assert table.rows() == [(1, "1"), (None, "1"), (None, "0"), (3, None)]
    assert table.select(files.label("clicked")).to_series().to_list() == ["1", "1", "0", "missing"]


def test_a_quote_that_is_never_closed_does_not_swallow_rows(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,clicked\n" + '1,"1"\n' * 500 + '2,"1\n' + '1,"1"\n' * 500)
    with pytest.raises(InputError, match="cannot be read to the end"):
        files.collected(files.scan_csv([path], TYPES, quoted=True), "test")
    path.write_text("user_id,clicked\n" + "1,1\n" * 500 + '"2,1\n' + "1,1\n" * 500)
    with pytest.raises(InputError, match="is a quote never closed"):
        files.collected(files.scan_csv([path], TYPES, quoted=True), "test")
