"""Contract 2: users' histories packed into batches of fixed shape, read through Grain, resumable at every batch.

Windows (windows.py) are packed into rows (packing.py). A slot is a place in a row: a session slot holds a session or
padding, an item slot an exposure or padding. The items of a shard's rows follow each other, so padding is at the end.
The order of rows does not depend on G: one device and eight devices see the same global batch.

Letters: G shards (each device has one a microbatch), R rows a shard, L session slots a row, T item slots a shard,
W windows, P packed windows, S sessions, N exposures, X sessions of the packed windows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float32, Int8, Int32

from sessionrec_jax.config.settings import AUTO, Config
from sessionrec_jax.data import item_level
from sessionrec_jax.data.catalogue import ID_ROW, Catalogue, from_counts
from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.columns import item_columns
from sessionrec_jax.data.counts import item_counts
from sessionrec_jax.data.packing import PACKING, PackedRows, RowPlan, plan_rows
from sessionrec_jax.data.ragged import count_up, ranges
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.windows import Windows, make_windows, roomy
from sessionrec_jax.errors import InputError

_PACKING = "packing"
"""The key of PACKING in the state of a stream."""


@dataclass(frozen=True)
class BatchShape:
    """The static shape of one packed microbatch, over all devices."""

    shards: int
    rows: int
    """Rows of one shard."""
    sessions_per_row: int
    items_per_row: int
    local_shards: tuple[int, ...] | None = None
    """Shards that this process packs, ascending; they are the G of its batches. None: all."""

    @property
    def sessions(self) -> int:
        """Session slots of one shard. Padding items have this number as their session."""
        return self.rows * self.sessions_per_row


def shape_of(config: Config, shards: int, local_shards: tuple[int, ...] | None = None) -> BatchShape:
    """Returns the shape of one microbatch. Raises InputError if the rows do not divide by microbatches and devices."""
    rows, microbatches = config.data.rows, config.train.microbatches
    if rows % (shards * microbatches):
        fits = -(-rows // (shards * microbatches)) * shards * microbatches
        over, other = f"{shards} devices", f"--mesh data={_largest_divisor(rows, shards)}"
        if microbatches > 1:
            over, other = f"{over} in {microbatches} microbatches", "other --train.microbatches"
        came = f"--data.rows {rows}{' (chosen automatically, from the log)' * config.data.rows_auto}"
        raise InputError(f"{came} does not spread over {over}; use a multiple such as {fits}, or {other}")
    if local_shards is not None and len(local_shards) == shards:
        local_shards = None
    return BatchShape(
        shards=shards,
        rows=rows // (shards * microbatches),
        sessions_per_row=config.data.sessions_per_row,
        items_per_row=config.data.items_per_row,
        local_shards=local_shards,
    )


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(limit, 0, -1) if number % d == 0)


class BatchCounts(NamedTuple):
    """The numbers of a batch that a run adds up. History is included in sessions and items."""

    target_sessions: int
    sessions: int
    items: int
    session_slots: int
    item_slots: int


@dataclass(frozen=True)
class Batch:
    """One packed batch on the host. An item of a target session is predicted from slot `session_of_item - 1`."""

    item_GT: Int32[np.ndarray, "G T"]
    """Dense item id; 0 = padding."""
    feedback_GT: Int8[np.ndarray, "G T"]
    session_of_item_GT: Int32[np.ndarray, "G T"]
    """Session slot in [0, R*L), non-decreasing; R*L = padding."""
    user_of_session_GRL: Int32[np.ndarray, "G R L"]
    """Packed user within the row, from 1; 0 = padding."""
    position_GRL: Int32[np.ndarray, "G R L"]
    """Number of the session within the user's window, from 0."""
    seconds_GRL: Int32[np.ndarray, "G R L"]
    """Seconds from the start of the window's first session to the start of this one."""
    target_GRL: Bool[np.ndarray, "G R L"]
    """The session's items are scored; never true at position 0."""
    log_user_GRL: Int32[np.ndarray, "G R L"]
    """Index of the user in the stored log; 0 = padding. This and the next array stay on the host."""
    log_session_GRL: Int32[np.ndarray, "G R L"]
    """Index of the session in the stored log; 0 = padding."""
    context_GRL: dict[str, Int32[np.ndarray, "G R L"]] = field(default_factory=dict)
    """Codes of each column of session context; 0 = missing or padding."""
    click_probability_GT: Float32[np.ndarray, "G T"] | None = None
    """Soft labels; 0 = context or padding. None: the clicks are the labels."""

    def counts(self, counted_G: Bool[np.ndarray, " G"] | None = None) -> BatchCounts:
        """Counts the shards where `counted_G` is true; None: all."""
        part = slice(None) if counted_G is None else counted_G
        user_GRL, item_GT = self.user_of_session_GRL[part], self.item_GT[part]
        return BatchCounts(
            target_sessions=int(self.target_GRL[part].sum()),
            sessions=int(np.count_nonzero(user_GRL)),
            items=int(np.count_nonzero(item_GT)),
            session_slots=user_GRL.size,
            item_slots=item_GT.size,
        )


