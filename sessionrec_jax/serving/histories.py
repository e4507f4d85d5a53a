"""Reads the histories to answer: the log's own, JSON lines, or a list of users. No jax in this file.

    read_histories(Path("users.jsonl"), names), log_histories(log, users=100)

Letters: U users, S sessions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doors import tables
from sessionrec_jax.data.codes import CLICKED, CONTEXT, IGNORED, TRAIN
from sessionrec_jax.data.ragged import offsets
from sessionrec_jax.data.session_context import from_start
from sessionrec_jax.data.session_log import EARLIEST_MS, LATEST_MS
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.serving.vocabulary import Vocabulary

_WANTED = 'one JSON object a line, for each user, such as {"user": 7, "sessions": [[{"item": 31, "clicked": true}]]}'
_UNNAMED_CONTEXT = "context"  # what preparation calls context without a kind


@dataclass(frozen=True)
class Histories:
    """The histories of U users, in the order of the answers."""

    users: list[Any]
    """The users as the input names them, or the publisher's ids."""
    log: FlatLog
    """Their sessions, oldest first, without empty ones. Users without times have 0 as seconds."""
    unknown_items_U: np.ndarray
    """The number of exposures left out because the catalogue does not have their item."""


def log_histories(prepared: Prepared, users: int = 0) -> Histories:
    """Returns the whole stored histories of the first `users` users of the log (0: all), with the held-out sessions.

    Raises InputError if the log has fewer users.
    """
    if not 0 <= users <= prepared.users:
        raise InputError(f"--log-users {users}: {prepared.path} has {prepared.users} users; expected 0 (all) to that")
    users = users or prepared.users
    log = prepared.arrays()
    sessions, exposures = log.user_session_offsets_U1[users], log.user_item_offsets_U1[users]
    first = FlatLog(
        item_N=log.item_N[:exposures],
        feedback_N=log.feedback_N[:exposures],
        session_items_S=log.session_items_S[:sessions],
        session_seconds_S=log.session_seconds_S[:sessions],
        session_role_S=log.session_role_S[:sessions],
        user_session_offsets_U1=log.user_session_offsets_U1[: users + 1],
        session_context=log.context_of(slice(sessions)),
    )
    ids = tables.read_parquet(prepared.path / "users.parquet", columns=["user_id"])["user_id"]
    return Histories(ids.head(users).to_list(), first, np.zeros(users, np.int64))


def read_histories(path: Path, names: Vocabulary) -> Histories:
    """Reads JSON lines, one user a line, as `histories_of` describes them. An error names the line."""
    reader = Reader(names)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    reader.add(_parsed(line, where), where)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not reader.users:
        raise InputError(f"{path} has no history; expected {_WANTED}")
    return reader.histories()


def histories_of(users: Iterable[dict[str, Any]], names: Vocabulary) -> Histories:
    """Reads one dict a user, sessions oldest first:

        {"user": 7, "sessions": [[{"item": 31, "clicked": True}, {"item": 8, "clicked": False}], ...], "times": [...],
         "context": [{"device": "phone"}, ...]}

    `clicked` None marks context; "feedback" then names its kind. "times" has the start of each session in UTC seconds.
    Models with `model.positions` relative_time, and models that see hours or days, need it. "context" has the known
    columns of session context of each session, without hours and days; a value that no training session has is out of
    the vocabulary. Ids and values are compared as text where the log or the input has text. Unknown items are counted
    and left out; a session without a known item is left out with its time and its context.

    Raises InputError with the place of the first user that is anything else.
    """
    reader = Reader(names)
    for number, user in enumerate(users):
        reader.add(user, f"histories[{number}]")
    return reader.histories()


