"""Contract 2: users' histories packed into batches of fixed shape, by Grain, resumable at every batch.

Letters: G shards (one a device on the `data` axis), R rows a shard, L session slots a row, T item slots a shard.
A user's history is cut into windows that fit a row; Grain packs windows into rows first-fit; the items of a shard's
rows then move together, so that padding stands only at the end. The order of rows does not depend on G: the same
global batch lies on one device or on eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Int8, Int32

from sessionrec_jax.config import Config
from sessionrec_jax.data.catalogue import Catalogue, from_counts
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.errors import InputError

IGNORED, CLICKED, CONTEXT = 0, 1, 2  # feedback codes of contract 2; CONTEXT and above are input only
TRAIN, VALIDATION, TEST = 0, 1, 2  # session roles
_PACKING_BINS = 16  # open rows of the first-fit packer: wastes 1-3 % of slots (LOG.md)


@dataclass(frozen=True)
class Shape:
    """Static shape of a packed batch."""

    shards: int
    rows: int
    """Rows of one shard."""
    sessions_per_row: int
    items_per_row: int

    @property
    def sessions(self) -> int:
        """Session slots of one shard, and the segment id of padding items."""
        return self.rows * self.sessions_per_row


def shape_of(config: Config, shards: int) -> Shape:
    """Raises InputError where the rows cannot be spread evenly over the devices."""
    if config.data.rows % shards:
        raise InputError(
            f"--data.rows {config.data.rows} does not spread over {shards} devices; "
            f"use a multiple such as {-(-config.data.rows // shards) * shards}, or --mesh.data {_largest_divisor(config.data.rows, shards)}"
        )
    return Shape(shards, config.data.rows // shards, config.data.sessions_per_row, config.data.items_per_row)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(limit, 0, -1) if number % d == 0)


# --- windows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Consecutive sessions [first, last) of a user; those from `first_target` on with the wanted role are scored."""

    log: FlatLog
    role: int
    first_W: np.ndarray
    """Global session index, as are the next two."""
    last_W: np.ndarray
    first_target_W: np.ndarray

    def __len__(self) -> int:
        return len(self.first_W)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        log, first, last = self.log, self.first_W[index], self.last_W[index]
        items = slice(log.session_item_offsets_S1[first], log.session_item_offsets_S1[last])
        is_target = log.session_role_S[first:last] == self.role
        is_target[: self.first_target_W[index] - first] = False
        return {
            "item": log.item_N[items],
            "feedback": log.feedback_N[items],
            "session_items": log.session_items_S[first:last],
            "seconds": (log.session_seconds_S[first:last] - log.session_seconds_S[first]).astype(np.int32),
            "target": is_target,
        }


def windows(log: FlatLog, users: np.ndarray, role: int, sessions: int, items: int) -> Windows:
    """Cuts the histories of `users` so that every session of `role` with a predecessor is scored exactly once.

    A window holds at most `sessions` sessions and `items` items, and a scored session sees at least half a window of
    history where there is one. Sessions of a later role are never in it. Raises InputError where two neighbouring
    sessions do not fit a row.
    """
    begin_U = log.user_session_offsets_U1[users]
    last_U = log.user_session_offsets_U1[users + 1]
    end_U = begin_U + _before(log, begin_U, last_U, role + 1)
    target_U = np.maximum(begin_U + _before(log, begin_U, last_U, role), begin_U + 1)
    offsets = log.session_item_offsets_S1
    fits_U = (end_U - begin_U <= sessions) & (offsets[end_U] - offsets[begin_U] <= items)
    cut_UX = [np.stack([begin_U, end_U, target_U], axis=1)[fits_U & (target_U < end_U)]]
    long_U = np.flatnonzero(~fits_U)
    cut_UX += [_cut(offsets, begin_U[u], end_U[u], target_U[u], sessions, items) for u in long_U]
    user_W = np.concatenate(
        [np.flatnonzero(fits_U & (target_U < end_U)), np.repeat(long_U, [len(x) for x in cut_UX[1:]])]
    )
    first_W, last_W, first_target_W = np.concatenate(cut_UX)[np.argsort(user_W, kind="stable")].T
    return Windows(log, role, first_W, last_W, first_target_W)


def _before(log: FlatLog, begin_U: np.ndarray, end_U: np.ndarray, role: int) -> np.ndarray:
    """How many of each user's sessions have a role below `role`; they come first, for roles never decrease."""
    below_S1 = np.append(0, np.cumsum(log.session_role_S < role))
    return below_S1[end_U] - below_S1[begin_U]


