"""Any exposure table on disk: columns are named on the command line."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import IF_THERE, File
from sessionrec_jax.errors import InputError, near_miss

NAME = "table"
TITLE = "Any table of exposures"
LICENCE = "yours"
_KINDS = "csv, csv.gz, tsv, tsv.gz, parquet, ndjson, jsonl, feather or arrow"
SIZE = "what fits into memory"
WHERE = "your own; columns are named on the command line"
CITATION = ""
FILES = (
    File("--exposures", f"a file or a glob: {_KINDS}"),
    File("--items", "the same, with side information", IF_THERE),
)

_FACTOR_MS = {"s": 1e3, "us": 1e-3}


@dataclass(frozen=True)
class Options:
    exposures: str
    """File or glob of the exposures, for example 'logs/*.parquet'."""
    user: str = "user_id"
    """Column of user ids."""
    item: str = "item_id"
    """Column of item ids, in the exposures and in the item table."""
    time: str = "timestamp_ms"
    """Column of times, UTC: numbers in --time-unit, or datetimes."""
    clicked: str = "clicked"
    """Column of true/false or 0/1; empty where the row is context, such as a query."""
    session: str | None = None
    """Column of session ids, unique within a user. Left out: sessions are cut by --session-rule."""
    feedback: str | None = None
    """Column that names the kind of context where there is no label."""
    items: str | None = None
    """File or glob of the item table. Left out: the catalogue is the items seen, without side information."""
    side: tuple[str, ...] = ()
    """Columns of the item table to use. Left out: all."""
    time_unit: Literal["s", "ms", "us"] = "ms"
    """Unit of numbers in the time column."""


def read(options: Options) -> RawLog:
    """Both tables under the names of contract 1. Raises InputError on files or columns that are not there."""
    exposures = read_files(options.exposures)
    columns = {
        "user_id": options.user,
        "item_id": options.item,
        "timestamp_ms": options.time,
        "clicked": options.clicked,
        "session_id": options.session,
        "feedback": options.feedback,
    }
    exposures = exposures.select(
        _column(exposures, given, options.exposures).alias(name) for name, given in columns.items() if given is not None
    )
    if options.time_unit != "ms":
        exposures = _to_ms(exposures, _FACTOR_MS[options.time_unit])
    items = None
    if options.items is not None:
        items = read_files(options.items)
        side = options.side or [name for name in items.columns if name != options.item]
        items = items.select(
            _column(items, options.item, options.items).alias("item_id"),
            *(_column(items, name, options.items) for name in side),
        )
    return RawLog(source=NAME, exposures=exposures, items=items)


def read_files(pattern: str) -> pl.DataFrame:
    """All files that match, one under the other. Text stands where a column holds anything but numbers."""
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not paths:
        raise InputError(f"no file matches {pattern!r} (from the folder {Path.cwd()})")
    frames = [_read_file(Path(path)) for path in paths]
    columns = set(frames[0].columns)
    for path, frame in zip(paths, frames, strict=True):
        if set(frame.columns) != columns:
            other = ", ".join(sorted(columns.symmetric_difference(frame.columns)))
            raise InputError(f"{path} and {paths[0]} do not have the same columns (only in one of them: {other})")
    return pl.concat(_one_type(frames), how="diagonal_relaxed")


def _read_file(path: Path) -> pl.DataFrame:
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    try:
        if kind in ("csv", "tsv"):
            return pl.read_csv(path, separator="\t" if kind == "tsv" else ",", infer_schema_length=None)
        if kind == "parquet":
            return pl.read_parquet(path)
        if kind in ("ndjson", "jsonl"):
            return pl.read_ndjson(path, infer_schema_length=None)
        if kind in ("feather", "arrow"):
            return pl.read_ipc(path)
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty: it has not even a header") from error
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as {kind}: {str(error).splitlines()[0]}") from error
    raise InputError(f"{path}: unknown kind of file {kind!r}; wanted {_KINDS}")


def _one_type(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Columns that hold text in one file and numbers in another become text in all."""
    text = {name for frame in frames for name, kind in frame.schema.items() if kind == pl.String}
    return [frame.with_columns(pl.col(text & set(frame.columns)).cast(pl.String)) for frame in frames]


def _column(table: pl.DataFrame, name: str, where: str) -> pl.Expr:
    if name not in table.columns:
        raise InputError(f"{where} has no column {name!r}; {near_miss(name, table.columns)}")
    return pl.col(name)


def _to_ms(exposures: pl.DataFrame, factor: float) -> pl.DataFrame:
    if isinstance(exposures.schema["timestamp_ms"], pl.Datetime):
        return exposures
    number = pl.col("timestamp_ms").cast(pl.Float64, strict=False) * factor
    return exposures.with_columns(number.round().cast(pl.Int64, strict=False))
