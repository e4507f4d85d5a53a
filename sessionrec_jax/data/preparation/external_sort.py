"""A log on its way to be sorted by user: written in sorted runs, read back so that a user's rows stand together.

    bounds = write_run(rows, path)                  # any rows, as often as there are more
    for group in groups({path: bounds, ...}, 2_000_000):
        group.scan().collect()                      # all rows of some users, in the fixed random order of users

The log is never held: memory is that of a run or a group for each thread (threads.py), and meanwhile the disk holds it
once more, in about 60 bytes a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64

from sessionrec_jax.data.session_log import random_order

RANGES = 4096
"""Of the hashes of users; a group is some of them that stand together."""
_ROWS_A_RECORD = 16_384

Bounds = Int64[np.ndarray, "4097"]
"""Where the ranges begin and end in a run."""


def range_of(order: pl.Expr) -> pl.Expr:
    """The range that a hash is in."""
    return order // (2**64 // RANGES)


def write_run(rows: pl.DataFrame, path: Path) -> Bounds:
    """Sorts the rows by the hash of `user_id`, which becomes the column `order`, in memory: a million or so."""
    run = rows.with_columns(order=random_order(rows["user_id"])).sort("order")
    run.write_ipc(path, record_batch_size=_ROWS_A_RECORD)
    starts = np.arange(1, RANGES, dtype=np.uint64) * np.uint64(2**64 // RANGES)
    inner = np.searchsorted(run["order"].to_numpy(), starts)
    return np.concatenate([[0], inner, [len(run)]]).astype(np.int64)


@dataclass(frozen=True)
class Group:
    """All rows of some users."""

    spans: tuple[tuple[Path, int, int], ...]
    """Run, first row and last, of each run that has some."""

    def scan(self) -> pl.LazyFrame:
        """Columns as they were written. `order` does not decrease from one group to the next."""
        return pl.concat([pl.scan_ipc(run).slice(first, last - first) for run, first, last in self.spans])


def groups(runs: Mapping[Path, Bounds], rows: int) -> list[Group]:
    """Of all users in turn, about so many rows at a time, or all of a user who has more."""
    total = sum(int(bounds[-1]) for bounds in runs.values())
    count = min(RANGES, max(1, -(-total // rows)))
    found = []
    for first, last in itertools.pairwise(np.arange(count + 1) * RANGES // count):
        spans = tuple((run, int(b[first]), int(b[last])) for run, b in runs.items() if b[last] > b[first])
        if spans:
            found.append(Group(spans))
    return found
