"""Contract 1, the session log: an exposure table is checked, cut into sessions, and each session gets its role.

An exposure table has one row for each exposure:

    user_id, item_id   integers or strings
    timestamp_ms       UTC
    clicked            null: the row is context, neither a label nor a negative
    click_probability  optional, a number in [0, 1], next to or in the place of `clicked`: graded feedback, a teacher's
                       prediction, or the exact truth. Null: 1 if clicked, else 0
    session_id         optional, unique within a user
    feedback           optional: the kind of context
    left_out           optional: why a source does not count this published row as an exposure
    session/NAME       optional: context of the row's session, such as the device; integers, text or booleans

A row that breaks the contract is never dropped silently: it becomes a rejected row with a reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import UInt64

from sessionrec_jax.data.codes import FEEDBACK
from sessionrec_jax.errors import InputError, near_miss

REQUIRED = ("user_id", "item_id", "timestamp_ms", "clicked")
PROBABILITY = "click_probability"
OF_SESSION = "session/"
"""Prefix of the columns that hold the context of the row's session."""

Schema = Mapping[str, Any]
"""Types of a table's columns: a pl.Schema, whose value type no type checker can read."""

Split = Literal["leave_one_session_out", "temporal", "held_out_users"]
TimeUnit = Literal["s", "ms", "us", "ns"]

DUPLICATE = "exact duplicate"
NULL_ID = "null id"
BAD_ID = "id is neither a 64-bit integer nor text"
NOT_A_TIME = "time is missing or not a number"
ABSURD_TIME = "time before 1990 or after 2100"
NOT_BOOLEAN = "clicked is neither true nor false"
NOT_A_PROBABILITY = f"{PROBABILITY} is not a number from 0 to 1"
NO_CATEGORY = "session context is neither an integer nor text"
UNKNOWN_ITEM = "item absent from the item table"
CONTRADICTION = "duplicate with another label"
LONG_SESSION = "past the session's longest length"
STRADDLES = "session straddles a split date"

BREACHES = (
    NULL_ID, BAD_ID, NOT_A_TIME, ABSURD_TIME, NOT_BOOLEAN, NOT_A_PROBABILITY, NO_CATEGORY, UNKNOWN_ITEM, CONTRADICTION,
    LONG_SESSION, STRADDLES,
)  # fmt: skip
"""Reasons that count as a breach of the contract. An exact duplicate and a row that its source leaves out do not."""

EARLIEST_MS = 631_152_000_000  # 1990-01-01 UTC
LATEST_MS = 4_102_444_800_000  # 2100-01-01 UTC
UNIT_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_ISO = r"^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(:\d\d(?:[.,]\d+)?)?\s?([Zz]|[+-]\d\d(?::?\d\d)?)?)?$"
_FURTHEST_MS = 9e18  # fits an int64
MOST_WHOLE_FLOAT = 2.0**53 - 1  # above it two integers become one float
_UNREADABLE = "\ufffd"  # replaces bytes that are not UTF-8, so that two different ids may look the same
_DEFAULT_CONTEXT = "context"
_CLICKED_FROM = 0.5  # the probability from which an exposure is a click, in a log without a column of clicks
_MOST_CONTEXT_KINDS = 100  # a feedback code is an int8


