"""Contract 1 applied to a log in memory, and prepared logs held against each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from sessionrec_jax.data import session_log
from sessionrec_jax.data.preparation.log_facts import Facts
from sessionrec_jax.data.store import Prepared


class Checked(NamedTuple):
    exposures: pl.DataFrame
    """Typed, and without breaches."""
    reasons: pl.DataFrame
    """row, reason of the rest."""


def check(exposures: pl.LazyFrame | pl.DataFrame, item_ids: pl.Series | None) -> Checked:
    facts = Facts()
    sound = facts.add(session_log.typed(exposures.lazy(), item_ids).collect())
    facts.refuse()
    copies = session_log.copies(sound)
    return Checked(sound.join(copies, on="row", how="anti"), pl.concat([facts.reasons, copies]))


def names_of(checked: Checked) -> list[str]:
    return session_log.feedback_names(set(checked.exposures["feedback"].drop_nulls()))


def assert_same_log(one: Prepared, other: Prepared) -> None:
    """Record for record, and in all that is told of it."""
    assert one.manifest == other.manifest
    for record, wanted in zip(one.source(), other.source(), strict=True):
        for name, stored in wanted.items():
            np.testing.assert_array_equal(record[name], stored)
    for table in ("items.parquet", "users.parquet", "rejected.parquet"):
        assert pl.read_parquet(one.path / table).equals(pl.read_parquet(other.path / table))
    np.testing.assert_array_equal(one.clicks_V, other.clicks_V)
    np.testing.assert_array_equal(one.exposures_V, other.exposures_V)