def _shard(windows: Windows, window_P: np.ndarray, row_P: np.ndarray, shape: BatchShape) -> dict[str, Any]:
    """Makes the arrays of one shard from its windows and the row of each. Rows count from 0 and never decrease."""
    log, slots, capacity = windows.log, shape.sessions, shape.rows * shape.items_per_row
    first_P, last_P = windows.first_W[window_P], windows.last_W[window_P]
    length_P = last_P - first_P
    session_X = ranges(first_P, last_P)
    place_X = count_up(length_P)
    row_starts = np.searchsorted(row_P, np.arange(shape.rows))
    packed_P = np.arange(len(row_P)) - row_starts[row_P]  # number of the window in its row
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
    label_N = log.click_probability_of(item_N)
    has_role_X = log.session_role_S[session_X] == windows.role
    is_target_X = has_role_X & (session_X >= np.repeat(windows.first_target_W[window_P], length_P))
    seconds_X = log.session_seconds_S[session_X] - np.repeat(log.session_seconds_S[first_P], length_P)
    return {
        "item_GT": by_item(log.item_N[item_N], 0, np.int32),
        "feedback_GT": by_item(log.feedback_N[item_N], 0, np.int8),
        "session_of_item_GT": by_item(np.repeat(slot_X, log.session_items_S[session_X]), slots, np.int32),
        "user_of_session_GRL": by_slot(np.repeat(packed_P + 1, length_P), np.int32),
        "position_GRL": by_slot(place_X, np.int32),
        "seconds_GRL": by_slot(seconds_X, np.int32),
        "target_GRL": by_slot(is_target_X, bool),
        "log_user_GRL": by_slot(np.repeat(windows.user_W[window_P], length_P), np.int32),
        "log_session_GRL": by_slot(windows.stored_session(session_X), np.int32),
        "context_GRL": {name: by_slot(code_X, np.int32) for name, code_X in log.context_of(session_X).items()},
        "click_probability_GT": None if label_N is None else by_item(label_N, 0, np.float32),
    }


