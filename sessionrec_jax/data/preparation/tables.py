"""Tables of a log with dense ids, and the log as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from sessionrec_jax.data.session_log import PROBABILITY, Schema, as_id
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError

_SHOWN = 3
"""Item ids and columns that a message names, at most."""


def check_items(items: pl.DataFrame | None, exposures: Schema) -> tuple[pl.DataFrame | None, int]:
    """Returns the item table sorted by id, and the number of rows left out because they are exact copies of others.
    Raises InputError if a row has no id, and if rows of one id differ.

    The ids become text if those of the exposures are, so that 12 and "12" are the same item.
    """
    if items is None or "item_id" not in exposures:
        return None, 0
    if "item_id" not in items.columns:
        raise InputError(f"the item table lacks the column 'item_id'; it has: {', '.join(items.columns)}")
    items = items.with_columns(as_id(items.schema, "item_id"))
    if pl.LazyFrame(schema=exposures).select(as_id(exposures, "item_id")).collect_schema()["item_id"] == pl.String:
        items = items.with_columns(pl.col("item_id").cast(pl.String))
    if nulls := items["item_id"].null_count():
        raise InputError(
            f"{nulls:,} of the {len(items):,} rows of the item table have no item id; fill it in, or remove those rows"
        )
    if not items["item_id"].is_duplicated().any():
        return items.sort("item_id"), 0
    distinct = items.unique(maintain_order=True)
    _refuse_contradictions(distinct)
    return distinct.sort("item_id"), len(items) - len(distinct)


def _refuse_contradictions(items: pl.DataFrame) -> None:
    """Raises InputError if an item id has several rows, which are known to differ."""
    several = items.filter(pl.col("item_id").is_duplicated())
    if several.is_empty():
        return
    ids = several["item_id"].unique(maintain_order=True)
    shown = ids.head(_SHOWN).to_list()
    first = several.filter(pl.col("item_id") == shown[0])
    columns = [name for name in first.columns if first.select(name).n_unique() > 1]
    raise InputError(
        f"{len(ids):,} item ids have rows in the item table that differ: {_few(shown, len(ids))}; the rows of "
        f"{shown[0]!r} differ in {_few(columns[:_SHOWN], len(columns))}. Wanted one row an item: keep the right one, "
        "or leave out the columns that differ (`prepare table` uses the columns of --side alone)"
    )


def _few(shown: Sequence[object], of: int) -> str:
    more = f" and {of - len(shown):,} more" if of > len(shown) else ""
    return ", ".join(map(repr, shown)) + more


def to_dense_ids(exposures: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Replaces the publisher's ids by `user` (row of `users`, from 0) and `item` (row of `items`, from 1)."""
    user = users.select("user_id").with_row_index("user").cast({"user": pl.Int64})
    item = items.select("item_id").with_row_index("item", offset=1).cast({"item": pl.Int32})
    mapped = exposures.join(user, on="user_id", how="left", maintain_order="left")
    mapped = mapped.join(item, on="item_id", how="left", maintain_order="left")
    return mapped.drop("user_id", "item_id")


def flatten(
    log: pl.DataFrame,
    sessions: pl.DataFrame,
    feedback_names: list[str],
    *,
    users: int,
    session_context: dict[str, np.ndarray],
) -> FlatLog:
    """Turns the sorted log, its sessions (with roles) and the codes of their context into flat arrays."""
    codes = {name: code for code, name in enumerate(feedback_names)}
    context = pl.col("feedback").replace_strict(codes, return_dtype=pl.Int8)
    feedback = log.select(pl.col("clicked").cast(pl.Int8).fill_null(context))["clicked"]
    probability_N = None
    if PROBABILITY in log.columns:
        probability_N = log[PROBABILITY].fill_null(0.0).to_numpy()
    sessions_U = np.bincount(sessions["user"].to_numpy(), minlength=users)
    return FlatLog(
        item_N=log["item"].to_numpy(),
        feedback_N=feedback.to_numpy(),
        session_items_S=sessions["items"].to_numpy(),
        session_seconds_S=(sessions["start_ms"] // 1000).to_numpy(),
        session_role_S=sessions["role"].to_numpy(),
        user_session_offsets_U1=np.append(0, np.cumsum(sessions_U)),
        session_context=session_context,
        click_probability_N=probability_N,
    )
