"""A log on its way to be sorted by user: written in sorted runs, read back so that a user's rows stand together.

    runs = Runs(folder)
    runs.add(rows)                     # any rows, as often as there are more
    for rows in runs.groups(2_000_000):    # all rows of some users at a time, in the fixed random order of users

The log is never held: memory is that of one part and one group, and meanwhile the disk holds it once more, in about 60
bytes a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from sessionrec_jax.data.sessionlog import random_order

_RANGES = 4096
"""Of hashes; a group is some of them that stand together."""
_ROWS_A_RECORD = 16_384


class Runs:
    """Runs of rows, each sorted by the hash of `user_id` (column `order`), in a file of its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._folder.mkdir()
        self._bounds: list[np.ndarray] = []  # of each run, where its ranges begin and end

    def __len__(self) -> int:
        """Rows."""
        return sum(int(bounds[-1]) for bounds in self._bounds)

    def add(self, rows: pl.DataFrame) -> None:
        """One more run; a million rows or so, since they are sorted in memory."""
        if rows.is_empty():
            return
        user_id = rows["user_id"].unique()
        order = pl.DataFrame({"user_id": user_id, "order": random_order(user_id)})
        run = rows.join(order, on="user_id").sort("order")
        run.write_ipc(self._path(len(self._bounds)), record_batch_size=_ROWS_A_RECORD)
        starts = np.arange(1, _RANGES, dtype=np.uint64) * np.uint64(2**64 // _RANGES)
        inner = np.searchsorted(run["order"].to_numpy(), starts)
        self._bounds.append(np.concatenate([[0], inner, [len(run)]]).astype(np.int64))

    def groups(self, rows: int) -> Iterator[pl.DataFrame]:
        """Of all users in turn, about so many rows at a time, or all of a user who has more. Columns as they were
        added, and `order`, which does not decrease from one group to the next."""
        groups = min(_RANGES, max(1, -(-len(self) // rows)))
        edges = np.arange(groups + 1) * _RANGES // groups
        for first, last in itertools.pairwise(edges):
            spans = [(run, int(bounds[first]), int(bounds[last])) for run, bounds in enumerate(self._bounds)]
            parts = [pl.scan_ipc(self._path(run)).slice(a, b - a) for run, a, b in spans if b > a]
            if parts:
                yield pl.concat(parts).collect()

    def _path(self, run: int) -> Path:
        return self._folder / f"{run:06d}.arrow"
