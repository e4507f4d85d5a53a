"""Contract 2: users' histories packed into batches of fixed shape, read through Grain, resumable at every batch.

Letters: G shards (one a device that the batch is shared out over, or one a part of its step), R rows a shard, L session
slots a row, T item slots a shard.
A user's history is cut into windows that fit a row; windows are packed into rows first-fit; the items of a shard's
rows stand together, so that padding stands only at the end. The order of rows does not depend on G: the same
global batch lies on one device or on eight.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data import item_level
from sessionrec_jax.data.catalogue import ID_ROW, Catalogue, from_counts
from sessionrec_jax.data.codes import CLICKED, TRAIN
from sessionrec_jax.data.columns import side_columns
from sessionrec_jax.data.ragged import ranges
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.data.windows import Windows, windows
from sessionrec_jax.errors import InputError

_OPEN_ROWS = 16  # of the first-fit packer: wastes 1-3 % of slots (LOG.md)
_SHUFFLE_STREAM = 0xDA7A


@dataclass(frozen=True)
class Shape:
    """Static shape of what the devices hold of a packed batch at once."""

    shards: int
    rows: int
    """Rows of one shard."""
    sessions_per_row: int
    items_per_row: int
    held: tuple[int, ...] | None = None
    """Shards that this process makes, ascending; they are the G of its batches. None: all."""

    @property
    def sessions(self) -> int:
        """Session slots of one shard, and the segment id of padding items."""
        return self.rows * self.sessions_per_row


def shape_of(config: Config, shards: int, held: tuple[int, ...] | None = None) -> Shape:
    """The shape of one microbatch. Raises InputError where the rows do not spread evenly over microbatches and
    devices."""
    rows, parts = config.data.rows, config.train.microbatches
    if rows % (shards * parts):
        fits = -(-rows // (shards * parts)) * shards * parts
        over, other = f"{shards} devices", f"--mesh data={_largest_divisor(rows, shards)}"
        if parts > 1:
            over, other = f"{over} in {parts} parts", "other --train.microbatches"
        raise InputError(f"--data.rows {rows} does not spread over {over}; use a multiple such as {fits}, or {other}")
    held = None if held is not None and len(held) == shards else held
    return Shape(shards, rows // (shards * parts), config.data.sessions_per_row, config.data.items_per_row, held)


def items_per_row(config: Config, log: FlatLog, items_per_session_mean: float) -> int:
    """What `data.items_per_row` is where it is not given."""
    slots = config.data.sessions_per_row
    if config.paradigm != "nspp":
        return slots  # one item each
    is_first_S = np.zeros(len(log.session_items_S) + 1, bool)
    is_first_S[log.user_session_offsets_U1] = True
    neighbours_S = (log.session_items_S[1:] + log.session_items_S[:-1])[~is_first_S[1:-1]]  # they must fit together
    fitting = math.ceil(slots * items_per_session_mean * 1.06 / 8) * 8
    return max(fitting, int(neighbours_S.max(initial=0)))


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(limit, 0, -1) if number % d == 0)


@dataclass(frozen=True)
class Batch:
    """One packed batch on the host. For item i the query is slot `session_of_item[i] - 1` where `target` holds."""

    item_GT: Int32[np.ndarray, "G T"]
    """Dense item id; 0 = padding."""
    feedback_GT: Int8[np.ndarray, "G T"]
    session_of_item_GT: Int32[np.ndarray, "G T"]
    """Session slot in [0, R*L), non-decreasing; R*L = padding."""
    user_of_session_GRL: Int32[np.ndarray, "G R L"]
    """Packed user within the row, from 1; 0 = padding."""
    position_GRL: Int32[np.ndarray, "G R L"]
    """Place within the user's window."""
    seconds_GRL: Int32[np.ndarray, "G R L"]
    """Start of the session after the start of the window's first."""
    target_GRL: Bool[np.ndarray, "G R L"]
    """The session's items are scored; never true at position 0."""
    log_user_GRL: Int32[np.ndarray, "G R L"]
    """Index of the user in the log's order; 0 where padding, as is the next. Neither goes to the devices."""
    log_session_GRL: Int32[np.ndarray, "G R L"]
    """Index of the session in the log."""
    context_GRL: dict[str, Int32[np.ndarray, "G R L"]] = field(default_factory=dict)
    """Codes of each column of session context; 0 = missing, or padding."""

    @property
    def target_sessions(self) -> int:
        return int(self.target_GRL.sum())

    def counts(self, counted_G: Bool[np.ndarray, " G"] | None = None) -> Int64[np.ndarray, " 5"]:
        """Of the shards `counted_G`, or all: target slots, sessions, items, and the slots of the last two."""
        part = slice(None) if counted_G is None else counted_G
        user_GRL, item_GT = self.user_of_session_GRL[part], self.item_GT[part]
        sessions, items = np.count_nonzero(user_GRL), np.count_nonzero(item_GT)
        return np.array([self.target_GRL[part].sum(), sessions, items, user_GRL.size, item_GT.size])

    @property
    def waste(self) -> tuple[float, float]:
        """Shares of item slots and of session slots that are padding."""
        return float(np.mean(self.item_GT == 0)), float(np.mean(self.user_of_session_GRL == 0))


