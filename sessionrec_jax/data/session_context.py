"""Session context: what is known of a session when it starts, as codes by vocabularies of the training part alone.

A column is the log's own (`session/NAME` of its rows), where a session takes the value of its first row that has one,
or follows from the session's start. Records are written before it is known which sessions train, so they hold codes
over all values `met` in the log; `Coded.code_M` makes of them the codes that a model reads: 0 missing, 1 to n the
values of training sessions, n + 1 out of the vocabulary, which is read as missing (as of items, see sideinfo.py).

Letters: M values met + 1, S sessions.
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
"""No column has this name: it stands for the choice of none."""
FromStart = Literal["hour_of_day", "day_of_week"]
_VALUES: dict[FromStart, range] = {"hour_of_day": range(24), "day_of_week": range(1, 8)}
_SECONDS_AN_HOUR, _SECONDS_A_DAY = 3_600, 86_400
_DAYS_AFTER_MONDAY = 3  # of 1970-01-01


def from_start(name: FromStart, seconds_S: Int64[np.ndarray, " S"]) -> Int64[np.ndarray, " S"]:
    """hour_of_day, 0 to 23, or day_of_week, 1 for Monday to 7, of UTC seconds. A clock that is off by whole hours gives
    other names to the same hours, so that a model sees no difference; the days then change at another hour."""
    if name == "hour_of_day":
        return seconds_S // _SECONDS_AN_HOUR % 24
    return (seconds_S // _SECONDS_A_DAY + _DAYS_AFTER_MONDAY) % 7 + 1


class Coded(NamedTuple):
    """A column."""

    code_M: Int32[np.ndarray, " M"]
    """By the code in a record; 0 stays 0."""
    table: pl.DataFrame
    """code, value: the vocabulary."""
    summary: dict[str, Any]
    """What the manifest says: name, from (log, or start), values (n), and of the sessions how many have no value, how
    many one out of the vocabulary, and in how many the rows differ."""


class Counts(NamedTuple):
    """Of a column in some sessions."""

    train_M: Int64[np.ndarray, " M"]
    """Training sessions with each code of a record."""
    all_M: Int64[np.ndarray, " M"]
    differing: int
    """Sessions whose rows do not agree."""

    def plus(self, other: Counts) -> Counts:
        return Counts(*(own + more for own, more in zip(self, other, strict=True)))


def check(names: Iterable[str], of_start: Sequence[FromStart]) -> None:
    """Of the columns session/NAME. Raises InputError on a name that no file can have, that is taken, or that stands for
    something else."""
    for name in (column.removeprefix(OF_SESSION) for column in names):
        if not re.fullmatch(r"[\w.-]+", name) or name == NONE:
            raise InputError(f"session context cannot be called {name!r}; rename the column, letters and digits only")
        if name in of_start:
            raise InputError(f"--session-time {name}: the log has session context of this name; leave out one of them")


def met(of_log: Mapping[str, pl.Series], of_start: Sequence[FromStart]) -> dict[str, pl.Series]:
    """All values that a column can have in this log, in the order of the codes in its records. The log's come first."""
    return {**of_log, **{name: pl.Series(_VALUES[name], dtype=pl.Int64) for name in of_start}}


def recorded(value_S: pl.Series, met: pl.Series) -> Int32[np.ndarray, " S"]:
    """The codes of a record: from 1, 0 where there is no value."""
    code = met.to_frame("value").with_row_index("code", offset=1)
    found = value_S.to_frame("value").join(code, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(0).cast(pl.Int32).to_numpy()


def code_context(
    met: Mapping[str, pl.Series], counts: Mapping[str, Counts], of_start: Sequence[FromStart]
) -> dict[str, Coded]:
    """Vocabularies of the values that training sessions have."""
    coded = {}
    for name, values in met.items():
        of = counts[name]
        code, table = by_vocabulary(values, values.filter(pl.Series(of.train_M[1:] > 0, dtype=pl.Boolean)))
        code_M = np.append(0, code).astype(np.int32)
        summary = {
            "name": name,
            "from": "start" if name in of_start else "log",
            "values": len(table),
            "missing": int(of.all_M[0]),
            "out_of_vocabulary": int(of.all_M[code_M > len(table)].sum()),
            "differing": of.differing,
        }
        coded[name] = Coded(code_M, table, summary)
    return coded
