"""Contract 1, the session log: checking an exposure table, cutting it into sessions, giving each session its role.

An exposure table has one row an exposure: `user_id` and `item_id` (integers or strings), `timestamp_ms` (UTC),
`clicked` (null: the row is context, neither label nor negative), optional `session_id` (unique within a user),
`feedback` (names the kind of context) and `left_out` (why a source takes a published row for no exposure). A breach
is never dropped silently: it becomes a rejected row with a reason.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import UInt64

from sessionrec_jax.errors import InputError, near_miss

REQUIRED = ("user_id", "item_id", "timestamp_ms", "clicked")
OPTIONAL = ("session_id", "feedback", "left_out")
ROLES = ("train", "validation", "test")

Split = Literal["leave_one_session_out", "temporal", "held_out_users"]

DUPLICATE = "exact duplicate"
NULL_ID = "null id"
BAD_ID = "id is neither a 64-bit integer nor text"
NOT_A_TIME = "time is missing or not a number"
ABSURD_TIME = "time before 1990 or after 2100"
NOT_BOOLEAN = "clicked is neither true nor false"
UNKNOWN_ITEM = "item absent from the item table"
CONTRADICTION = "duplicate with another label"
LONG_SESSION = "past the session's longest length"
STRADDLES = "session straddles a split date"

EARLIEST_MS = 631_152_000_000  # 1990-01-01 UTC
LATEST_MS = 4_102_444_800_000  # 2100-01-01 UTC
_UNIT_MS = {"s": 1e3, "us": 1e-3, "ns": 1e-6}
_DEFAULT_CONTEXT = "context"
_MOST_CONTEXT_KINDS = 100  # a feedback code is an int8


@dataclass(frozen=True)
class Checked:
    """A log without breaches, and the breaches."""

    exposures: pl.DataFrame
    """Strictly typed: row (of the given table), user_id, item_id, timestamp_ms, clicked, feedback (context's kind; null
    where labelled), and session_id where the log has it."""
    reasons: pl.DataFrame
    """row, reason: why a row of the given table is not among the exposures."""


def check(exposures: pl.DataFrame, item_ids: pl.Series | None) -> Checked:
    """Types the columns and takes out the rows that break contract 1.

    Numbers may come as text, booleans as 0/1 or true/false in any case. Ids are integers on both sides or strings on
    both sides: where one table has text, both are compared as text. Of rows with the same user, item, time and session
    the clicked one stays, else the first. `item_ids` None: every item seen is in the catalogue.

    Raises InputError on an empty log, a missing column, a column of a type that cannot be meant, times that are in
    another unit, and a log without a click.
    """
    _need_columns(exposures)
    if exposures.is_empty():
        raise InputError("the log is empty: it has columns and no row. Check the path and the filters before it")
    exposures = exposures.select(name for name in (*REQUIRED, *OPTIONAL) if name in exposures.columns)
    ids = [name for name in ("user_id", "item_id", "session_id") if name in exposures.columns]
    typed = exposures.with_row_index("row").select(
        "row",
        *(as_id(exposures, name) for name in ids),
        _number(exposures, "timestamp_ms").alias("timestamp_ms"),
        _boolean(exposures).alias("clicked"),
        *(
            (pl.col(name) if name in exposures.columns else pl.lit(None)).cast(pl.String).alias(name)
            for name in ("feedback", "left_out")
        ),
        bad_id=pl.any_horizontal(
            as_id(exposures, name).is_null() & pl.col(name).is_not_null() & ~_blank(exposures, name) for name in ids
        ),
        not_boolean=_boolean(exposures).is_null() & pl.col("clicked").is_not_null() & ~_blank(exposures, "clicked"),
    )
    _refuse_other_unit(typed["timestamp_ms"])
    typed = typed.with_columns(
        feedback=pl.when(pl.col("clicked").is_null()).then(pl.col("feedback").fill_null(_DEFAULT_CONTEXT))
    )
    reasons = typed.select(
        "row",
        reason=pl.when(pl.col("left_out").is_not_null())
        .then("left_out")
        .when("bad_id")
        .then(pl.lit(BAD_ID))
        .when(pl.any_horizontal(pl.col(ids).is_null()))
        .then(pl.lit(NULL_ID))
        .when(pl.col("timestamp_ms").is_null())
        .then(pl.lit(NOT_A_TIME))
        .when(~pl.col("timestamp_ms").is_between(EARLIEST_MS, LATEST_MS))
        .then(pl.lit(ABSURD_TIME))
        .when(pl.col("not_boolean"))
        .then(pl.lit(NOT_BOOLEAN))
        .when(~_known_item(typed["item_id"], item_ids))
        .then(pl.lit(UNKNOWN_ITEM)),
    )
    sound = typed.filter(reasons["reason"].is_null()).drop("bad_id", "not_boolean", "left_out")
    copies = _copies(sound, [*ids, "timestamp_ms", "feedback"])
    reasons = pl.concat([reasons.drop_nulls("reason"), copies])
    sound = sound.join(copies, on="row", how="anti", maintain_order="left")
    if not sound["clicked"].any() and not sound.is_empty():
        raise InputError(
            f"no exposure of the log is clicked ({len(sound):,} exposures, {sound['clicked'].null_count():,} of them "
            "context), so there is nothing to predict. Check which column holds the clicks"
        )
    return Checked(sound, reasons)


def _need_columns(exposures: pl.DataFrame) -> None:
    missing = [name for name in REQUIRED if name not in exposures.columns]
    if missing:
        raise InputError(
            f"the exposure table lacks the column {missing[0]!r}; {near_miss(missing[0], exposures.columns)}"
        )


def as_id(table: pl.DataFrame, name: str) -> pl.Expr:
    """Column `name` as Int64 or String; null where it is neither. Raises InputError on a type that holds no ids."""
    kind = table.schema[name]
    if kind.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False)
    if kind.is_float():  # how integers with gaps come out of pandas
        whole = pl.col(name).is_finite() & (pl.col(name) == pl.col(name).floor())
        return pl.when(whole).then(pl.col(name)).cast(pl.Int64, strict=False)
    if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = pl.col(name).cast(pl.String)
        return pl.when(text != "").then(text).alias(name)
    raise InputError(f"column {name!r} has the type {kind}; wanted integers or strings")


def _blank(table: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars() == "" if table.schema[name] == pl.String else pl.lit(False)


def _number(table: pl.DataFrame, name: str) -> pl.Expr:
    kind = table.schema[name]
    if isinstance(kind, pl.Datetime):
        return pl.col(name).dt.epoch("ms")
    if kind.is_numeric() or kind in (pl.String, pl.Null):
        return pl.col(name).cast(pl.Float64 if kind == pl.String else kind, strict=False).cast(pl.Int64, strict=False)
    raise InputError(f"column {name!r} has the type {kind}; wanted integers (milliseconds, UTC) or a datetime")


def _boolean(table: pl.DataFrame) -> pl.Expr:
    kind = table.schema["clicked"]
    if kind in (pl.Boolean, pl.Null):
        return pl.col("clicked").cast(pl.Boolean)
    if kind.is_numeric() or kind == pl.String:
        text = pl.col("clicked").cast(pl.String).str.strip_chars().str.to_lowercase()
        true, false = text.is_in(["1", "1.0", "true"]), text.is_in(["0", "0.0", "false"])
        return pl.when(true).then(True).when(false).then(False)
    raise InputError(f"column 'clicked' has the type {kind}; wanted true/false or 0/1, empty for context")


def _refuse_other_unit(timestamp_ms: pl.Series) -> None:
    median = timestamp_ms.median()
    if median is None or EARLIEST_MS <= median <= LATEST_MS:
        return
    for unit, factor in _UNIT_MS.items():
        if EARLIEST_MS <= median * factor <= LATEST_MS:
            date = datetime.datetime.fromtimestamp(median * factor / 1e3, datetime.UTC).date()
            raise InputError(
                f"the times do not look like milliseconds: the median is {median:.0f}, which is {date} when read as "
                f"{unit}. Give the unit (--time-unit {unit})"
            )


def _known_item(item_id: pl.Series, item_ids: pl.Series | None) -> pl.Series:
    if item_ids is None:
        return pl.repeat(True, len(item_id), eager=True)
    return item_id.is_in(item_ids.implode())


def _copies(sound: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """row, reason of every exposure that is there already. The clicked one of a group stays, else the first."""
    suspects = sound.filter(sound.select(key).hash_rows().is_duplicated())  # equal rows have equal hashes: few are left
    kept = suspects.sort("clicked", descending=True, nulls_last=True, maintain_order=True).unique(key, keep="first")
    same_label = pl.col("clicked").eq_missing(pl.col("kept_clicked"))
    return (
        suspects.join(kept, on="row", how="anti")
        .join(kept.select(*key, kept_clicked="clicked"), on=key, how="left", nulls_equal=True)
        .select("row", reason=pl.when(same_label).then(pl.lit(DUPLICATE)).otherwise(pl.lit(CONTRADICTION)))
    )


# --- sessions ---------------------------------------------------------------------------------------------------------


def cut_sessions(exposures: pl.DataFrame, rule: str) -> pl.DataFrame:
    """`exposures` sorted by user, session start, session and time (then by row), with a column `session` from 0 on.

    Wants the columns row, user, timestamp_ms, and session_id for its rule. `rule` is "same_timestamp" (one request is
    one time), "gap_minutes=30" (a longer pause opens a new session) or "session_id" (the log's own, unique within a
    user). Raises InputError on any other.
    """
    if rule == "session_id":
        start = pl.col("timestamp_ms").min().over("user", "session_id")
        ordered = (
            exposures.with_columns(start=start).sort("user", "start", "session_id", "timestamp_ms", "row").drop("start")
        )
        opens = _changes("user") | _changes("session_id")
    else:
        ordered = exposures.sort("user", "timestamp_ms", "row")
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
    """Role of each session: 0 train, 1 validation, 2 test; null where it straddles a date of the temporal split.

    `sessions` has `user` (place in the stored random order), `start_ms` and `end_ms`, ordered by user and start, so
    that roles never decrease along a history.

    leave_one_session_out (the paper's): a user's last session tests and the one before validates, each only where a
    session stands before it: two sessions are train and test, one is train.
    temporal: sessions that end before `validation_from_ms` train, those inside [`validation_from_ms`, `test_from_ms`)
    validate, those that start later test. A session across a date is neither, so training never sees a session that
    ends after a held-out one begins.
    held_out_users: the first `test_users` users test, the next `validation_users` validate, with all their sessions.
    """
    if split == "leave_one_session_out":
        left = pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user")  # sessions after this one
        before = pl.int_range(pl.len()).over("user")
        role = pl.when((left == 0) & (before >= 1)).then(2).when((left == 1) & (before >= 1)).then(1).otherwise(0)
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
    """A 64-bit hash of each id: sorting by it puts users in a fixed random order, so the first n are a nested sample.

    Depends on the id alone, not on the log, the row order or a library's version: splitmix64 of integers (Steele et
    al., 2014), BLAKE2b of strings.
    """
    if user_ids.dtype == pl.String:
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in user_ids)
        return np.frombuffer(digests, "<u8").astype(np.uint64)
    x = user_ids.to_numpy().astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def feedback_names(exposures: pl.DataFrame) -> list[str]:
    """Names of the feedback codes: ignored, clicked, then the log's kinds of context in alphabetical order."""
    context = exposures["feedback"].drop_nulls().unique().sort().to_list()
    clash = sorted({"ignored", "clicked"} & set(context))
    if clash or len(context) > _MOST_CONTEXT_KINDS:
        raise InputError(
            f"column 'feedback' has {len(context)} kinds of context ({', '.join(context[:5])}, ...); wanted at most "
            f"{_MOST_CONTEXT_KINDS}, none of them called ignored or clicked"
        )
    return ["ignored", "clicked", *context]