@dataclass(frozen=True)
class Rows:
    """Windows packed into rows: row r holds the windows [offset[r], offset[r + 1]) of `window_P`, in that order."""

    window_P: np.ndarray
    offset_R1: np.ndarray

    def __len__(self) -> int:
        return len(self.offset_R1) - 1


def pack(cut: Windows, order_W: np.ndarray, shape: Shape) -> Rows:
    """First-fit: each window, in the given order, goes into the oldest of the open rows that has room for its sessions
    and its items; where none has, the oldest is closed and a new one opened."""
    sessions = (cut.last_W - cut.first_W)[order_W].tolist()
    items = cut.items_W[order_W].tolist()
    room: list[list[int]] = []  # open rows, oldest first: [session slots left, item slots left, row]
    row_P = []
    for s, i in zip(sessions, items, strict=True):
        for row in room:
            if s <= row[0] and i <= row[1]:
                break
        else:
            row = [shape.sessions_per_row, shape.items_per_row, room[-1][2] + 1 if room else 0]
            room.append(row)
            if len(room) > _OPEN_ROWS:
                del room[0]
        row[0] -= s
        row[1] -= i
        row_P.append(row[2])
    row_P = np.array(row_P, np.int64)
    count = room[-1][2] + 1 if room else 0
    return Rows(order_W[np.argsort(row_P, kind="stable")], np.append(0, np.cumsum(np.bincount(row_P, minlength=count))))


def _shard(cut: Windows, window_P: np.ndarray, row_P: np.ndarray, shape: Shape) -> dict[str, Any]:
    """The arrays of one shard from its windows and the row of each, rows counted from 0 and not decreasing."""
    log, slots, capacity = cut.log, shape.sessions, shape.rows * shape.items_per_row
    first_P, last_P = cut.first_W[window_P], cut.last_W[window_P]
    length_P = last_P - first_P
    session_X = ranges(first_P, last_P)
    place_X = ranges(np.zeros_like(length_P), length_P)
    row_starts = np.searchsorted(row_P, np.arange(shape.rows))
    packed_P = np.arange(len(row_P)) - row_starts[row_P]  # place of the window in its row
    sessions_before_P = np.cumsum(length_P) - length_P
    row_base_P = np.append(sessions_before_P, 0)[row_starts[row_P]]
    slot_P = row_P * shape.sessions_per_row + sessions_before_P - row_base_P
    slot_X = np.repeat(slot_P, length_P) + place_X

    def by_slot(values_X: np.ndarray, dtype: type) -> np.ndarray:
        filled_S = np.zeros(slots, dtype)
        filled_S[slot_X] = values_X
        return filled_S.reshape(shape.rows, shape.sessions_per_row)

    def by_item(values_N: np.ndarray, padding: int, dtype: type) -> np.ndarray:
        return np.concatenate([values_N, np.full(capacity - len(values_N), padding)]).astype(dtype)

    offsets = log.session_item_offsets_S1
    item_N = ranges(offsets[first_P], offsets[last_P])
    is_target_X = (log.session_role_S[session_X] == cut.role) & (
        session_X >= np.repeat(cut.first_target_W[window_P], length_P)
    )
    seconds_X = log.session_seconds_S[session_X] - np.repeat(log.session_seconds_S[first_P], length_P)
    return {
        "item_GT": by_item(log.item_N[item_N], 0, np.int32),
        "feedback_GT": by_item(log.feedback_N[item_N], 0, np.int8),
        "session_of_item_GT": by_item(np.repeat(slot_X, log.session_items_S[session_X]), slots, np.int32),
        "user_of_session_GRL": by_slot(np.repeat(packed_P + 1, length_P), np.int32),
        "position_GRL": by_slot(place_X, np.int32),
        "seconds_GRL": by_slot(seconds_X, np.int32),
        "target_GRL": by_slot(is_target_X, bool),
        "log_user_GRL": by_slot(np.repeat(cut.user_W[window_P], length_P), np.int32),
        "log_session_GRL": by_slot(cut.session_S[session_X], np.int32),
        "context_GRL": {name: by_slot(code_X, np.int32) for name, code_X in log.context_of(session_X).items()},
    }


