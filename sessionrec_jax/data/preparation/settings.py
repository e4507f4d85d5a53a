"""The settings of a preparation: checked, and completed from the log with dates, counts of users and dense ids."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Literal

import polars as pl

from doors import bounds
from doors.bounds import Between
from sessionrec_jax.data import content_vectors, session_context, session_log, side_information
from sessionrec_jax.data.preparation.histories import HistoryRules
from sessionrec_jax.data.preparation.log_facts import LogFacts
from sessionrec_jax.data.session_context import FromStart
from sessionrec_jax.data.session_log import Split
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.errors import InputError

_DEFAULT_HELD_OUT_USERS = (10, 2_000)  # one in ten, at most two thousand, for validation and for test


@dataclass(frozen=True)
class Settings:
    """The rules by which a raw log becomes a prepared one."""

    split: Split | None = None
    """Which sessions train, validate and test. Left out: the source's own."""
    session_rule: str | None = None
    """same_timestamp or gap_minutes=30, for a log without session ids. Left out: the source's own."""
    max_session_items: Annotated[int, Between(1, 2**24)] = 512
    """Longest session in exposures; exposures past it are rejected."""
    max_rejected_fraction: Annotated[float, Between(0, 1)] = 0.01
    """Preparation stops if more than this fraction of the rows breaks the contract; exact duplicates do not count."""
    validation_from: str | None = None
    """temporal: first moment of the validation period, ISO 8601 (UTC if it names no zone)."""
    test_from: str | None = None
    """temporal: first moment of the test period."""
    validation_users: Annotated[int | None, Between(0, 10**15)] = None
    """held_out_users: number of users that validate. Left out: one in ten, at most 2,000."""
    test_users: Annotated[int | None, Between(0, 10**15)] = None
    """held_out_users: number of users that test. Left out: one in ten, at most 2,000."""
    numeric: tuple[str, ...] = ()
    """Integer columns of the item table that are amounts, not classes. Columns with fractions always are amounts."""
    side_buckets: Annotated[int, Between(2, 1_000_000)] = 10
    """Number of buckets for an amount; their bounds are quantiles over the items that training sessions show."""
    vector: tuple[str, ...] = ()
    """Columns of the item table that hold a content vector: a list of floats, of the same length for all items. They
    are read and never trained. An item without one gets zeros."""
    vector_type: Literal["float32", "float16"] = "float32"
    """Type in which content vectors are kept, in the folder and on the devices."""
    min_item_exposures: Annotated[int, Between(0, 10**15)] = 0
    """Items with fewer training exposures, context included, share rows of the ID table; 0: no item does."""
    tail_buckets: Annotated[int, Between(1, 2**31 - 1)] = 1024
    """Number of rows that rare items share."""
    session_time: tuple[FromStart, ...] = ()
    """Hour (0 to 23) and day (1, Monday, to 7) of a session's start, UTC, as context of the session."""


def check_settings(raw: RawLog, settings: Settings) -> None:
    """Raises InputError on settings that cannot be, or that do not fit the columns of the log."""
    columns = raw.exposures.lazy().collect_schema()
    if settings.session_rule is not None and "session_id" in columns:
        raise InputError(
            f"the log has session ids, so --session-rule {settings.session_rule} would throw them away; "
            "leave out one or the other"
        )
    bounds.check(settings)
    content_vectors.check(raw.items, settings.vector)
    side_information.check(None if raw.items is None else raw.items.drop(settings.vector), settings.numeric)
    session_context.check(session_log.context_columns(columns), settings.session_time)
    split = settings.split or raw.split
    of_split = {"temporal": ("validation_from", "test_from"), "held_out_users": ("validation_users", "test_users")}
    for other, names in of_split.items():
        given = [name for name in names if getattr(settings, name) is not None]
        if given and other != split:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to --split {other}; this log's split is {split}")


def make_rules(raw: RawLog, settings: Settings, facts: LogFacts, items: pl.DataFrame, *, users: int) -> HistoryRules:
    """Completes the settings from the log. Raises InputError on dates and counts of users that do not fit it."""
    has_sessions = "session_id" in raw.exposures.lazy().collect_schema()
    split = settings.split or raw.split
    dates: dict[str, int] = {}
    if split == "temporal":
        dates = _split_dates(facts, settings.validation_from, settings.test_from)
    elif split == "held_out_users":
        dates = _held_out_users(settings, users)
    return HistoryRules(
        items=items.select("item_id"),
        feedback_names=session_log.feedback_names(facts.context_kinds),
        session_rule="session_id" if has_sessions else settings.session_rule or raw.session_rule,
        max_session_items=settings.max_session_items,
        split=split,
        split_bounds=dates,
        context_values=session_context.all_values(facts.session_context, settings.session_time),
        computed_context=settings.session_time,
    )


def _held_out_users(settings: Settings, users: int) -> dict[str, int]:
    share, most = _DEFAULT_HELD_OUT_USERS
    default = min(max(users // share, 1), most)
    validation = default if settings.validation_users is None else settings.validation_users
    test = default if settings.test_users is None else settings.test_users
    if validation < 0 or test < 0 or validation + test >= users:
        raise InputError(
            f"--validation-users {validation} and --test-users {test} leave none of the {users} users to train on; "
            "wanted two counts, 0 or more, with a sum below the number of users"
        )
    return {"validation_users": validation, "test_users": test}


def _split_dates(facts: LogFacts, validation_from: str | None, test_from: str | None) -> dict[str, int]:
    late = [_iso(facts.time_quantile_ms(q)) for q in (0.8, 0.9)]
    hint = f"for example --validation-from {late[0]} --test-from {late[1]} (the last fifth and tenth of the exposures)"
    if validation_from is None or test_from is None:
        raise InputError(f"--split temporal wants --validation-from and --test-from; {hint}")
    try:
        validation_ms, test_ms = _milliseconds(validation_from), _milliseconds(test_from)
    except ValueError as error:
        raise InputError(f"{error}; wanted dates in ISO 8601, {hint}") from error
    if validation_ms >= test_ms:
        raise InputError(f"--validation-from must be before --test-from; {hint}")
    first, last = facts.time_range_ms
    if validation_ms <= first or test_ms > last:
        raise InputError(f"the log runs from {_iso(first)} to {_iso(last)}, the dates must be inside; {hint}")
    return {"validation_from_ms": validation_ms, "test_from_ms": test_ms}


def _milliseconds(date: str) -> int:
    moment = datetime.datetime.fromisoformat(date)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


def _iso(milliseconds: int) -> str:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