def _cut(offsets: np.ndarray, begin: int, end: int, target: int, sessions: int, items: int) -> np.ndarray:
    """Windows [first, last) of one history that is too long for a row, each with its first target."""
    cut: list[tuple[int, int, int]] = []
    while target < end:
        if offsets[target + 1] - offsets[target - 1] > items:
            raise InputError(
                f"two neighbouring sessions of {offsets[target + 1] - offsets[target - 1]} exposures do not fit a row of "
                f"{items} item slots; raise --data.items-per-row, or prepare the log with a smaller --max-session-items"
            )
        first = max(begin, target - sessions // 2)
        while offsets[target + 1] - offsets[first] > items:
            first += 1
        last = target + 1
        while last < end and last - first < sessions and offsets[last + 1] - offsets[first] <= items:
            last += 1
        while first > begin and last - first < sessions and offsets[last] - offsets[first - 1] <= items:
            first -= 1
        cut.append((first, last, target))
        target = last
    return np.array(cut, np.int64).reshape(-1, 3)


# --- batches -----------------------------------------------------------------------------------------------------------


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

    @property
    def target_sessions(self) -> int:
        return int(self.target_GRL.sum())

    @property
    def waste(self) -> tuple[float, float]:
        """Shares of item slots and of session slots that are padding."""
        return float(np.mean(self.item_GT == 0)), float(np.mean(self.user_of_session_GRL == 0))


def _to_batch(rows: dict[str, np.ndarray], shape: Shape) -> Batch:
    shards, slots = shape.shards, shape.sessions
    capacity = shape.rows * shape.items_per_row
    packed = {name: _fill_rows(rows[name], shards * shape.rows) for name in rows}
    session_items_GS = packed["session_items"].reshape(shards, slots)
    real_GT = packed["item_segment_ids"].reshape(shards, capacity) > 0
    item_GT = np.zeros((shards, capacity), np.int32)
    feedback_GT = np.zeros((shards, capacity), np.int8)
    session_GT = np.full((shards, capacity), slots, np.int32)
    for shard in range(shards):
        count = int(real_GT[shard].sum())
        item_GT[shard, :count] = packed["item"].reshape(shards, capacity)[shard][real_GT[shard]]
        feedback_GT[shard, :count] = packed["feedback"].reshape(shards, capacity)[shard][real_GT[shard]]
        session_GT[shard, :count] = np.repeat(np.arange(slots), session_items_GS[shard])
    in_rows = (shards, shape.rows, shape.sessions_per_row)
    return Batch(
        item_GT=item_GT,
        feedback_GT=feedback_GT,
        session_of_item_GT=session_GT,
        user_of_session_GRL=packed["session_items_segment_ids"].astype(np.int32).reshape(in_rows),
        position_GRL=packed["session_items_positions"].astype(np.int32).reshape(in_rows),
        seconds_GRL=packed["seconds"].astype(np.int32).reshape(in_rows),
        target_GRL=packed["target"].astype(bool).reshape(in_rows),
    )


def _fill_rows(x_RX: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x_RX, ((0, rows - len(x_RX)), (0, 0)))  # only the last batch of a finite pass is short


def _packed(dataset: grain.IterDataset, shape: Shape, *, drop_remainder: bool) -> grain.IterDataset:
    per_row = {"item": shape.items_per_row, "feedback": shape.items_per_row} | dict.fromkeys(
        ("session_items", "seconds", "target"), shape.sessions_per_row
    )
    rows = grain.experimental.FirstFitPackIterDataset(dataset, length_struct=per_row, num_packing_bins=_PACKING_BINS)
    return rows.batch(shape.shards * shape.rows, drop_remainder=drop_remainder)


_READ_IN_THIS_THREAD = grain.ReadOptions(num_threads=0)  # threads made reading small records 3-9 times slower


class Batches:
    """An iterator of Batch with a state that JSON holds: `get_state`, `set_state`. Nothing is read ahead."""

    def __init__(self, dataset: grain.IterDataset, shape: Shape, cut: Windows):
        self._rows = iter(dataset)
        self._shape = shape
        offsets = cut.log.session_item_offsets_S1
        self.target_sessions_per_epoch = int((cut.last_W - cut.first_target_W).sum())
        self.sessions_per_epoch = int((cut.last_W - cut.first_W).sum())
        self.items_per_epoch = int((offsets[cut.last_W] - offsets[cut.first_W]).sum())

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return _to_batch(next(self._rows), self._shape)

    def get_state(self) -> dict[str, Any]:
        return self._rows.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._rows.set_state(state)


def train_batches(config: Config, prepared: Prepared, shape: Shape) -> Batches:
    """Training windows, shuffled anew each epoch, without end."""
    log = prepared.arrays()
    cut = windows(log, train_users(config, prepared), TRAIN, shape.sessions_per_row, shape.items_per_row)
    if not len(cut):
        raise InputError(
            f"{prepared.path}: no training user has two sessions, so there is no next session to learn from"
        )
    # Grain shuffles epoch e with seed + e; a hashed seed keeps the epochs of neighbouring seeds apart.
    seed = int(np.random.SeedSequence([config.train.seed, 0xDA7A]).generate_state(1)[0])
    dataset = grain.MapDataset.source(cut).shuffle(seed=seed).repeat()
    return Batches(_packed(dataset.to_iter_dataset(_READ_IN_THIS_THREAD), shape, drop_remainder=True), shape, cut)


def eval_batches(config: Config, prepared: Prepared, shape: Shape, role: int) -> Batches:
    """One pass over the held-out sessions of `role`, in the log's order; the last batch is filled up with padding."""
    log = prepared.arrays()
    users = eval_users(config, prepared, role)
    cut = windows(log, users, role, shape.sessions_per_row, shape.items_per_row)
    if not len(cut):
        raise InputError(f"{prepared.path}: the split holds no session of role {role} with a session before it")
    dataset = grain.MapDataset.source(cut).to_iter_dataset(_READ_IN_THIS_THREAD)
    return Batches(_packed(dataset, shape, drop_remainder=False), shape, cut)


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
    side_values = {column["name"]: column["values"] for column in prepared.manifest["side_columns"]}
    return from_counts(clicks_V, exposures_V, prepared.side, side_values)
