"""From all the rows of some users to their histories: the one function of preparation that every engine calls.

Users do not depend on each other here. What does depend on the whole log (dense item ids, dates, who is held out) is
decided before, and comes as `Rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from sessionrec_jax.data import session_context, session_log
from sessionrec_jax.data.preparation import tables
from sessionrec_jax.data.ragged import ranges
from sessionrec_jax.data.session_context import FromStart
from sessionrec_jax.data.session_log import OF_SESSION, Split
from sessionrec_jax.data.store import FlatLog


@dataclass(frozen=True)
class Rules:
    """How rows become histories."""

    items: pl.DataFrame
    """item_id, in the order of the dense ids."""
    feedback_names: list[str]
    session_rule: str
    max_session_items: int
    split: Split
    split_bounds: dict[str, int]
    """Dates or numbers of users, as `session_log.assign_roles` takes them."""
    context_met: dict[str, pl.Series]
    """All values of each column of session context."""
    context_of_start: tuple[FromStart, ...]
    """Those of the columns that follow from a session's start."""


class Histories(NamedTuple):
    """Of some users, in the fixed random order."""

    users: pl.DataFrame
    """order (the hash), user_id."""
    log: FlatLog
    reasons: pl.DataFrame
    """row, reason of the rows that are not in the log."""
    time_range_ms: tuple[int, int] | None
    """First and last exposure; None where all rows were taken out."""
    context_differs: dict[str, int]
    """Sessions whose rows do not agree in a column of session context."""


def cut_users(rows: pl.DataFrame, rules: Rules, first_user: int) -> Histories:
    """`rows`: sound ones from `session_log.typed` and their users' `order`, all those of each user. `first_user`: place
    of the first of these users in the order of all."""
    copies = session_log.copies(rows)
    rows = rows.filter(~pl.col("row").is_in(copies["row"].implode()))
    users = rows.select("order", "user_id").unique().sort("order", "user_id")
    log = session_log.cut_sessions(tables.map_ids(rows.drop("order"), users, rules.items), rules.session_rule)
    context = session_log.context_columns(log.columns)
    items_S = np.bincount(log["session"])
    place_N = ranges(np.zeros_like(items_S), items_S)
    log, too_long = _take_out(log, pl.lit(place_N >= rules.max_session_items))
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
    return Histories(
        users,
        tables.flatten(log, sessions, rules.feedback_names, len(users), _context(sessions, rules)),
        pl.concat(reasons),
        (sessions["start_ms"].min(), sessions["end_ms"].max()) if len(sessions) else None,
        {name.removeprefix(OF_SESSION): int(sessions[f"{name} differs"].sum()) for name in context},
    )


def _context(sessions: pl.DataFrame, rules: Rules) -> dict[str, np.ndarray]:
    """The recorded codes of each column."""
    seconds_S = (sessions["start_ms"] // 1000).to_numpy()
    of_start = {name: pl.Series(session_context.from_start(name, seconds_S)) for name in rules.context_of_start}
    return {
        name: session_context.recorded(of_start[name] if name in of_start else sessions[OF_SESSION + name], met)
        for name, met in rules.context_met.items()
    }


def _take_out(log: pl.DataFrame, condition: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    return log.filter(~condition), log.filter(condition)