def _stacked(parts: list[Any]) -> Any:
    """Of arrays, or of dicts of such."""
    if isinstance(parts[0], dict):
        return {name: _stacked([part[name] for part in parts]) for name in parts[0]}
    return np.stack(parts)


@dataclass(frozen=True)
class Packer:
    """Random access to the batches of a pass over all windows, epoch after epoch: batch i depends on (seed, i) alone,
    not on the number of devices or on what was read before."""

    cut: Windows
    shape: Shape
    epochs: float
    seed: int | None
    """None: one pass in the log's order, for evaluation. Otherwise each epoch has an order of its own."""

    def __len__(self) -> int:
        """Batches of all epochs: of an evaluation so many that no row is left out, otherwise the nearest number."""
        epoch, rest = divmod(self.epochs, 1)
        rows = self._first_row(int(epoch)) + (rest * len(self.epoch(int(epoch))) if rest else 0)
        batches = rows / (self.shape.shards * self.shape.rows)
        return math.ceil(batches) if self.seed is None else max(1, round(batches))

    def __getitem__(self, index: int) -> Batch:
        rows = self.shape.shards * self.shape.rows
        window_P, row_P = self._rows(index * rows, (index + 1) * rows)
        bounds = np.searchsorted(row_P, np.arange(self.shape.shards + 1) * self.shape.rows)
        shards = [
            _shard(self.cut, window_P[a:b], row_P[a:b] - k * self.shape.rows, self.shape)
            for k, (a, b) in enumerate(itertools.pairwise(bounds))
            if self.shape.held is None or k in self.shape.held
        ]
        return Batch(**_stacked(shards))

    def _rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows of the rows first, ..., last - 1 of the stream of all epochs, and each one's row from `first`."""
        windows, numbers = [], []
        for epoch in itertools.count():
            start, stop = self._first_row(epoch), self._first_row(epoch + 1)
            begin, end = max(first - start, 0), min(last, stop) - start
            if begin < end:
                rows = self.epoch(epoch)
                windows.append(rows.window_P[rows.offset_R1[begin] : rows.offset_R1[end]])
                numbers.append(
                    np.repeat(np.arange(begin, end) + start - first, np.diff(rows.offset_R1[begin : end + 1]))
                )
            if last <= stop or self.seed is None:  # of an evaluation the rest of the last batch is padding
                break
        return np.concatenate(windows), np.concatenate(numbers)

    def _first_row(self, epoch: int) -> int:
        """Rows of all epochs before this one."""
        while len(self._first_rows) <= epoch:
            self._first_rows.append(self._first_rows[-1] + len(self.epoch(len(self._first_rows) - 1)))
        return self._first_rows[epoch]

    @functools.cached_property
    def _first_rows(self) -> list[int]:
        return [0]

    def epoch(self, epoch: int) -> Rows:
        """The rows of one epoch; the last few epochs asked for are remembered."""
        return self._remembered(epoch)

    @functools.cached_property
    def _remembered(self) -> Callable[[int], Rows]:
        return functools.lru_cache(maxsize=4)(functools.partial(_epoch, self.cut, self.shape, self.seed))


def _epoch(cut: Windows, shape: Shape, seed: int | None, epoch: int) -> Rows:
    order_W = np.arange(len(cut))
    if seed is not None:
        np.random.default_rng(np.random.SeedSequence([seed, _SHUFFLE_STREAM, epoch])).shuffle(order_W)
    return pack(cut, order_W, shape)