def _stacked(parts: list[Any]) -> Any:
    """Stacks arrays, or dicts of arrays by key; None stays None."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {name: _stacked([part[name] for part in parts]) for name in parts[0]}
    return np.stack(parts)


@dataclass(frozen=True)
class Packer:
    """Random access to the batches of all epochs.

    Batch i depends on (seed, i) alone: not on the number of devices, nor on the batches read before.
    """

    windows: Windows
    shape: BatchShape
    epochs: float
    seed: int | None
    """None: one pass in the log's order, for evaluation. A number: each epoch has its own random order."""

    def __len__(self) -> int:
        """Returns the number of batches of all epochs: rounded up in an evaluation, else to the nearest."""
        batches = self.epochs * len(self.plan) / (self.shape.shards * self.shape.rows)
        return math.ceil(batches) if self.seed is None else max(1, round(batches))

    def __getitem__(self, index: int) -> Batch:
        rows = self.shape.shards * self.shape.rows
        window_P, row_P = self._rows(index * rows, (index + 1) * rows)
        bounds = np.searchsorted(row_P, np.arange(self.shape.shards + 1) * self.shape.rows)
        shards = [
            _shard(self.windows, window_P[a:b], row_P[a:b] - k * self.shape.rows, self.shape)
            for k, (a, b) in enumerate(itertools.pairwise(bounds))
            if self.shape.local_shards is None or k in self.shape.local_shards
        ]
        return Batch(**_stacked(shards))

    def _rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the windows of rows first, ..., last - 1 of the stream of all epochs, and the row of each, from 0."""
        windows, numbers, of_epoch = [], [], len(self.plan)
        if self.seed is None:
            last = min(last, of_epoch)  # in an evaluation the rest of the last batch is padding
        for epoch in range(first // of_epoch, -(-last // of_epoch)):
            rows, start = self.epoch(epoch), epoch * of_epoch
            begin, end = max(first - start, 0), min(last - start, of_epoch)
            windows.append(rows.window_P[rows.offset_R1[begin] : rows.offset_R1[end]])
            row_R = np.arange(begin, end) + start - first
            numbers.append(np.repeat(row_R, np.diff(rows.offset_R1[begin : end + 1])))
        return np.concatenate(windows), np.concatenate(numbers)

    @property
    def plan(self) -> RowPlan:
        return plan_rows(self.windows, self.shape.sessions_per_row, self.shape.items_per_row)

    @functools.cached_property
    def epoch(self) -> Callable[[int], PackedRows]:
        """A function that returns the rows of an epoch and keeps those of the last two: a batch may be from both."""
        return functools.lru_cache(maxsize=2)(functools.partial(self.plan.epoch, self.seed))


class Batches:
    """An iterator over the batches of a packer. Its state can be written as JSON: `get_state`, `set_state`."""

    def __init__(self, packer: Packer):
        self.packer = packer
        # One thread packs the next batch while the devices work; the state counts only the batches handed out.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._batches = iter(grain.MapDataset.source(packer).to_iter_dataset(options))

    def __len__(self) -> int:
        return len(self.packer)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return {**self._batches.get_state(), _PACKING: PACKING}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises InputError if the state is one of another packing, whose batches are others."""
        if state.get(_PACKING) != PACKING:
            raise InputError(
                "another release of this program wrote the checkpoint and packed the log into other batches, so the "
                "run cannot go on from it; finish it with that release, or start it again in a new run folder"
            )
        self._batches.set_state({name: value for name, value in state.items() if name != _PACKING})


def train_windows(config: Config, prepared: Prepared) -> Windows:
    """Splits the training histories into windows, in the slots of the run's paradigm. The last windows are kept, since
    a run needs them to fill in its settings and to train."""
    data, labels = config.data, config.loss.rank_labels
    return _train_windows(
        prepared,
        config.paradigm,
        data.users,
        sessions=data.slots,
        items=data.items_per_row,
        soft=labels == "probability",
    )


@functools.lru_cache(maxsize=1)
def _train_windows(
    prepared: Prepared, paradigm: item_level.Paradigm, most_users: int, *, sessions: int, items: int, soft: bool
) -> Windows:
    view = item_level.slots(prepared.arrays(soft_labels=soft), paradigm)
    users = _train_users(prepared, most_users)
    windows = make_windows(view.log, users, TRAIN, sessions=sessions, items=items)
    if not len(windows):
        raise InputError(
            f"{prepared.path}: no training user has two {item_level.SLOT[paradigm]}s, so there is no next "
            f"{item_level.SLOT[paradigm]} to learn from"
        )
    return view.to_stored(windows)


