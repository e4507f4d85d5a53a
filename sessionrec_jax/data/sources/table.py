"""Any exposure table on disk; its columns are named on the command line.

Columns of csv and tsv are text until all values are known. They become integers if every value is an integer in its
plain form, else numbers if every value is a number, else text. So 007 and 7 stay two ids. This takes one pass over the
file before the preparation, which also finds damage early.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from doors import tables
from sessionrec_jax.data.session_log import EARLIEST_MS, MOST_WHOLE_FLOAT, PROBABILITY, TimeUnit
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

ALL = "all"
_FLAGS = {
    "user_id": "--user", "item_id": "--item", "session_id": "--session", "timestamp_ms": "--time",
    "clicked": "--clicked", PROBABILITY: "--click-probability", "feedback": "--feedback",
}  # fmt: skip
"""The flag that names each column of contract 1."""
"""The value of --clicked for a log of clicks alone."""
_FIRST_ROWS, _FEW_SESSIONS, _MOST = 100_000, 20, 0.5
_ZONE = r"\d:\d\d\S*?\s?([Zz]|[+-]\d\d(:?\d\d)?)\s*$"
_SEPARATORS = ";\t|,"
_CURE = "Is it whole, in UTF-8, and every quote closed?"
_PLAIN = {
    pl.Int64(): r"^(0|-?[1-9]\d*)$",
    pl.Float64(): r"(?i)^(-?(0|[1-9]\d*)(\.\d*)?(e[+-]?\d+)?|-?inf|nan)$",
}
"""Types that text can have, in order of preference, and the pattern of their values."""


@dataclass(frozen=True)
class Options:
    exposures: str
    """File or glob of the exposures, for example 'logs/*.parquet'."""
    user: str = "user_id"
    """Column of user ids. In csv they are numbers if all are written as numbers: 007 and 7 are two users."""
    item: str = "item_id"
    """Column of item ids, in the exposures and in the item table."""
    time: str = "timestamp_ms"
    """Column of times: numbers in --time-unit, dates, datetimes, or text in ISO 8601. UTC where it names no offset."""
    order: Literal["time", "row"] = "time"
    """The order of the exposures of a user.
    time: the column --time
    row: the order of the rows, for a log without times; --session must name a column then"""
    clicked: str | None = "clicked"
    """Column of true/false or 0/1; empty if the row is context, such as a query. None: --click-probability decides.
    all: every exposure is a click, for a log that holds nothing else; train it with --loss.alpha 0."""
    click_probability: str | None = None
    """Column of numbers from 0 to 1 that a run may take as the labels of its rank loss (--loss.rank-labels
    probability). With --clicked None an exposure of at least .5 is clicked, and a row without one is context."""
    session: str | None = None
    """Column of session ids, unique within a user. Left out: sessions are cut by --session-rule."""
    feedback: str | None = None
    """Column that names the kind of context of rows without a label."""
    session_context: tuple[str, ...] = ()
    """Columns with the context of a session, such as the device: integers, text or booleans. A session has the value
    of its first row that has one."""
    items: str | None = None
    """File or glob of the item table. Left out: the catalogue is the items seen, without side information."""
    side: tuple[str, ...] = ()
    """Columns of the item table to use. Left out: all."""
    time_unit: TimeUnit = "ms"
    """Unit of numbers in the time column."""


def read(options: Options) -> RawLog:
    """Reads both tables under the names of contract 1. Raises InputError on unreadable files and missing columns."""
    ids = {"user_id": options.user, "item_id": options.item}
    if options.session is not None:
        ids["session_id"] = options.session
    columns = ids | ({"timestamp_ms": options.time} if options.order == "time" else {})
    _refuse_one_column_twice(options)
    _refuse_unordered(options)
    if options.clicked not in (None, ALL):
        columns["clicked"] = options.clicked
    if options.click_probability is not None:
        columns[PROBABILITY] = options.click_probability
    if options.feedback is not None:
        columns["feedback"] = options.feedback
    context = options.session_context
    flags = {given: _FLAGS[name] for name, given in columns.items()} | dict.fromkeys(context, "--session-context")
    exposures = scan(options.exposures, [*flags], inferred=[*ids.values(), *context], flags=flags)
    note = " ".join(_notes(options, exposures))
    exposures = exposures.select(
        *(pl.col(given).alias(name) for name, given in columns.items()),
        *session_context(dict.fromkeys(context)),
        *([pl.lit(value=True).alias("clicked")] if options.clicked == ALL else []),
        *([(pl.int_range(pl.len()) + EARLIEST_MS).alias("timestamp_ms")] if options.order == "row" else []),
    )
    items = None
    if options.items is not None:
        item, side = options.item, options.side
        flags = dict.fromkeys(side, "--side") | {item: "--item"}
        items = collected(scan(options.items, [item, *side] if side else [], flags=flags), NAME)
        if item not in items.columns:
            raise InputError(_absent(options.items, item, items.columns, flags))
        if item != "item_id" and "item_id" in items.columns:
            raise InputError(
                f"{options.items} has a column 'item_id' next to {item!r}, which holds the ids; name the columns to "
                "use with --side, and leave 'item_id' out, or rename it"
            )
        items = items.rename({item: "item_id"})
    unit = "ms" if options.order == "row" else options.time_unit
    return RawLog(source=NAME, exposures=exposures, items=items, time_unit=unit, note=note)


def _notes(options: Options, exposures: pl.LazyFrame) -> Iterator[str]:
    """Says how the log was read where that is not plain."""
    if options.order == "row":
        yield "The log has no times: exposures are in the order of its rows, and times between sessions mean nothing."
    elif _names_no_zone(exposures, options.time):
        yield "Times that name no zone are read as UTC."
    if options.session is not None and _looks_swapped(exposures, options.user, options.item, options.session):
        yield f"Each session has one {options.item!r} and several {options.user!r}: are --user and --item swapped?"
    if options.clicked == ALL:
        yield "Every exposure is a click, and nothing was ignored: train with --loss.alpha 0, without a rank loss."


def _looks_swapped(exposures: pl.LazyFrame, user: str, item: str, session: str) -> bool:
    """Returns whether, in the first rows, no session has two items and most have several users.

    Session ids that start again for each user have several users too, but then they have several items.
    """
    named = (pl.col(given).alias(name) for name, given in (("user", user), ("item", item), ("session", session)))
    rows = collected(exposures.select(*named).head(_FIRST_ROWS), NAME).drop_nulls()
    each = rows.group_by("session").agg(pl.len().alias("rows"), pl.col("user", "item").n_unique())
    each = each.filter(pl.col("rows") > 1)
    return len(each) >= _FEW_SESSIONS and each["item"].max() == 1 and int((each["user"] > 1).sum()) > _MOST * len(each)


def _names_no_zone(exposures: pl.LazyFrame, time: str) -> bool:
    """Returns True for dates and datetimes without a zone; text is judged by its first value."""
    kind = exposures.collect_schema()[time]
    if kind == pl.String:
        first = exposures.select(pl.col(time).drop_nulls().first()).collect().item()
        return first is not None and re.search(r"\d[-:]\d", first) is not None and not re.search(_ZONE, first)
    return kind == pl.Date or getattr(kind, "time_zone", "UTC") is None


def _refuse_unordered(options: Options) -> None:
    if options.order == "row" and options.session is None:
        raise InputError("--order row has no times that could cut sessions; name the column of sessions with --session")


def _refuse_one_column_twice(options: Options) -> None:
    """Two flags that name one column are a slip: no column is both a user and an item, or an id and a time."""
    names = ("user", "item", "clicked", *(["time"] if options.order == "time" else []))
    flags = {name: getattr(options, name) for name in names}
    by_column: dict[str, list[str]] = {}
    for flag, column in flags.items():
        if column is not None:
            by_column.setdefault(column, []).append(f"--{flag}")
    for column, named in by_column.items():
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} name the same column {column!r}; each needs a column of its own")


def scan(
    pattern: str, columns: Sequence[str], inferred: Sequence[str] = (), flags: Mapping[str, str] | None = None
) -> pl.LazyFrame:
    """Scans `columns` (empty: all) of all files that match.

    In csv files the columns `inferred` (empty: all) get the type of their values, and the others are text. A column
    that is text in one file is text in all. `flags` has the flag that names a column, for the message that it is
    missing.
    """
    paths = tables.matching(pattern)
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
            raise InputError(_absent(pattern, name, names, flags or {}))
    columns = list(dict.fromkeys(columns)) or names
    types = [_types(path, frame, inferred or columns) for path, frame in zip(paths, frames, strict=True)]
    text = {name: kind for file_types in types for name, kind in file_types.items() if kind == pl.String}
    typed = [frame.cast({**file_types, **text}, strict=False) for frame, file_types in zip(frames, types, strict=True)]
    whole = pl.concat([frame.select(columns) for frame in typed], how="vertical_relaxed")
    with readable(f"{pattern}: the files have columns of different types", "Write them alike"):
        whole.collect_schema()
    return whole


def _absent(pattern: str, name: str, names: Sequence[str], flags: Mapping[str, str]) -> str:
    """Returns the message that a column is not in a table."""
    flag = f" ({flags[name]})" if name in flags else ""
    cure = f" (or --clicked {ALL}, if every row is a click)" if flags.get(name) == "--clicked" else ""
    return f"{pattern} has no column {name!r}{flag}; {_other_separator(names) or near_miss(name, names) + cure}"


def _other_separator(names: Sequence[str]) -> str | None:
    """Returns a hint if the whole header was read as one column."""
    found = [mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]]
    if not found:
        return None
    kind, wanted = ("tsv", "tabs") if found[0] == "\t" else ("csv", "commas")
    cure = "name the file .tsv" if kind == "tsv" else "name it .csv" if found[0] == "," else "write it with commas"
    return f"its header is one column, {names[0]!r}: the columns are separated by {found[0]!r}, not by {wanted}; {cure}"


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def _scan_file(path: Path) -> pl.LazyFrame:
    """Scans a file with a known schema, which takes a pass over ndjson. All columns of csv are text."""
    kind = _kind(path)
    try:
        with readable(f"{path} cannot be read as {kind}", _CURE):
            if kind in ("csv", "tsv"):
                frame = tables.scan_csv(path, separator="\t" if kind == "tsv" else ",", infer_schema=False)
            elif kind == "parquet":
                frame = tables.scan_parquet(path)
            elif kind in ("feather", "arrow"):
                frame = tables.scan_ipc(path)
            elif kind in ("ndjson", "jsonl"):
                schema = tables.scan_ndjson(path, infer_schema_length=None).collect_schema()
                frame = tables.scan_ndjson(path, schema=schema)
            else:
                raise InputError(f"{path}: unknown kind of file {kind!r}; wanted {_KINDS}")
            frame.collect_schema()
            return frame
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty: it has not even a header") from error


def _types(path: Path, frame: pl.LazyFrame, inferred: Sequence[str]) -> Types:
    """Returns the types of the columns; in a text file they follow from all values of the columns `inferred`."""
    if _kind(path) not in ("csv", "tsv"):
        return dict(frame.collect_schema())
    fits = [
        _is_written_as(name, kind).alias(f"{number} {kind}") for number, name in enumerate(inferred) for kind in _PLAIN
    ]
    every_column = pl.sum_horizontal(pl.all().null_count()).alias("nulls")  # else polars misses extra fields
    with readable(f"{path} cannot be read as {_kind(path)}", _CURE):
        found = frame.select(*fits, every_column).collect(engine="streaming").row(0, named=True)
    types: Types = dict.fromkeys(frame.collect_schema(), pl.String())
    for number, name in enumerate(inferred):
        types[name] = next((kind for kind in _PLAIN if found[f"{number} {kind}"]), pl.String())
    return types


def _is_written_as(name: str, kind: Any) -> pl.Expr:
    """Tests that all values of a text column are written as `kind`, and keep their value as `kind`."""
    text, value = pl.col(name), pl.col(name).cast(kind, strict=False)
    fits = text.str.contains(_PLAIN[kind]) & value.is_not_null()
    if kind.is_float():
        fits &= (value.abs() <= MOST_WHOLE_FLOAT) | ~value.is_finite()
    return (fits | (text == "")).all()