def type_rows(
    exposures: pl.LazyFrame, item_ids: pl.Series | None, first_row: int = 0, time_unit: TimeUnit = "ms"
) -> pl.LazyFrame:
    """Returns the exposures with strict types, and the reason why a row is rejected on its own account.

    Columns: row (counted from `first_row`), user_id, item_id, timestamp_ms, clicked, feedback (the kind of context;
    null for labelled rows), session_id, click_probability and session/NAME if the log has them, reason (null for a
    sound row). In a log without `clicked` an exposure of a click_probability of at least .5 is clicked, and a row
    without one is context.

    Numbers may come as text, booleans as 0/1 or true/false in any case, times in `time_unit`. Without `item_ids`
    every item seen is in the catalogue. Raises InputError on a missing column and on a column of an impossible type.
    """
    schema = exposures.collect_schema()
    _need_columns(schema.names())
    ids = [name for name in ("user_id", "item_id", "session_id") if name in schema]
    context = context_columns(schema)
    plain = exposures.with_row_index("row", first_row).select(
        "row",
        *(as_id(schema, name) for name in ids if name != "item_id"),
        as_id(schema, "item_id") if item_ids is None else as_id(schema, "item_id").cast(item_ids.dtype),
        _milliseconds(schema, "timestamp_ms", time_unit),
        _clicked(schema).alias("clicked"),
        *([_number(schema, PROBABILITY)] if PROBABILITY in schema else []),
        *(_text(schema, name) for name in ("feedback", "left_out")),
        *(_category(schema, name) for name in context),
        bad_id=pl.any_horizontal(
            as_id(schema, name).is_null() & pl.col(name).is_not_null() & ~_blank(schema, name) for name in ids
        ),
        not_boolean=_is_not_boolean(schema, "clicked"),
        not_probability=_is_not_probability(schema, PROBABILITY),
        no_category=pl.any_horizontal(
            pl.lit(False), *(_category(schema, name).is_null() & ~_missing(schema, name) for name in context)
        ),
    )
    is_known = pl.lit(True) if item_ids is None else pl.col("item_id").is_in(item_ids.implode())
    kind = pl.when(pl.col("clicked").is_null()).then(pl.col("feedback").fill_null(_DEFAULT_CONTEXT))
    reasons = {  # in the order in which they win
        BAD_ID: pl.col("bad_id"),
        NULL_ID: pl.any_horizontal(pl.col(ids).is_null()),
        NOT_A_TIME: pl.col("timestamp_ms").is_null(),
        ABSURD_TIME: ~pl.col("timestamp_ms").is_between(EARLIEST_MS, LATEST_MS),
        NOT_BOOLEAN: pl.col("not_boolean"),
        NOT_A_PROBABILITY: pl.col("not_probability"),
        NO_CATEGORY: pl.col("no_category"),
        UNKNOWN_ITEM: ~is_known,
    }
    reason = pl.coalesce("left_out", *(pl.when(wrong).then(pl.lit(name)) for name, wrong in reasons.items()))
    label = [_label(PROBABILITY)] if PROBABILITY in schema else []
    return plain.with_columns(*label, feedback=kind, reason=reason).drop(
        "bad_id", "not_boolean", "not_probability", "no_category", "left_out"
    )


def context_columns(names: Iterable[str]) -> list[str]:
    """Returns the names of the columns that hold session context."""
    return [name for name in names if name.startswith(OF_SESSION)]


def _need_columns(names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names and not (name == "clicked" and PROBABILITY in names)]
    if missing:
        raise InputError(f"the exposure table lacks the column {missing[0]!r}; {near_miss(missing[0], names)}")


def as_id(schema: Schema, name: str) -> pl.Expr:
    """Returns column `name` as Int64 or String, null where it is neither. Raises InputError on another type."""
    kind = schema[name]
    if kind.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False)
    if kind.is_float():  # pandas stores integers with gaps as floats
        whole = (pl.col(name).abs() <= MOST_WHOLE_FLOAT) & (pl.col(name) == pl.col(name).floor())
        return pl.when(whole).then(pl.col(name)).cast(pl.Int64, strict=False)
    if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = pl.col(name).cast(pl.String)
        return pl.when((text != "") & ~text.str.contains(_UNREADABLE, literal=True)).then(text).alias(name)
    raise InputError(f"column {name!r} has the type {kind}; wanted integers or strings{_flat(schema, kind)}")


def _flat(schema: Schema, kind: Any) -> str:
    """Returns the line that makes one row an exposure of a table whose rows are whole sessions."""
    lists = [name for name, other in schema.items() if isinstance(other, pl.List | pl.Array)]
    if isinstance(kind, pl.List | pl.Array):
        return (
            ", one row for each exposure. If a row is a whole session, flatten it first: pl.read_parquet(FILE)"
            f".explode({lists}).write_parquet('flat.parquet')"
        )
    return ". Take the field that holds the ids first: pl.read_ndjson(FILE).unnest(...)" if kind == pl.Struct else ""


def _category(schema: Schema, name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String) if schema[name] == pl.Boolean else as_id(schema, name)


def _missing(schema: Schema, name: str) -> pl.Expr:
    # pandas writes a missing number as NaN
    value = pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name)
    return value.is_null() | _blank(schema, name)


def _blank(schema: Schema, name: str) -> pl.Expr:
    is_text = schema[name] in (pl.String, pl.Categorical, pl.Enum)
    return pl.col(name).cast(pl.String).str.strip_chars() == "" if is_text else pl.lit(False)


def _milliseconds(schema: Schema, name: str, unit: TimeUnit) -> pl.Expr:
    kind = schema[name]
    if isinstance(kind, pl.Datetime):
        return pl.col(name).dt.epoch("ms")
    if kind == pl.Date:
        return pl.col(name).cast(pl.Datetime("ms")).dt.epoch("ms")
    if kind.is_integer() and unit == "ms":
        return pl.col(name).cast(pl.Int64, strict=False)
    if kind.is_numeric() or kind in (pl.String, pl.Null):
        time = pl.col(name).cast(pl.Float64, strict=False) * UNIT_MS[unit]
        number = pl.when(time.is_finite()).then(time.round().clip(-_FURTHEST_MS, _FURTHEST_MS)).cast(pl.Int64)
        return (pl.coalesce(number, _iso_milliseconds(name)) if kind == pl.String else number).alias(name)
    raise InputError(f"column {name!r} has the type {kind}; wanted numbers, dates, or a datetime, UTC")


