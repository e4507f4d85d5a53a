"""Top-K items of the whole catalogue after a user's last session, told in the publisher's ids.

    run = restore(Path("RUN"))
    for line in recommend(run, read_histories(Path("users.jsonl"), run.prepared), k=50):
        print(json.dumps(line))

Letters: U users, W windows (what the model reads of a history), C chunks of N items, B queries, K recommendations,
D width.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sessionrec_jax.data.batches import CLICKED, CONTEXT, IGNORED, TRAIN, Packer, shape_of
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import Inputs, Params, Side, Spec
from sessionrec_jax.partition import DATA_AXIS, over_data, put_batch, put_replicated
from sessionrec_jax.progress import Bar
from sessionrec_jax.restore import Restored
from sessionrec_jax.scoring import BLOCK, chunk_scores, item_table

_UNNAMED_CONTEXT = "context"  # what preparation calls context without a kind


@dataclass(frozen=True)
class Histories:
    """U users in the order in which they are answered."""

    users: list[Any]
    """As they were given, or the publisher's ids."""
    log: FlatLog
    """Their sessions, oldest first, without empty ones."""
    unknown_items_U: np.ndarray
    """Exposures that were left out, since the catalogue does not hold their item."""


# --- reading -------------------------------------------------------------------------------------------------------


def log_histories(prepared: Prepared, users: int) -> Histories:
    """The whole stored histories of the first `users` users of the log (0: all), held-out sessions among them."""
    if not 0 <= users <= prepared.users:
        raise InputError(
            f"--log-users {users}: {prepared.path} has {prepared.users} users; wanted at most so many, or 0 for all"
        )
    users = users or prepared.users
    log = prepared.arrays()
    log = dataclasses.replace(log, user_session_offsets_U1=log.user_session_offsets_U1[: users + 1])
    ids = pl.read_parquet(prepared.path / "users.parquet", columns=["user_id"])["user_id"]
    return Histories(ids.head(users).to_list(), log, np.zeros(users, np.int64))


