"""Checks contract 1 on a log in memory, and compares prepared logs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sessionrec_jax.data import session_log, store
from sessionrec_jax.data.preparation.log_facts import LogFacts
from sessionrec_jax.data.store import FlatLog, Prepared


class Checked(NamedTuple):
    exposures: pl.DataFrame
    """Returns the typed log, which has no breaches."""
    reasons: pl.DataFrame
    """Returns the row and the reason of each breach."""


def check(exposures: pl.LazyFrame | pl.DataFrame, item_ids: pl.Series | None) -> Checked:
    facts = LogFacts()
    sound = facts.add(session_log.type_rows(exposures.lazy(), item_ids).collect())
    facts.refuse()
    facts.refuse_no_click()
    copies = session_log.find_copies(sound)
    return Checked(sound.join(copies, on="row", how="anti"), pl.concat([facts.reasons, copies]))


def names_of(checked: Checked) -> list[str]:
    return session_log.feedback_names(set(checked.exposures["feedback"].drop_nulls()))


def assert_same_log(one: Prepared, other: Prepared) -> None:
    """Asserts that two logs have the same records and the same description."""
    assert one.manifest == other.manifest
    for record, wanted in zip(store.read_records(one.path), store.read_records(other.path), strict=True):
        for name, stored in wanted.items():
            np.testing.assert_array_equal(record[name], stored)
    for table in ("items.parquet", "users.parquet", "rejected.parquet"):
        assert pl.read_parquet(one.path / table).equals(pl.read_parquet(other.path / table))
    np.testing.assert_array_equal(one.clicks_V, other.clicks_V)
    np.testing.assert_array_equal(one.exposures_V, other.exposures_V)


def record_of(log: FlatLog, user: int) -> dict[str, Any]:
    """Returns one user's arrays as they are in a record, but for the codes of session context."""
    sessions = slice(*log.user_session_offsets_U1[user : user + 2])
    items = slice(*log.user_item_offsets_U1[user : user + 2])
    return {
        "user": user,
        "item": log.item_N[items],
        "feedback": log.feedback_N[items],
        "session_items": log.session_items_S[sessions],
        "session_seconds": log.session_seconds_S[sessions],
        "session_role": log.session_role_S[sessions],
        **{f"context_{name}": code for name, code in log.context_of(sessions).items()},
    }
