"""Session context: facts known when a session starts, as codes of a vocabulary from the training sessions alone.

A column is either the log's own or computed from the session's start. For the log's own (`session/NAME` of its rows) a
session takes the value of its first row that has one.

There are two codes. Records are written before it is known which sessions train, so a record holds the number of a
value among all values of the log. `ContextColumn.code_M` maps it to the code that a model reads: 0 missing, 1 to n the
values of training sessions, n + 1 out of the vocabulary, which the model treats as missing.

Letters: M values in the log + 1, S sessions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from sessionrec_jax.data.session_log import OF_SESSION
from sessionrec_jax.data.side_information import by_vocabulary
from sessionrec_jax.errors import InputError

NONE = "none"
"""The choice of no column; no column can have this name."""
FromStart = Literal["hour_of_day", "day_of_week"]
_VALUES: dict[FromStart, range] = {"hour_of_day": range(24), "day_of_week": range(1, 8)}
_SECONDS_AN_HOUR, _SECONDS_A_DAY = 3_600, 86_400
_DAYS_AFTER_MONDAY = 3  # of 1970-01-01


def from_start(name: FromStart, seconds_S: Int64[np.ndarray, " S"]) -> Int64[np.ndarray, " S"]:
    """Returns the hour of the day (0 to 23) or the day of the week (1, Monday, to 7) of UTC seconds.

    In a time zone whole hours away the same hours have other numbers, which is no difference to a model; only the days
    change at another hour.
    """
    if name == "hour_of_day":
        return seconds_S // _SECONDS_AN_HOUR % 24
    return (seconds_S // _SECONDS_A_DAY + _DAYS_AFTER_MONDAY) % 7 + 1


class ContextColumn(NamedTuple):
    """A column of session context, coded."""

    code_M: Int32[np.ndarray, " M"]
    """The model's code by the code in a record; 0 stays 0."""
    table: pl.DataFrame
    """The vocabulary: code, value."""
    summary: dict[str, Any]
    """The manifest's entry: name, from (log or start), values (n), and three counts of sessions: without a value
    (missing), with a value out of the vocabulary, and with rows that disagree (differing)."""


class ContextCounts(NamedTuple):
    """The values of a column in some sessions."""

    train_M: Int64[np.ndarray, " M"]
    """Number of training sessions with each code of a record."""
    all_M: Int64[np.ndarray, " M"]
    differing: int
    """Number of sessions whose rows disagree."""

    def plus(self, other: ContextCounts) -> ContextCounts:
        return ContextCounts(self.train_M + other.train_M, self.all_M + other.all_M, self.differing + other.differing)


def check(columns: Iterable[str], computed: Sequence[FromStart]) -> None:
    """Raises InputError on a column session/NAME whose name cannot be a file's, is reserved, or is that of a computed
    column."""
    for name in (column.removeprefix(OF_SESSION) for column in columns):
        if not re.fullmatch(r"[\w.-]+", name) or name == NONE:
            raise InputError(f"session context cannot be called {name!r}; rename the column, letters and digits only")
        if name in computed:
            raise InputError(f"--session-time {name}: the log has session context of this name; leave out one of them")


def all_values(log_values: Mapping[str, pl.Series], computed: Sequence[FromStart]) -> dict[str, pl.Series]:
    """Returns all values that each column can have in this log, in the order of the codes in its records."""
    return {**log_values, **{name: pl.Series(_VALUES[name], dtype=pl.Int64) for name in computed}}


def record_codes(value_S: pl.Series, all_values: pl.Series) -> Int32[np.ndarray, " S"]:
    """Returns the codes of a record: from 1 in the order of `all_values`, 0 for a missing value."""
    codes = all_values.to_frame("value").with_row_index("code", offset=1)
    found = value_S.to_frame("value").join(codes, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(0).cast(pl.Int32).to_numpy()


def code_context(
    all_values: Mapping[str, pl.Series], counts: Mapping[str, ContextCounts], computed: Sequence[FromStart]
) -> dict[str, ContextColumn]:
    """Makes each column's vocabulary from the values that training sessions have."""
    coded = {}
    for name, values in all_values.items():
        count = counts[name]
        code, table = by_vocabulary(values, values.filter(pl.Series(count.train_M[1:] > 0, dtype=pl.Boolean)))
        code_M = np.append(0, code).astype(np.int32)
        summary = {
            "name": name,
            "from": "start" if name in computed else "log",
            "values": len(table),
            "missing": int(count.all_M[0]),
            "out_of_vocabulary": int(count.all_M[code_M > len(table)].sum()),
            "differing": count.differing,
        }
        coded[name] = ContextColumn(code_M, table, summary)
    return coded