def train_batches(config: Config, prepared: Prepared, shape: BatchShape) -> Batches:
    """Iterates over the batches of `train_packer`."""
    return Batches(train_packer(config, prepared, shape))


def train_packer(config: Config, prepared: Prepared, shape: BatchShape) -> Packer:
    """Packs `train.epochs` passes over the training windows, each in its own order; len() is the number of steps.

    A batch has `train.microbatches` times the shards of `shape`. The microbatches of a device follow each other.
    """
    parts, local = config.train.microbatches, shape.local_shards
    if local is not None:
        local = tuple(shard * parts + part for shard in local for part in range(parts))
    whole = dataclasses.replace(shape, shards=shape.shards * parts, local_shards=local)
    return Packer(train_windows(config, prepared), whole, config.train.epochs, config.train.seed)


def eval_batches(config: Config, prepared: Prepared, shape: BatchShape, role: int) -> Batches:
    """Makes one pass over the held-out sessions of `role`, in the log's order; padding fills the last batch.

    An item-level paradigm has as many item slots as its windows need, not those of `shape`.
    """
    log, data = prepared.arrays(), config.data
    users = eval_users(config, prepared, role)
    if config.paradigm == "nspp":
        windows = make_windows(log, users, role, sessions=data.slots, items=data.items_per_row)
    else:
        view = item_level.targets(log, users, role, config.paradigm, history=data.slots - 1)
        most = data.slots + int(log.session_items_S.max(initial=0))
        windows = make_windows(view.log, np.arange(view.log.users), role, sessions=data.slots, items=most)
        windows = view.to_stored(windows)
        items_per_slot = len(view.log.item_N) / max(1, len(view.log.session_items_S))
        items = max(roomy(data.sessions_per_row * items_per_slot), int(windows.items_W.max(initial=1)))
        shape = dataclasses.replace(shape, items_per_row=items)
    if not len(windows):
        raise InputError(f"{prepared.path}: the split holds no session of role {role} with a session before it")
    return Batches(Packer(windows, shape, 1.0, None))


def train_users(config: Config, prepared: Prepared) -> np.ndarray:
    """Returns the first `data.users` training users in the stored random order, so that subsets are nested."""
    return _train_users(prepared, config.data.users)


def _train_users(prepared: Prepared, most_users: int) -> np.ndarray:
    users = prepared.users_of(TRAIN)
    if most_users > len(users):
        raise InputError(f"--data.users {most_users}: {prepared.path} has {len(users)} training users")
    return users[: most_users or None]


def eval_users(config: Config, prepared: Prepared, role: int) -> np.ndarray:
    """Returns the users whose sessions of `role` are scored; all where `data.eval_users` has no number yet."""
    limit = config.data.eval_users
    return prepared.users_of(role)[: None if limit in (0, AUTO) else limit]


def counted_users(config: Config, prepared: Prepared) -> np.ndarray:
    """Returns the users whose training sessions popularity is counted in: those that the run trains on, and between
    them in the stored order those with a single training session, which has none before it to be predicted from."""
    last = train_users(config, prepared)[-1:] if config.data.users else [prepared.users - 1]
    return np.arange(last[0] + 1) if len(last) else np.zeros(0, np.int64)


def train_catalogue(config: Config, prepared: Prepared) -> Catalogue:
    """Counts popularity in the training sessions of `counted_users`, and in no others."""
    clicks_V, exposures_V = item_counts(prepared.arrays(), counted_users(config, prepared), len(prepared.clicks_V))
    columns = item_columns(config, prepared)
    side = {name: prepared.side[name] for name in columns.side_values}
    side |= {name: prepared.vectors[name] for name in columns.vector_widths}
    if prepared.id_row_V is not None:
        side[ID_ROW] = prepared.id_row_V[:, None]
    return from_counts(clicks_V, exposures_V, side, columns.side_values, columns.vector_widths)