def read_histories(path: Path, prepared: Prepared) -> Histories:
    """JSON lines, a user each, sessions oldest first:

        {"user": 7, "sessions": [[{"item": 31, "clicked": true}, {"item": 8, "clicked": false}], ...]}

    `clicked` null is context, of the kind that `feedback` names. Items are told apart as text where the log's ids are
    text or the line's are. Unknown items are counted; a session with no other is left out.
    Raises InputError with the line's number where a line is anything else.
    """
    reader = _Reader(prepared)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    reader.add(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not reader.users:
        raise InputError(f'{path} holds no history; wanted a line {{"user": ..., "sessions": [...]}} for each user')
    return reader.histories()


class _Reader:
    """Collects flat lists of dense ids, line by line."""

    def __init__(self, prepared: Prepared):
        self._dense = {str(item): dense for dense, item in enumerate(prepared.item_ids().to_list(), 1)}
        self._kinds = prepared.feedback_names
        self._item: list[int] = []
        self._feedback: list[int] = []
        self._session_items: list[int] = []
        self._user_sessions: list[int] = []
        self._unknown: list[int] = []
        self.users: list[Any] = []

    def add(self, line: bytes, where: str) -> None:
        try:
            user = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError(f"{where} is no JSON ({error})") from None
        _need(user, {"user", "sessions"}, set(), where)
        if not isinstance(user["sessions"], list) or not all(isinstance(s, list) for s in user["sessions"]):
            raise InputError(f'{where}: wanted "sessions" to be a list of sessions, each a list of exposures')
        sessions, unknown = 0, 0
        for n, session in enumerate(user["sessions"], 1):
            known = 0
            for exposure in session:
                dense, feedback = self._exposure(exposure, f"{where}, session {n}")
                if dense is not None:
                    self._item.append(dense)
                    self._feedback.append(feedback)
                    known += 1
            unknown += len(session) - known
            if known:
                self._session_items.append(known)
                sessions += 1
        self.users.append(user["user"])
        self._user_sessions.append(sessions)
        self._unknown.append(unknown)

    def _exposure(self, exposure: Any, where: str) -> tuple[int | None, int]:
        """Dense id, None where it is unknown, and feedback code."""
        _need(exposure, {"item", "clicked"}, {"feedback"}, where)
        item, clicked, kind = exposure["item"], exposure["clicked"], exposure.get("feedback")
        if not isinstance(item, int | str) or isinstance(item, bool):
            raise InputError(f"{where}: item is {item!r}; wanted a published id, an integer or text")
        if clicked is not None and not isinstance(clicked, bool):
            raise InputError(f"{where}: clicked is {clicked!r}; wanted true, false, or null for context")
        if kind is not None and not isinstance(kind, str):
            raise InputError(f"{where}: feedback is {kind!r}; wanted text, the name of a kind of context")
        return self._dense.get(str(item)), self._code(clicked, kind, where)

    def _code(self, clicked: bool | None, kind: str | None, where: str) -> int:
        if clicked is not None:  # preparation too reads `feedback` of context only
            return CLICKED if clicked else IGNORED
        kind, kinds = kind or _UNNAMED_CONTEXT, self._kinds[CONTEXT:]
        if kind in kinds:
            return CONTEXT + kinds.index(kind)
        if not kinds:
            raise InputError(f"{where}: clicked is null, but the model's log has no context; leave such exposures out")
        raise InputError(f"{where}: the model's log has no feedback {kind!r} for context; {near_miss(kind, kinds)}")

    def histories(self) -> Histories:
        sessions = len(self._session_items)
        log = FlatLog(
            item_N=np.array(self._item, np.int32),
            feedback_N=np.array(self._feedback, np.int8),
            session_items_S=np.array(self._session_items, np.int32),
            session_seconds_S=np.zeros(sessions, np.int64),  # the model reads no time
            session_role_S=np.full(sessions, TRAIN, np.int8),
            user_session_offsets_U1=np.append(0, np.cumsum(self._user_sessions, dtype=np.int64)),
        )
        return Histories(self.users, log, np.array(self._unknown, np.int64))


def _need(values: Any, required: set[str], optional: set[str], where: str) -> None:
    """Raises InputError unless `values` is an object with these keys."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: wanted an object with {', '.join(sorted(required))}, got {values!r}")
    for name in sorted(required - values.keys()):
        raise InputError(f"{where} lacks {name!r}; {near_miss(name, values.keys() or required)}")
    for name in sorted(values.keys() - required - optional):
        raise InputError(f"{where} has {name!r}, which nothing reads; {near_miss(name, required | optional)}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# --- recommending --------------------------------------------------------------------------------------------------


def recommend(run: Restored, histories: Histories, k: int, *, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """The `k` likeliest next clicks of each user, best first, among all items of the catalogue, seen ones too:

        {"user": ..., "items": [published ids], "scores": [...], "unknown_items": n, "sessions_used": n}

    A score is the log probability of the item in the softmax over the whole catalogue, nats; equal ones stand in the
    catalogue's order. Trained with `loss.other_clicks="masked"` the scores rank well, but are no calibrated
    probabilities. The model reads the newest `data.slots` - 1 sessions, or fewer where their exposures
    fill a row. A history without a known item gets the popularity order and says so by "fallback": "popularity".
    Raises InputError for a `k` that the catalogue cannot give and for a last session that does not fit a row.
    """
    items = run.catalogue.items
    if not 1 <= k <= items:
        raise InputError(f"--k {k}: the catalogue has {items} items; wanted a number from 1 to {items}")
    recent = _recent(histories, run)
    return _tell(run, histories, recent, k, quiet)


def _recent(histories: Histories, run: Restored) -> Windows:
    """The newest sessions of each user that the model can read: a window a user, empty where there is none."""
    log, data = histories.log, run.config.data
    offsets, users_U1 = log.session_item_offsets_S1, log.user_session_offsets_U1
    begin_U, end_U = users_U1[:-1], users_U1[1:]
    # The last slot of a window is never asked for the session after it, so that its position is never learnt.
    first_U = np.maximum(begin_U, end_U - (data.slots - 1))
    first_U = np.maximum(first_U, np.searchsorted(offsets, offsets[end_U] - data.items_per_row))
    for user in np.flatnonzero((first_U == end_U) & (begin_U < end_U))[:1]:
        raise InputError(
            f"the last session of user {histories.users[user]!r} has {log.session_items_S[end_U[user] - 1]} exposures, "
            f"but the model reads at most {data.items_per_row} at once; leave out ignored ones"
        )
    return Windows(log, TRAIN, first_U, end_U, end_U, np.arange(log.users), np.arange(len(log.session_items_S)))


def _tell(run: Restored, histories: Histories, recent: Windows, k: int, quiet: bool) -> Iterator[dict[str, Any]]:
    published = [None, *run.prepared.item_ids().to_list()]
    log_popularity_V = run.catalogue.log_popularity_V
    popular_K = np.argsort(-log_popularity_V, kind="stable")[:k]
    sessions_U = recent.last_W - recent.first_W
    ranked = _rank(run, _queries(run, _take(recent, sessions_U > 0), quiet), k, quiet)
    for user, unknown, sessions in zip(histories.users, histories.unknown_items_U, sessions_U, strict=True):
        item_K, score_K = next(ranked) if sessions else (popular_K, log_popularity_V[popular_K])
        line = {
            "user": user,
            "items": [published[item] for item in item_K],
            "scores": [round(float(score), 6) for score in score_K],
            "unknown_items": int(unknown),
            "sessions_used": int(sessions),
        }
        yield line if sessions else line | {"fallback": "popularity"}


def _take(windows: Windows, which_W: np.ndarray) -> Windows:
    names = ("first_W", "last_W", "first_target_W", "user_W")
    return dataclasses.replace(windows, **{name: getattr(windows, name)[which_W] for name in names})


def _queries(run: Restored, recent: Windows, quiet: bool) -> Float[np.ndarray, "W D"]:
    """What each window asks of the items after its last session."""
    shape = shape_of(run.config, run.mesh.size)
    packer = Packer(recent, shape, 1.0, None)
    rows, rows_per_batch = packer.epoch(0), shape.shards * shape.rows
    side = put_replicated(run.catalogue.side, run.mesh)
    query_WD = np.empty((len(recent), run.config.model.width), np.float32)
    with Bar("histories", len(packer), quiet=quiet) as bar:
        for index in range(len(packer)):
            batch = packer[index]
            inputs, _ = put_batch(batch, run.mesh)
            query_SD = jax.device_get(_session_queries(run.spec, run.params, inputs, side))
            query_SD = query_SD.reshape(-1, query_SD.shape[-1])
            first, last = (min(n * rows_per_batch, len(rows)) for n in (index, index + 1))
            window_P = rows.window_P[rows.offset_R1[first] : rows.offset_R1[last]]
            query_WD[window_P] = query_SD[_last_slots(batch.user_of_session_GRL)]
            bar.advance("")
    return query_WD


def _last_slots(user_GRL: np.ndarray) -> np.ndarray:
    """The slot of each packed user's last session, in the order in which rows and users are packed."""
    user_XL = user_GRL.reshape(-1, user_GRL.shape[-1])
    next_XL = np.pad(user_XL[:, 1:], ((0, 0), (0, 1)))
    return np.flatnonzero((user_XL > 0) & (user_XL != next_XL))


@functools.partial(jax.jit, static_argnums=0)
def _session_queries(spec: Spec, params: Params, inputs: Inputs, side: Side) -> Float[Array, "G S D"]:
    return jax.vmap(lambda shard: sessionrec.apply(spec, params, shard, side)[1].retrieval_SD)(inputs)


def _rank(
    run: Restored, query_WD: Float[np.ndarray, "W D"], k: int, quiet: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(dense ids, log probabilities) of each query's best `k`."""
    table = item_table(run.spec, run.params, put_replicated(run.catalogue.side, run.mesh))
    top_k, block = _make_top_k(run.mesh, k), BLOCK * run.mesh.size
    with Bar("ranking", -(-len(query_WD) // block), quiet=quiet) as bar:
        for first in range(0, len(query_WD), block):
            query_BD = query_WD[first : first + block]
            filled_BD = np.pad(query_BD, ((0, block - len(query_BD)), (0, 0)))
            item_BK, score_BK = jax.device_get(top_k(*table, jax.device_put(filled_BD, over_data(run.mesh))))
            yield from zip(item_BK[: len(query_BD)], score_BK[: len(query_BD)], strict=True)
            bar.advance("")


@functools.lru_cache(maxsize=4)
def _make_top_k(mesh: jax.sharding.Mesh, k: int) -> Any:
    """The jitted exact top `k`: the best of each chunk, then the best of those; each device its own queries."""

    def top_k(
        e_CND: Float[Array, "C N D"], bias_CN: Float[Array, "C N"], query_BD: Float[Array, "B D"]
    ) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
        chunks, size = bias_CN.shape

        def of_chunk(part: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            e_ND, bias_N, first = part
            score_BN = chunk_scores(query_BD, e_ND, bias_N)
            best_BK, place_BK = jax.lax.top_k(score_BN, min(k, size))
            return best_BK, first + place_BK, jax.nn.logsumexp(score_BN, axis=1)

        best_CBK, item_CBK, log_sum_CB = jax.lax.map(of_chunk, (e_CND, bias_CN, jnp.arange(chunks) * size))
        best_BX, item_BX = (jnp.swapaxes(x, 0, 1).reshape(len(query_BD), -1) for x in (best_CBK, item_CBK))
        score_BK, place_BK = jax.lax.top_k(best_BX, k)
        log_prob_BK = score_BK - jax.nn.logsumexp(log_sum_CB, axis=0)[:, None]
        return jnp.take_along_axis(item_BX, place_BK, axis=1), log_prob_BK

    whole, by_query = PartitionSpec(), PartitionSpec(DATA_AXIS)
    return jax.jit(jax.shard_map(top_k, mesh=mesh, in_specs=(whole, whole, by_query), out_specs=by_query))