def _iso_milliseconds(name: str) -> pl.Expr:
    """Returns the time of text in ISO 8601, such as 2024-05-01, 2024-05-01 10:00 or 2024-05-01T10:00:00.5+02:00."""
    part = pl.col(name).str.strip_chars().str.extract_groups(_ISO)
    date, minutes, seconds, offset = (part.struct.field(str(group)) for group in range(1, 5))
    offset = offset.str.replace("^[Zz]$", "+00:00").str.replace(r"^([+-]\d\d):?(\d\d)?$", "${1}:${2}")
    offset = pl.when(offset.str.ends_with(":")).then(offset + "00").otherwise(offset)
    clock = minutes.fill_null("00:00") + seconds.fill_null(":00").str.replace(",", ".")
    text = date + "T" + clock + offset.fill_null("+00:00")
    return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="ms", time_zone="UTC", strict=False).dt.epoch("ms")


def _text(schema: Schema, name: str) -> pl.Expr:
    kind = schema.get(name, pl.Null())
    if kind.is_nested() or kind == pl.Binary:
        raise InputError(f"column {name!r} has the type {kind}; wanted text that names a kind")
    return (pl.col(name) if name in schema else pl.lit(None)).cast(pl.String).alias(name)


def _clicked(schema: Schema) -> pl.Expr:
    return _boolean(schema, "clicked") if "clicked" in schema else _number(schema, PROBABILITY) >= _CLICKED_FROM


def _is_not_boolean(schema: Schema, name: str) -> pl.Expr:
    if name not in schema:
        return pl.lit(False)
    return _boolean(schema, name).is_null() & pl.col(name).is_not_null() & ~_blank(schema, name)


def _number(schema: Schema, name: str) -> pl.Expr:
    kind = schema[name]
    if kind.is_numeric() or kind in (pl.String, pl.Null):
        return pl.col(name).cast(pl.Float64, strict=False)
    raise InputError(f"column {name!r} has the type {kind}; wanted numbers from 0 to 1")


def _is_not_probability(schema: Schema, name: str) -> pl.Expr:
    if name not in schema:
        return pl.lit(False)
    is_given = pl.col(name).is_not_null() & ~_blank(schema, name)
    return is_given & ~_number(schema, name).is_between(0, 1).fill_null(False)


def _label(name: str) -> pl.Expr:
    """Returns the label of each exposure, and null for context, from plain columns `clicked` and `name`."""
    label = pl.col(name).fill_null(pl.col("clicked").cast(pl.Float64)).cast(pl.Float32)
    return pl.when(pl.col("clicked").is_not_null()).then(label).alias(name)


def _boolean(schema: Schema, name: str) -> pl.Expr:
    kind = schema[name]
    if kind in (pl.Boolean, pl.Null):
        return pl.col(name).cast(pl.Boolean)
    if kind.is_numeric() or kind == pl.String:
        text = pl.col(name).cast(pl.String).str.strip_chars().str.to_lowercase()
        true, false = text.is_in(["1", "1.0", "true"]), text.is_in(["0", "0.0", "false"])
        return pl.when(true).then(True).when(false).then(False)
    raise InputError(f"column {name!r} has the type {kind}; wanted true/false or 0/1, empty for context")


def find_copies(sound: pl.DataFrame) -> pl.DataFrame:
    """Returns (row, reason) of every exposure that repeats another one. `sound` has all rows of its users.

    Rows are copies if user, item, time, session and kind of context are equal. The clicked one stays, else the first.
    """
    key = [name for name in ("user_id", "item_id", "session_id", "timestamp_ms", "feedback") if name in sound.columns]
    hash_N = sound.select(key).hash_rows()  # equal rows have equal hashes: few are suspects
    sorted_N = np.sort(hash_N.to_numpy())
    shared = pl.Series(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    suspects = sound.filter(hash_N.is_in(shared.implode()))
    kept = suspects.sort("row").sort("clicked", descending=True, nulls_last=True, maintain_order=True)
    kept = kept.unique(key, keep="first", maintain_order=True)
    labels = [name for name in ("clicked", PROBABILITY) if name in sound.columns]
    same_label = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"kept_{name}")) for name in labels)
    kept_labels = (pl.col(name).alias(f"kept_{name}") for name in labels)
    return (
        suspects.join(kept, on="row", how="anti")
        .join(kept.select(*key, *kept_labels), on=key, how="left", nulls_equal=True)
        .select("row", reason=pl.when(same_label).then(pl.lit(DUPLICATE)).otherwise(pl.lit(CONTRADICTION)))
    )


# --- sessions ---------------------------------------------------------------------------------------------------------


