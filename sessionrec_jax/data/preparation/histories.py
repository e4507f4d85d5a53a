"""From all the rows of some users to their histories: the one function of preparation that every engine calls.

Users do not depend on each other here. What depends on the whole log (dense item ids, dates, who is held out) is
decided before, in `HistoryRules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from sessionrec_jax.data import session_log
from sessionrec_jax.data.preparation import tables
from sessionrec_jax.data.ragged import count_up
from sessionrec_jax.data.session_context import FromStart, from_start, record_codes
from sessionrec_jax.data.session_log import OF_SESSION, Split
from sessionrec_jax.data.store import FlatLog


@dataclass(frozen=True)
class HistoryRules:
    """The rules by which rows become histories; the same for all users."""

    items: pl.DataFrame
    """item_id, in the order of the dense ids."""
    feedback_names: list[str]
    session_rule: str
    max_session_items: int
    split: Split
    split_bounds: dict[str, int]
    """Dates or numbers of users, as `session_log.assign_roles` takes them."""
    context_values: dict[str, pl.Series]
    """All values of each column of session context."""
    computed_context: tuple[FromStart, ...]
    """The columns of session context that are computed from a session's start."""


class PreparedUsers(NamedTuple):
    """The histories of some users, in the fixed random order."""

    ids: pl.DataFrame
    """order (the hash), user_id."""
    log: FlatLog
    reasons: pl.DataFrame
    """row, reason of the rows that are not in the log."""
    time_range_ms: tuple[int, int] | None
    """First and last exposure; None if all rows were rejected."""
    context_differs: dict[str, int]
    """For each column of session context, the number of sessions whose rows disagree."""
    lost_clicks: int
    """Clicks past the longest length of a session."""
    overlapping: int
    """Sessions that begin before an earlier one of their user has ended."""


def prepare_users(rows: pl.DataFrame, rules: HistoryRules, first_user: int) -> PreparedUsers:
    """Cuts the histories of some users. `rows` are all their sound rows, with the users' `order`.

    `first_user` is the index of the first of them in the order of all users.
    """
    copies = session_log.find_copies(rows)
    rows = rows.filter(~pl.col("row").is_in(copies["row"].implode()))
    ids = rows.select("order", "user_id").unique().sort("order", "user_id")
    log = session_log.cut_sessions(tables.to_dense_ids(rows.drop("order"), ids, rules.items), rules.session_rule)
    context = session_log.context_columns(log.columns)
    items_S = np.bincount(log["session"])
    log, too_long = _take_out(log, pl.lit(count_up(items_S) >= rules.max_session_items))
    sessions = log.group_by("session", maintain_order=True).agg(
        pl.col("user").first(),
        *(pl.col(name).drop_nulls().first() for name in context),
        *((pl.col(name).min() != pl.col(name).max()).alias(f"{name} differs") for name in context),
        items=pl.len().cast(pl.Int32),
        start_ms=pl.col("timestamp_ms").min(),
        end_ms=pl.col("timestamp_ms").max(),
    )
    in_order = sessions.with_columns(pl.col("user") + first_user)
    sessions = sessions.with_columns(role=session_log.assign_roles(in_order, rules.split, **rules.split_bounds))
    without_role = sessions.filter(pl.col("role").is_null())["session"]
    log, straddles = _take_out(log, pl.col("session").is_in(without_role.implode()))
    sessions = sessions.filter(pl.col("role").is_not_null())
    reasons = [
        copies,
        too_long.select("row", reason=pl.lit(session_log.LONG_SESSION)),
        straddles.select("row", reason=pl.lit(session_log.STRADDLES)),
    ]
    session_context = _context_codes(sessions, rules)
    time_range_ms = None
    if len(sessions):
        time_range_ms = int(sessions["start_ms"].to_numpy().min()), int(sessions["end_ms"].to_numpy().max())
    return PreparedUsers(
        ids=ids,
        log=tables.flatten(log, sessions, rules.feedback_names, users=len(ids), session_context=session_context),
        reasons=pl.concat(reasons),
        time_range_ms=time_range_ms,
        context_differs={name.removeprefix(OF_SESSION): int(sessions[f"{name} differs"].sum()) for name in context},
        lost_clicks=int(too_long["clicked"].sum() or 0),
        overlapping=_overlapping(sessions),
    )


def _overlapping(sessions: pl.DataFrame) -> int:
    """Returns the number of sessions that begin before an earlier one of their user has ended. They are in the order in
    which they begin."""
    ended_ms = pl.col("end_ms").cum_max().shift(1).over("user")
    return int(sessions.select((ended_ms > pl.col("start_ms")).sum()).item())


def _context_codes(sessions: pl.DataFrame, rules: HistoryRules) -> dict[str, np.ndarray]:
    """Returns the codes of a record for each column of session context."""
    seconds_S = (sessions["start_ms"] // 1000).to_numpy()
    computed = {name: pl.Series(from_start(name, seconds_S)) for name in rules.computed_context}
    return {
        name: record_codes(computed[name] if name in computed else sessions[OF_SESSION + name], values)
        for name, values in rules.context_values.items()
    }


def _take_out(log: pl.DataFrame, condition: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    return log.filter(~condition), log.filter(condition)
