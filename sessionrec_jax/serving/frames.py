"""A table of exposures as histories to answer: one row an exposure, cut into sessions by the rule of the run's log."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from sessionrec_jax.data import session_log
from sessionrec_jax.data.session_log import OF_SESSION
from sessionrec_jax.data.sources.table import Options
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError, near_miss

_COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp_ms", "clicked": "clicked"}
_KNOWN = (*_COLUMNS, "session", "feedback", "session_context", "time_unit")


def is_frame(values: Any) -> bool:
    """Returns true for a Polars or pandas data frame."""
    return isinstance(values, pl.DataFrame | pl.LazyFrame) or (hasattr(values, "columns") and hasattr(values, "iloc"))


def users_of_frame(frame: Any, log: Prepared, **columns: Any) -> list[dict[str, Any]]:
    """Returns the users of a Polars or pandas frame in order of appearance, as `histories.histories_of` reads them.

    `columns` names the columns as the options of the table source do (user, item, time, clicked, session, feedback,
    session_context, time_unit). The default names are user_id, item_id, timestamp_ms and clicked, session_id where the
    frame has it, and the log's columns of session context that the frame has. With session ids each is a session;
    without, the rule of the log cuts sessions. Exact duplicates count once, as in preparation.

    Raises InputError for a column that is not there and for the first row that breaks the contract of a log.
    """
    for name in columns:
        if name not in _KNOWN:
            raise InputError(f"histories have no option {name!r}; {near_miss(name, _KNOWN)}")
    options, table = Options(exposures="", **columns), _as_polars(frame)
    session = options.session or ("session_id" if "session_id" in table.columns else None)
    named = {contract: getattr(options, name) for name, contract in _COLUMNS.items()}
    named |= {name: given for name, given in (("session_id", session), ("feedback", options.feedback)) if given}
    context = options.session_context or [
        name for name in log.context_values if name in table.columns and name not in log.context_of_start
    ]
    named |= {OF_SESSION + name: name for name in context}
    for contract, name in named.items():
        if name not in table.columns:
            option = next((key for key, value in _COLUMNS.items() if value == contract), contract)
            raise InputError(
                f"the histories have no column {name!r}; {near_miss(name, table.columns)} Name it with {option}=..."
            )
    chosen = table.lazy().select(pl.col(name).alias(contract) for contract, name in named.items())
    rows = session_log.type_rows(chosen, None, time_unit=options.time_unit).collect()
    for row, reason in rows.filter(pl.col("reason").is_not_null()).select("row", "reason").iter_rows():
        raise InputError(f"row {row} of the histories: {reason}; correct it or leave the row out")
    return _as_lists(rows, context, "session_id" if session else log.manifest["settings"]["session_rule"])


def _as_lists(rows: pl.DataFrame, context: list[str] | tuple[str, ...], rule: str) -> list[dict[str, Any]]:
    if rule == "session_id" and "session_id" not in rows.columns:
        raise InputError(
            "the run's log has session ids, and the histories have none; name their column with session=..., or add "
            "a column session_id"
        )
    rows = rows.join(session_log.find_copies(rows), on="row", how="anti")
    users = rows.select(pl.col("user_id").unique(maintain_order=True)).with_row_index("user")
    numbered = rows.join(users.cast({"user": pl.Int64}), on="user_id", how="left")
    sessions = (
        session_log.cut_sessions(numbered, rule)
        .group_by("session", maintain_order=True)
        .agg(
            pl.col("user").first(),
            *(pl.col(OF_SESSION + name).drop_nulls().first() for name in context),
            exposures=pl.struct("clicked", "feedback", item="item_id"),
            seconds=pl.col("timestamp_ms").min() // 1000,
        )
    )
    found = [
        {"user": user, "sessions": [], "times": []} | ({"context": []} if context else {}) for user in users["user_id"]
    ]
    for session in sessions.iter_rows(named=True):
        line = found[session["user"]]
        line["sessions"].append(session["exposures"])
        line["times"].append(session["seconds"])
        if context:
            line["context"].append({name: session[OF_SESSION + name] for name in context})
    return found


def _as_polars(frame: Any) -> pl.DataFrame:
    """Copies a pandas frame column by column, so that neither pandas nor pyarrow has to be installed."""
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    return pl.DataFrame([_series(str(name), frame[name]) for name in frame.columns])


def _series(name: str, column: Any) -> pl.Series:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufM":
        return pl.Series(name, column.to_numpy())
    values = [None if gap else value for value, gap in zip(column.tolist(), column.isna().tolist(), strict=True)]
    return pl.Series(name, values, strict=False)
