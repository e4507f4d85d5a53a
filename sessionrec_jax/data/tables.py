"""The tables of a prepared log: dense ids, flat arrays, coded side information."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl

from sessionrec_jax.data.sessionlog import Schema, as_id
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError

LONGEST_LIST = 8
"""Values kept of a list of side information."""

# --- ids -------------------------------------------------------------------------------------------------------------


def items_of(items: pl.DataFrame | None, exposures: Schema) -> pl.DataFrame | None:
    """The item table of a log of such columns, in the order of the ids, which are text where one of the two has text:
    12 and "12" are the same item. Raises InputError where an id is missing or repeated."""
    if items is None or "item_id" not in exposures:
        return None
    if "item_id" not in items.columns:
        raise InputError(f"the item table lacks the column 'item_id'; it has: {', '.join(items.columns)}")
    items = items.with_columns(as_id(items.schema, "item_id"))
    if pl.LazyFrame(schema=exposures).select(as_id(exposures, "item_id")).collect_schema()["item_id"] == pl.String:
        items = items.with_columns(pl.col("item_id").cast(pl.String))
    nulls = items["item_id"].null_count()
    repeated = len(items) - nulls - items["item_id"].drop_nulls().n_unique()
    if nulls or repeated:
        raise InputError(
            f"the item table has {nulls:,} null and {repeated:,} repeated item ids in {len(items):,} rows; wanted one "
            "row an item"
        )
    return items.sort("item_id")


def map_ids(exposures: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The exposures with `user` (place among `users`) and `item` (from 1) in place of the publisher's ids."""
    user = users.select("user_id").with_row_index("user").cast({"user": pl.Int64})
    item = items.select("item_id").with_row_index("item", offset=1).cast({"item": pl.Int32})
    mapped = exposures.join(user, on="user_id", maintain_order="left").join(item, on="item_id", maintain_order="left")
    return mapped.drop("user_id", "item_id")


# --- the log as arrays -----------------------------------------------------------------------------------------------


def flatten(log: pl.DataFrame, sessions: pl.DataFrame, feedback_names: list[str], users: int) -> FlatLog:
    """The log (in order) and its sessions (with roles) as flat arrays."""
    codes = {name: code for code, name in enumerate(feedback_names)}
    context = pl.col("feedback").replace_strict(codes, return_dtype=pl.Int8)
    feedback = log.select(pl.col("clicked").cast(pl.Int8).fill_null(context))["clicked"]
    sessions_U = np.bincount(sessions["user"].to_numpy(), minlength=users)
    return FlatLog(
        item_N=log["item"].to_numpy(),
        feedback_N=feedback.to_numpy(),
        session_items_S=sessions["items"].to_numpy(),
        session_seconds_S=(sessions["start_ms"] // 1000).to_numpy(),
        session_role_S=sessions["role"].to_numpy(),
        user_session_offsets_U1=np.append(0, np.cumsum(sessions_U)),
    )


# --- side information ------------------------------------------------------------------------------------------------


def code_side(
    items: pl.DataFrame,
) -> tuple[dict[str, np.ndarray], dict[str, pl.DataFrame], list[dict[str, Any]]]:
    """Codes [V, W] of each column beside item_id (0 missing, then the values in order), vocabularies, and a summary.

    A list keeps its first 8 values; the summary counts the lists that were longer. Raises InputError on a column that
    is not categorical.
    """
    side, vocabularies, summary = {}, {}, []
    for name in items.columns:
        if name == "item_id":
            continue
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"the item table's column {name!r} cannot name a file; rename it, letters and digits only")
        column = _plain(items[name])
        is_list = isinstance(column.dtype, pl.List)
        width = min(max(int(column.list.len().max() or 0), 1), LONGEST_LIST) if is_list else 1
        long = pl.DataFrame({"row": pl.int_range(1, len(items) + 1, dtype=pl.Int64, eager=True), "value": column})
        if is_list:
            long = long.explode("value", empty_as_null=True, keep_nulls=True)
        long = long.drop_nulls("value")
        long = long.with_columns(place=pl.int_range(pl.len()).over("row") if is_list else pl.lit(0, pl.Int64))
        long = long.filter(pl.col("place") < width)
        values = long["value"].unique().sort()
        vocabulary = pl.DataFrame(
            {"code": pl.int_range(1, len(values) + 1, dtype=pl.Int32, eager=True), "value": values}
        )
        coded = long.join(vocabulary, on="value")
        codes_VW = np.zeros((len(items) + 1, width), np.int32)
        codes_VW[coded["row"].to_numpy(), coded["place"].to_numpy()] = coded["code"].to_numpy()
        cut = int((column.list.len() > width).sum()) if is_list else 0
        side[name], vocabularies[name] = codes_VW, vocabulary
        missing = int(np.sum(codes_VW[1:, 0] == 0))
        summary.append({"name": name, "values": len(values), "width": width, "missing": missing, "lists_cut": cut})
    return side, vocabularies, summary


def _plain(column: pl.Series) -> pl.Series:
    """As integers, text or booleans, or lists of them without nulls."""
    kind = column.dtype
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if inner.is_float() and ((column.explode().drop_nulls() % 1) == 0).all():
        inner = pl.Int64()  # integers with gaps, as pandas writes them
    elif not (inner.is_integer() or inner in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null)):
        raise InputError(
            f"the item table's column {column.name!r} has the type {kind}; side information is integers, text or lists "
            "of them. Put numbers into classes first, or name the columns to use (--side)"
        )
    inner = pl.String() if inner in (pl.Categorical, pl.Enum, pl.Null) else inner
    return column.cast(pl.List(inner)).list.drop_nulls() if isinstance(kind, pl.List) else column.cast(inner)
