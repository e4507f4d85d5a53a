"""Rare items share rows of the ID table: items below a floor of exposures are hashed into buckets."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from sessionrec_jax.data.session_log import random_order


def id_rows(
    item_ids: pl.Series, exposures_V: Int64[np.ndarray, " V"], least: int, buckets: int
) -> Int32[np.ndarray, " V"] | None:
    """Returns the row of the ID table of each dense item; None if each item has its own.

    Row 0 is padding. Items with at least `least` exposures have the rows from 1, in their order. The others share the
    rows after them, `buckets` rows or one for each item if that is fewer, by a hash of the publisher's id alone.
    """
    is_rare = exposures_V[1:] < least
    if not is_rare.any():
        return None
    own = np.cumsum(~is_rare)
    shared = random_order(item_ids.filter(pl.Series(is_rare))) % np.uint64(min(buckets, int(is_rare.sum())))
    row = own.copy()
    row[is_rare] = own[-1] + 1 + shared.astype(np.int64)
    return np.append(0, row).astype(np.int32)