class Batches:
    """An iterator of Batch with a state that JSON holds: `get_state`, `set_state`."""

    def __init__(self, packer: Packer):
        self.packer = packer
        # One thread packs the next batch while the devices work; the state counts only what was handed out.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._batches = iter(grain.MapDataset.source(packer).to_iter_dataset(options))

    def __len__(self) -> int:
        return len(self.packer)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)


def train_windows(config: Config, prepared: Prepared) -> Windows:
    """The training histories in the slots of the run's paradigm."""
    view, data = item_level.slots(prepared.arrays(), config.paradigm), config.data
    cut = view.told(windows(view.log, train_users(config, prepared), TRAIN, data.slots, data.items_per_row))
    if not len(cut):
        raise InputError(
            f"{prepared.path}: no training user has two {item_level.SLOT[config.paradigm]}s, so there is no next "
            f"{item_level.SLOT[config.paradigm]} to learn from"
        )
    return cut


def train_batches(config: Config, prepared: Prepared, shape: Shape) -> Batches:
    """`train.epochs` passes over the training windows, each in an order of its own: len() is the number of steps."""
    return Batches(train_packer(config, prepared, shape))


def train_packer(config: Config, prepared: Prepared, shape: Shape) -> Packer:
    """Of `train_batches`: a batch is `train.microbatches` times `shape`; the parts of a device stand together."""
    parts = config.train.microbatches
    held = None if shape.held is None else tuple(shard * parts + part for shard in shape.held for part in range(parts))
    whole = dataclasses.replace(shape, shards=shape.shards * parts, held=held)
    return Packer(train_windows(config, prepared), whole, config.train.epochs, config.train.seed)


def eval_batches(config: Config, prepared: Prepared, shape: Shape, role: int) -> Batches:
    """One pass over the held-out sessions of `role`, in the log's order; the last batch is filled up with padding.

    An item-level paradigm has as many item slots as its windows need, not those of `shape`.
    """
    log, data = prepared.arrays(), config.data
    users = eval_users(config, prepared, role)
    if config.paradigm == "nspp":
        cut = windows(log, users, role, data.slots, data.items_per_row)
    else:
        view = item_level.targets(log, users, role, config.paradigm, data.slots - 1)
        most = data.slots + int(log.session_items_S.max(initial=0))
        cut = view.told(windows(view.log, np.arange(view.log.users), role, data.slots, most))
        per_slot = len(view.log.item_N) / max(1, len(view.log.session_items_S))
        fitting = math.ceil(data.sessions_per_row * per_slot * 1.06 / 8) * 8
        shape = dataclasses.replace(shape, items_per_row=max(fitting, int(cut.items_W.max(initial=1))))
    if not len(cut):
        raise InputError(f"{prepared.path}: the split holds no session of role {role} with a session before it")
    return Batches(Packer(cut, shape, 1.0, None))


def train_users(config: Config, prepared: Prepared) -> np.ndarray:
    """The first `data.users` training users of the stored random order: smaller subsets lie inside larger ones."""
    users = prepared.users_of(TRAIN)
    if config.data.users > len(users):
        raise InputError(f"--data.users {config.data.users}: {prepared.path} has {len(users)} training users")
    return users[: config.data.users or None]


def eval_users(config: Config, prepared: Prepared, role: int) -> np.ndarray:
    return prepared.users_of(role)[: config.data.eval_users or None]


def train_catalogue(config: Config, prepared: Prepared) -> Catalogue:
    """Popularity in the training sessions of the users that this run trains on, and no others."""
    log = prepared.arrays()
    is_trained_U = np.zeros(log.users, bool)
    is_trained_U[train_users(config, prepared)] = True
    is_trained_S = np.repeat(is_trained_U, np.diff(log.user_session_offsets_U1)) & (log.session_role_S == TRAIN)
    is_trained_N = np.repeat(is_trained_S, log.session_items_S)
    clicked_N = is_trained_N & (log.feedback_N == CLICKED)
    exposed_N = is_trained_N & (log.feedback_N <= CLICKED)
    ids = len(prepared.clicks_V)
    clicks_V = np.bincount(log.item_N[clicked_N], minlength=ids)
    exposures_V = np.bincount(log.item_N[exposed_N], minlength=ids)
    side_values = side_columns(config, prepared)
    side = {name: prepared.side[name] for name in side_values}
    if prepared.id_row_V is not None:
        side[ID_ROW] = prepared.id_row_V[:, None]
    return from_counts(clicks_V, exposures_V, side, side_values)
