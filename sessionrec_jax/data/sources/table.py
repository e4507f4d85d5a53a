"""Any exposure table on disk: columns are named on the command line.

What csv and tsv hold is text until all of a column is known: integers where every value is one in its plain form, else
numbers where every value is one, else text, so that 007 and 7 stay two ids. For this a file is read once beforehand,
and what is wrong with it is told before anything is prepared.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sessionrec_jax.data.session_log import MOST_WHOLE_FLOAT, TimeUnit
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import IF_THERE, File, Types, collected, readable, session_context
from sessionrec_jax.errors import InputError, near_miss

NAME = "table"
TITLE = "Any table of exposures"
LICENCE = "yours"
_KINDS = "csv, csv.gz, tsv, tsv.gz, parquet, ndjson, jsonl, feather or arrow"
SIZE = "any; the item table alone is held in memory"
WHERE = "your own; columns are named on the command line"
CITATION = ""
FILES = (
    File("--exposures", f"a file or a glob: {_KINDS}"),
    File("--items", "the same, with side information", IF_THERE),
)

_CURE = "Is it whole, in UTF-8, and every quote closed?"
_PLAIN = {
    pl.Int64(): r"^(0|-?[1-9]\d*)$",
    pl.Float64(): r"(?i)^(-?(0|[1-9]\d*)(\.\d*)?(e[+-]?\d+)?|-?inf|nan)$",
}
"""Types that text can have, in order of preference, and how their values are written."""


@dataclass(frozen=True)
class Options:
    exposures: str
    """File or glob of the exposures, for example 'logs/*.parquet'."""
    user: str = "user_id"
    """Column of user ids. In csv they are numbers where all are written as such: 007 and 7 are two users."""
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
    session_context: tuple[str, ...] = ()
    """Columns that tell in what context a session was, such as the device: integers, text or booleans. A session has
    the value of its first row that has one."""
    items: str | None = None
    """File or glob of the item table. Left out: the catalogue is the items seen, without side information."""
    side: tuple[str, ...] = ()
    """Columns of the item table to use. Left out: all."""
    time_unit: TimeUnit = "ms"
    """Unit of numbers in the time column."""


def read(options: Options) -> RawLog:
    """Both tables under the names of contract 1. Raises InputError on files that cannot be read and on columns that are
    not there."""
    ids = {"user_id": options.user, "item_id": options.item}
    if options.session is not None:
        ids["session_id"] = options.session
    columns = ids | {"timestamp_ms": options.time, "clicked": options.clicked}
    if options.feedback is not None:
        columns["feedback"] = options.feedback
    context = options.session_context
    exposures = scan(options.exposures, [*columns.values(), *context], inferred=[*ids.values(), *context])
    exposures = exposures.select(
        *(pl.col(given).alias(name) for name, given in columns.items()), *session_context(dict.fromkeys(context))
    )
    items = None
    if options.items is not None:
        item, side = options.item, options.side
        items = collected(scan(options.items, [item, *side] if side else []), NAME)
        if item not in items.columns:
            raise InputError(f"{options.items} has no column {item!r}; {near_miss(item, items.columns)}")
        items = items.rename({item: "item_id"})
    return RawLog(source=NAME, exposures=exposures, items=items, time_unit=options.time_unit)


def scan(pattern: str, columns: Sequence[str], inferred: Sequence[str] = ()) -> pl.LazyFrame:
    """`columns` of all files that match, one under the other; none named: all. In csv files those `inferred` (none
    named: all) have the type of their values, and the others are text; where one file has text, all have."""
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - takes absolute ones
    if not paths:
        raise InputError(f"no file matches {pattern!r} (from the folder {Path.cwd()})")
    frames = [_scan_file(path) for path in paths]
    names = frames[0].collect_schema().names()
    for path, frame in zip(paths, frames, strict=True):
        if other := set(names).symmetric_difference(frame.collect_schema()):
            only = ", ".join(sorted(other))
            raise InputError(f"{path} and {paths[0]} do not have the same columns (only in one of them: {only})")
    for name in columns:
        if name not in names:
            raise InputError(f"{pattern} has no column {name!r}; {near_miss(name, names)}")
    columns = list(dict.fromkeys(columns)) or names
    types = [_types(path, frame, inferred or columns) for path, frame in zip(paths, frames, strict=True)]
    text = {name: kind for of_file in types for name, kind in of_file.items() if kind == pl.String}
    typed = [frame.cast({**of_file, **text}, strict=False) for frame, of_file in zip(frames, types, strict=True)]
    whole = pl.concat([frame.select(columns) for frame in typed], how="vertical_relaxed")
    with readable(f"{pattern}: the files have columns of different types", "Write them alike"):
        whole.collect_schema()
    return whole


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def _scan_file(path: Path) -> pl.LazyFrame:
    """With a known schema, which takes a pass over ndjson. Csv is text."""
    kind = _kind(path)
    try:
        with readable(f"{path} cannot be read as {kind}", _CURE):
            if kind in ("csv", "tsv"):
                frame = pl.scan_csv(path, separator="\t" if kind == "tsv" else ",", infer_schema=False)
            elif kind == "parquet":
                frame = pl.scan_parquet(path)
            elif kind in ("feather", "arrow"):
                frame = pl.scan_ipc(path)
            elif kind in ("ndjson", "jsonl"):
                schema = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
                frame = pl.scan_ndjson(path, schema=schema)
            else:
                raise InputError(f"{path}: unknown kind of file {kind!r}; wanted {_KINDS}")
            frame.collect_schema()
            return frame
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty: it has not even a header") from error


def _types(path: Path, frame: pl.LazyFrame, inferred: Sequence[str]) -> Types:
    """Of the columns, from all their values where the file is text."""
    if _kind(path) not in ("csv", "tsv"):
        return dict(frame.collect_schema())
    fits = [
        _is_written_as(name, kind).alias(f"{number} {kind}") for number, name in enumerate(inferred) for kind in _PLAIN
    ]
    every_column = pl.sum_horizontal(pl.all().null_count()).alias("nulls")  # else polars passes over fields too many
    with readable(f"{path} cannot be read as {_kind(path)}", _CURE):
        found = frame.select(*fits, every_column).collect(engine="streaming").row(0, named=True)
    types: Types = dict.fromkeys(frame.collect_schema(), pl.String())
    for number, name in enumerate(inferred):
        types[name] = next((kind for kind in _PLAIN if found[f"{number} {kind}"]), pl.String())
    return types


def _is_written_as(name: str, kind: Any) -> pl.Expr:
    """Whether all values of a column of text are, and stay what they are as such."""
    text, value = pl.col(name), pl.col(name).cast(kind, strict=False)
    fits = text.str.contains(_PLAIN[kind]) & value.is_not_null()
    if kind.is_float():
        fits &= (value.abs() <= MOST_WHOLE_FLOAT) | ~value.is_finite()
    return (fits | (text == "")).all()
