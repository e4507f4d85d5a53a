"""An external sort: the rows of a log are written in sorted runs and read back user by user.

    bounds = write_run(rows, path)                  # any rows, as many times as there are more
    for group in groups({path: bounds, ...}, 2_000_000):
        group.scan().collect()                      # all rows of some users, in the fixed random order of users

The whole log is never in memory. Each thread (threads.py) holds a run or a group; meanwhile the disk holds the log once
more, in about 60 bytes a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64

from doors import tables
from sessionrec_jax.data.session_log import random_order

RANGES = 4096
"""Number of equal ranges of users' hashes. A group is some neighbouring ranges."""
_ROWS_A_RECORD = 16_384

Bounds = Int64[np.ndarray, "4097"]
"""The rows of a run at which its ranges begin, and its length."""


def range_of(order: pl.Expr) -> pl.Expr:
    """Returns the range of a hash."""
    return order // (2**64 // RANGES)


def write_run(rows: pl.DataFrame, path: Path) -> Bounds:
    """Sorts rows, about a million, by the hash of `user_id`, which becomes the column `order`; writes them."""
    run = rows.with_columns(order=random_order(rows["user_id"])).sort("order")
    run.write_ipc(path, record_batch_size=_ROWS_A_RECORD)
    starts = np.arange(1, RANGES, dtype=np.uint64) * np.uint64(2**64 // RANGES)
    inner = np.searchsorted(run["order"].to_numpy(), starts)
    return np.concatenate([[0], inner, [len(run)]]).astype(np.int64)


@dataclass(frozen=True)
class Group:
    """All rows of some users."""

    spans: tuple[tuple[Path, int, int], ...]
    """(run, first row, last row) for each run that has rows of these users."""

    def scan(self) -> pl.LazyFrame:
        """Scans the rows. `order` does not decrease from one group to the next."""
        return pl.concat([tables.scan_ipc(run).slice(first, last - first) for run, first, last in self.spans])


def groups(runs: Mapping[Path, Bounds], rows: int) -> list[Group]:
    """Splits all users into groups of about `rows` rows; a user who has more is never split."""
    total = sum(int(bounds[-1]) for bounds in runs.values())
    count = min(RANGES, max(1, -(-total // rows)))
    found = []
    for first, last in itertools.pairwise(np.arange(count + 1) * RANGES // count):
        spans = tuple((run, int(b[first]), int(b[last])) for run, b in runs.items() if b[last] > b[first])
        if spans:
            found.append(Group(spans))
    return found