def _parsed(line: bytes, where: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON ({error}); expected {_WANTED}") from None


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of the names of a vocabulary. Names are compared as text."""

    item: dict[str, int]
    context: dict[str, dict[str, int]]

    @classmethod
    def of(cls, names: Vocabulary) -> Codes:
        return cls(_numbered(names.items), {name: _numbered(values) for name, values in names.context.items()})


def _numbered(values: list[Any]) -> dict[str, int]:
    return {str(value): code for code, value in enumerate(values, 1)}


class Reader:
    """Collects the histories of users, one after the other, as flat lists of codes."""

    def __init__(self, names: Vocabulary, codes: Codes | None = None):
        """`codes` are those of `names`, where they were made before: a million items take a second."""
        codes = Codes.of(names) if codes is None else codes
        self._dense, self._codes = codes.item, codes.context
        self._kinds, self._reads_time, self._from_start = names.feedback_names, names.reads_time, names.context_of_start
        self._given = self._codes.keys() - set(self._from_start)
        self._context: dict[str, list[int]] = {name: [] for name in self._codes}
        self._item: list[int] = []
        self._feedback: list[int] = []
        self._session_items: list[int] = []
        self._session_seconds: list[int] = []
        self._user_sessions: list[int] = []
        self._unknown: list[int] = []
        self.users: list[Any] = []

    def add(self, user: Any, where: str, others: Iterable[str] = ()) -> None:
        """Reads one user, as `histories_of` describes it. Raises InputError, which begins with `where`.

        `others` are keys next to those of the user. The caller has taken them out, and a message about an unknown key
        names them too.
        """
        optional = {"times", "context"} if self._given else {"times"}
        _need(user, {"user", "sessions"}, optional, where, others)
        if not isinstance(user["sessions"], list) or not all(isinstance(s, list) for s in user["sessions"]):
            raise InputError(f'{where}: expected "sessions" to be a list of sessions, each a list of exposures')
        sessions, unknown = 0, 0
        times, context = self._times(user, where), self._session_context(user, where)
        for n, (session, seconds) in enumerate(zip(user["sessions"], times, strict=True), 1):
            known = self._add_session(session, f"{where}, session {n}")
            unknown += len(session) - known
            if known:
                self._session_items.append(known)
                self._session_seconds.append(seconds)
                for name, codes in context.items():
                    self._context[name].append(codes[n - 1])
                sessions += 1
        self.users.append(user["user"])
        self._user_sessions.append(sessions)
        self._unknown.append(unknown)

    def _add_session(self, session: list[Any], where: str) -> int:
        """Adds the exposures of known items and returns their number."""
        known = 0
        for exposure in session:
            dense, feedback = self._exposure(exposure, where)
            if dense is not None:
                self._item.append(dense)
                self._feedback.append(feedback)
                known += 1
        return known

    def _times(self, user: dict[str, Any], where: str) -> list[int]:
        """Returns the start of each session in UTC seconds, or zeros if none are given and the model needs none."""
        sessions = len(user["sessions"])
        if "times" not in user:
            if self._reads_time:
                raise InputError(
                    f"{where} lacks 'times', but this model reads {self._reads_time}; add the start of each session in "
                    'UTC seconds, such as "times": [1700000000, 1700003600]'
                )
            return [0] * sessions
        times = user["times"]
        if not isinstance(times, list) or len(times) != sessions:
            came = f"{len(times)} of them" if isinstance(times, list) else repr(times)
            raise InputError(f'{where}: expected "times" to be a list of {sessions}, one a session; got {came}')
        for n, seconds in enumerate(times, 1):
            whole = (isinstance(seconds, float) and seconds.is_integer()) or type(seconds) is int
            if not (whole and EARLIEST_MS <= seconds * 1000 <= LATEST_MS):
                raise InputError(
                    f"{where}: the time of session {n} is {seconds!r}; expected whole UTC seconds, from "
                    f"{EARLIEST_MS // 1000} (1990) to {LATEST_MS // 1000} (2100)"
                )
            if n > 1 and seconds < times[n - 2]:
                raise InputError(
                    f"{where}: session {n} begins at {seconds}, before session {n - 1} ({times[n - 2]}); expected the "
                    "oldest session first"
                )
        return [int(seconds) for seconds in times]

    def _session_context(self, user: dict[str, Any], where: str) -> dict[str, list[int]]:
        """Returns the codes of the user's sessions by column."""
        sessions = len(user["sessions"])
        given = user.get("context", [{}] * sessions)
        if not isinstance(given, list) or len(given) != sessions:
            came = f"{len(given)} of them" if isinstance(given, list) else repr(given)
            raise InputError(f'{where}: expected "context" to be a list of {sessions}, one a session; got {came}')
        for n, values in enumerate(given, 1):
            _need(values, set(), self._given, f"{where}, context of session {n}")
        columns: dict[str, list[Any]] = {name: [values.get(name) for values in given] for name in self._codes}
        if "times" in user:
            seconds_S = np.array(user["times"], np.int64)
            columns |= {name: from_start(name, seconds_S).tolist() for name in self._from_start}
        return {name: [self._context_code(name, value, where) for value in of] for name, of in columns.items()}

    def _context_code(self, name: str, value: Any, where: str) -> int:
        if value is None:
            return 0
        if not isinstance(value, int | str):
            raise InputError(f"{where}: {name} is {value!r}; expected an integer, text, true, false or null")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return self._codes[name].get(text, len(self._codes[name]) + 1)

    def _exposure(self, exposure: Any, where: str) -> tuple[int | None, int]:
        """Returns the dense id, None for an unknown item, and the feedback code."""
        _need(exposure, {"item", "clicked"}, {"feedback"}, where)
        item, clicked, kind = exposure["item"], exposure["clicked"], exposure.get("feedback")
        if not isinstance(item, int | str) or isinstance(item, bool):
            raise InputError(f"{where}: item is {item!r}; expected a published id, an integer or text")
        if clicked is not None and not isinstance(clicked, bool):
            raise InputError(f"{where}: clicked is {clicked!r}; expected true, false, or null for context")
        if kind is not None and not isinstance(kind, str):
            raise InputError(f"{where}: feedback is {kind!r}; expected text, the name of a kind of context")
        return self._dense.get(str(item)), self._code(clicked, kind, where)

    def _code(self, clicked: bool | None, kind: str | None, where: str) -> int:
        if clicked is not None:  # preparation, too, reads `feedback` of context only
            return CLICKED if clicked else IGNORED
        kind, kinds = kind or _UNNAMED_CONTEXT, self._kinds[CONTEXT:]
        if kind in kinds:
            return CONTEXT + kinds.index(kind)
        if not kinds:
            raise InputError(f"{where}: clicked is null, but the model's log has no context; leave such exposures out")
        raise InputError(f"{where}: the model's log has no feedback {kind!r} for context; {near_miss(kind, kinds)}")

    def histories(self) -> Histories:
        log = FlatLog(
            item_N=np.array(self._item, np.int32),
            feedback_N=np.array(self._feedback, np.int8),
            session_items_S=np.array(self._session_items, np.int32),
            session_seconds_S=np.array(self._session_seconds, np.int64),
            session_role_S=np.full(len(self._session_items), TRAIN, np.int8),
            user_session_offsets_U1=offsets(np.array(self._user_sessions, np.int64)),
            session_context={name: np.array(codes, np.int32) for name, codes in self._context.items()},
        )
        return Histories(self.users, log, np.array(self._unknown, np.int64))


def _need(values: Any, required: set[str], optional: set[str], where: str, others: Iterable[str] = ()) -> None:
    """Raises InputError unless `values` is an object with these keys. `others` are those that a caller has taken."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object with {', '.join(sorted(required or optional))}; got {values!r}")
    # A misspelled key first: it is also why another one is missing.
    if unread := values.keys() - required - optional:
        name = min(unread)
        raise InputError(
            f"{where} has {name!r}, which nothing reads; {near_miss(name, {*required, *optional, *others})}"
        )
    if missing := required - values.keys():
        raise InputError(f"{where} lacks {min(missing)!r}; expected an object with {', '.join(sorted(required))}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