def cut_sessions(exposures: pl.DataFrame, rule: str) -> pl.DataFrame:
    """Returns `exposures` sorted by user, session start, session, time and row, with a column `session` from 0.

    Needs the columns row, user, timestamp_ms, and session_id if the rule is that. `rule` is "same_timestamp" (one time
    is one request), "gap_minutes=30" (a longer pause opens a new session) or "session_id" (the log's own, unique within
    a user). Raises InputError on any other.
    """
    if rule == "session_id":
        start = pl.col("timestamp_ms").min().over("user", "session_id")
        ordered = (
            exposures.with_columns(start=start).sort("user", "start", "session_id", "timestamp_ms", "row").drop("start")
        )
        opens = _changes("user") | _changes("session_id")
    else:
        user, time, row = (pl.col(name).cast(pl.Int128) for name in ("user", "timestamp_ms", "row"))
        ordered = exposures.sort(user * 2**96 + time * 2**48 + row)  # one number sorts twice as fast as three
        opens = _changes("user") | (pl.col("timestamp_ms").diff() > _longest_pause_ms(rule))
    return ordered.with_columns(session=opens.fill_null(True).cum_sum().cast(pl.Int64) - 1)


def _changes(name: str) -> pl.Expr:
    return pl.col(name) != pl.col(name).shift()


def _longest_pause_ms(rule: str) -> float:
    if rule == "same_timestamp":
        return 0.0
    minutes = re.fullmatch(r"gap_minutes=(\d+(?:\.\d+)?)", rule)
    if minutes is None:
        raise InputError(f"unknown session rule {rule!r}; wanted same_timestamp or gap_minutes=30")
    return float(minutes[1]) * 60_000


# --- roles ------------------------------------------------------------------------------------------------------------


def assign_roles(
    sessions: pl.DataFrame,
    split: Split,
    *,
    validation_from_ms: int = 0,
    test_from_ms: int = 0,
    validation_users: int = 0,
    test_users: int = 0,
) -> pl.Series:
    """Returns the role of each session, see codes.py; null if it straddles a date of the temporal split.

    `sessions` has `user` (index in the stored random order), `start_ms` and `end_ms`, sorted by user and start, so that
    roles never decrease along a history.

    leave_one_session_out (the paper's): a user's last session is for test and the one before for validation, but the
    first session always trains. So two sessions are train and test, and one is train.
    temporal: sessions that end before `validation_from_ms` train, those inside [`validation_from_ms`, `test_from_ms`)
    validate, those that start later test. A session across a date has no role, so that no training session ends after
    a held-out one begins.
    held_out_users: the first `test_users` users test, the next `validation_users` validate, with all their sessions.
    """
    if split == "leave_one_session_out":
        before = pl.int_range(pl.len()).over("user")
        after = pl.len().over("user") - 1 - before
        role = pl.when(before < 1).then(0).when(after == 0).then(2).when(after == 1).then(1).otherwise(0)
    elif split == "temporal":
        role = (
            pl.when(pl.col("end_ms") < validation_from_ms)
            .then(0)
            .when((pl.col("start_ms") >= validation_from_ms) & (pl.col("end_ms") < test_from_ms))
            .then(1)
            .when(pl.col("start_ms") >= test_from_ms)
            .then(2)
        )
    else:
        user = pl.col("user")
        role = pl.when(user < test_users).then(2).when(user < test_users + validation_users).then(1).otherwise(0)
    return sessions.select(role=role.cast(pl.Int8))["role"]


def random_order(user_ids: pl.Series) -> UInt64[np.ndarray, " U"]:
    """Returns a 64-bit hash of each id. Sorted by it, users are in a fixed random order: the first n are a sample.

    The hash depends on the id alone: not on the log, the order of rows or a library's version. It is splitmix64 for
    integers (Steele et al., 2014) and BLAKE2b for strings.
    """
    if user_ids.dtype == pl.String:
        ids = user_ids.to_frame("id")
        texts = ids.unique()
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts["id"])
        hashes = texts.with_columns(hash=np.frombuffer(digests, "<u8"))
        return ids.join(hashes, on="id", how="left", maintain_order="left")["hash"].to_numpy()
    x = user_ids.to_numpy().astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def feedback_names(context_kinds: set[str]) -> list[str]:
    """Returns the names of the feedback codes: ignored, clicked, then the log's kinds of context, sorted."""
    context = sorted(context_kinds)
    clash = sorted(set(FEEDBACK) & context_kinds)
    if clash or len(context) > _MOST_CONTEXT_KINDS:
        raise InputError(
            f"column 'feedback' has {len(context)} kinds of context ({', '.join(context[:5])}, ...); wanted at most "
            f"{_MOST_CONTEXT_KINDS}, none of them called ignored or clicked"
        )
    return [*FEEDBACK, *context]
