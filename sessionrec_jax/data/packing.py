"""The rows of an epoch: which windows share a row.

The packing is planned over the histogram of *kinds* of windows. A kind is a number of sessions and a narrow range of
items. The plan says for each row of which kinds its windows are. It is made first-fit, from a part of the windows whose
result is repeated, so that it takes as long for a hundred million windows as for a few hundred thousand.

An epoch fills the plan in an order of its own: the windows of a kind take the plan's places of this kind at random (in
a small log, windows of as many sessions also change places where both rows still hold their items), and the rows are
shuffled. So every epoch has the same number of rows, and the steps of a run are known before any epoch is packed.

Letters: W windows, K kinds, R rows, P packed windows in the order of rows. A row has L session slots and T item slots.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from sessionrec_jax.data.ragged import offsets, ranges
from sessionrec_jax.data.windows import Windows

PACKING = 2
"""The number of this way to pack. It is part of a checkpoint, because a run cannot go on with other batches. A change
that gives an epoch other rows must raise it (1: first-fit in each epoch's own order)."""
_OPEN_ROWS = 16
_SORTED_TOGETHER = 32
"""Windows that are packed from the longest to the shortest. All of them sorted would waste less, but rows of only short
windows would be next to rows of one long window, and the targets of batches would differ (LOG.md)."""
_ITEMS_RATIO = 1.03
"""Windows of a kind differ by at most this factor in items, and a row has room for the largest."""
_EXCHANGES, _MANY_WINDOWS = 4, 1 << 17
"""Rounds of exchanges, and the windows from which each kind has enough of them without."""
_LEAST_PLANNED = 1 << 14
"""Windows that are packed at least before the result is repeated: the last rows of a packing are not full."""
_MOST_TRIES = 16
"""Orders in which the windows of a small log are packed: of its few rows, one more is a large share."""
_PLAN_STREAM, _SHUFFLE_STREAM = 0x9A7, 0xDA7A


@dataclass(frozen=True)
class PackedRows:
    """Windows packed into rows. Row r holds the windows `window_P[offset_R1[r] : offset_R1[r + 1]]`, in that order."""

    window_P: np.ndarray
    offset_R1: np.ndarray

    def __len__(self) -> int:
        return len(self.offset_R1) - 1


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The kinds of windows in each row of every epoch."""

    windows: Windows
    items_per_row: int
    kind_W: np.ndarray
    place_P: np.ndarray
    """The places in the rows, in the order of their kinds."""
    offset_R1: np.ndarray
    """Row r has the places from entry r up to entry r + 1."""

    def __len__(self) -> int:
        return len(self.offset_R1) - 1

    def epoch(self, seed: int | None, epoch: int) -> PackedRows:
        """Returns the rows of an epoch. They depend on the windows, the row's slots, `seed` and `epoch` alone.

        None as the seed: windows of a kind, and rows, follow the order of the log as far as the plan allows.
        """
        if seed is None:
            window_P = self._dealt(self._windows())
            order_R = np.argsort(np.minimum.reduceat(window_P, self.offset_R1[:-1]), kind="stable")
            return self._in_order(window_P, order_R)
        random = np.random.default_rng(np.random.SeedSequence([seed, _SHUFFLE_STREAM, epoch]))
        window_P = self._dealt(random.permutation(self._windows()))
        if len(self.kind_W) < _MANY_WINDOWS:
            self._exchange(window_P, random)
        return self._in_order(window_P, random.permutation(len(self)))

    def _windows(self) -> np.ndarray:
        return np.arange(len(self.kind_W), dtype=np.min_scalar_type(len(self.kind_W)))

    def _dealt(self, order_W: np.ndarray) -> np.ndarray:
        """Gives the plan's places to the windows of their kinds, in the given order."""
        window_P = np.empty_like(order_W)
        window_P[self.place_P] = order_W[np.argsort(self.kind_W[order_W], kind="stable")]
        return window_P

    def _exchange(self, window_P: np.ndarray, random: np.random.Generator) -> None:
        """Lets windows change places with one of as many sessions in another row, if both rows have room for the items.

        Without this a kind of one window, as there are in a small log, would share its row with the same in all epochs.
        """
        first_R, windows_R = self.offset_R1[:-1], np.diff(self.offset_R1)
        sessions_W, items_W = self.windows.sessions_W, self.windows.items_W
        for _ in range(_EXCHANGES):
            free_R = self.items_per_row - np.add.reduceat(items_W[window_P], first_R)
            place_R = first_R + (random.random(len(self)) * windows_R).astype(np.int64)  # one of each row
            row_R = random.permutation(len(self))
            row_R = row_R[np.argsort(sessions_W[window_P[place_R[row_R]]], kind="stable")]
            one, other = row_R[: len(row_R) // 2 * 2].reshape(-1, 2).T
            window_one, window_other = window_P[place_R[one]], window_P[place_R[other]]
            more = items_W[window_other] - items_W[window_one]
            fits = (more <= free_R[one]) & (-more <= free_R[other])
            fits &= sessions_W[window_one] == sessions_W[window_other]
            window_P[place_R[one[fits]]], window_P[place_R[other[fits]]] = window_other[fits], window_one[fits]

    def _in_order(self, window_P: np.ndarray, order_R: np.ndarray) -> PackedRows:
        first_R, last_R = self.offset_R1[:-1][order_R], self.offset_R1[1:][order_R]
        return PackedRows(window_P[ranges(first_R, last_R)], offsets(last_R - first_R))


@functools.lru_cache(maxsize=2)
def plan_rows(windows: Windows, sessions_per_row: int, items_per_row: int) -> RowPlan:
    """Plans the rows of all epochs over `windows`, each of which fits a row. Runs of other seeds have the same plan."""
    kind_W, sessions_K, items_K = _kinds(windows)
    count_K = np.bincount(kind_W, minlength=len(sessions_K))
    # First-fit goes window by window: over W / copies windows, and up to copies - 1 of each kind that remain.
    copies = max(1, min(round(math.sqrt(2 * len(kind_W) / len(count_K))), len(kind_W) // _LEAST_PLANNED))
    random = np.random.default_rng(_PLAN_STREAM)
    slots = sessions_per_row, items_per_row
    tries = max(1, min(_MOST_TRIES, _LEAST_PLANNED // len(kind_W)))
    pack = functools.partial(_first_fit, sessions_K, items_K, slots, random)
    repeated_P, repeated_R = min((pack(count_K // copies) for _ in range(tries)), key=lambda packed: len(packed[1]))
    rest_P, rest_R = pack(count_K % copies)
    kind_P = _compact(np.concatenate([np.tile(repeated_P, copies), rest_P]))
    windows_R = np.concatenate([np.tile(repeated_R, copies), rest_R])
    return RowPlan(
        windows=windows,
        items_per_row=items_per_row,
        kind_W=kind_W,
        place_P=_compact(np.argsort(kind_P, kind="stable")),
        offset_R1=offsets(windows_R),
    )


def _kinds(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the kind of each window, and the sessions and the most items of each kind."""
    range_W = np.ceil(np.log(np.maximum(windows.items_W, 1)) / math.log(_ITEMS_RATIO)).astype(np.int64)
    code_W = windows.sessions_W * (range_W.max() + 1) + range_W
    is_used = np.zeros(code_W.max() + 1, bool)
    is_used[code_W] = True
    kind_W = (np.cumsum(is_used) - 1)[code_W]
    items_K = np.zeros(kind_W.max() + 1, np.int64)
    np.maximum.at(items_K, kind_W, windows.items_W)
    return _compact(kind_W), np.flatnonzero(is_used) // (range_W.max() + 1), items_K


def _compact(number_X: np.ndarray) -> np.ndarray:
    """Returns the numbers in the smallest type that holds them: numpy sorts up to 16 bits in linear time."""
    return number_X.astype(np.min_scalar_type(number_X.max(initial=0)))


def _first_fit(
    sessions_K: np.ndarray,
    items_K: np.ndarray,
    slots: tuple[int, int],
    random: np.random.Generator,
    count_K: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Packs `count_K` windows of each kind; returns the kinds in the order of rows, and the windows of each row.

    A window goes into the oldest open row that has room for its sessions and items. If no open row has, a new one is
    opened, and the oldest is closed once there are too many.
    """
    kind_P = random.permutation(np.repeat(np.arange(len(count_K)), count_K))
    kind_P = kind_P[np.lexsort([-sessions_K[kind_P], np.arange(len(kind_P)) // _SORTED_TOGETHER])]
    room: list[list[int]] = []  # open rows, oldest first: [session slots left, item slots left, row]
    row_P: list[int] = []
    for sessions, items in zip(sessions_K[kind_P].tolist(), items_K[kind_P].tolist(), strict=True):
        for row in room:
            if sessions <= row[0] and items <= row[1]:
                break
        else:
            row = [*slots, room[-1][2] + 1 if room else 0]
            room.append(row)
            if len(room) > _OPEN_ROWS:
                del room[0]
        row[0] -= sessions
        row[1] -= items
        row_P.append(row[2])
    return kind_P[np.argsort(row_P, kind="stable")], np.bincount(np.array(row_P, np.int64))
