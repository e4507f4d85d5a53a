"""Contract 1 applied to a log in memory, for the tests of sources and rules."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from sessionrec_jax.data import sessionlog


class Checked(NamedTuple):
    exposures: pl.DataFrame
    """Typed, and without breaches."""
    reasons: pl.DataFrame
    """row, reason of the rest."""


def check(exposures: pl.LazyFrame | pl.DataFrame, item_ids: pl.Series | None) -> Checked:
    facts = sessionlog.Facts()
    sound = facts.add(sessionlog.typed(exposures.lazy(), item_ids).collect())
    facts.refuse()
    copies = sessionlog.copies(sound)
    return Checked(sound.join(copies, on="row", how="anti"), pl.concat([facts.reasons, copies]))


def names_of(checked: Checked) -> list[str]:
    return sessionlog.feedback_names(set(checked.exposures["feedback"].drop_nulls()))
