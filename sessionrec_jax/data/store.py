"""The prepared log on disk: a TFDS data set in ArrayRecord files, one record a user, and tables beside it.

    DATA/prepared.json      the manifest, written last
    DATA/log/               the users' histories (TensorFlow is not needed), in the stored random order of users
    DATA/items.parquet      row k is the publisher's id and side information of dense item k + 1 (0 is padding)
    DATA/users.parquet      row k is the publisher's id of dense user k, and its sessions and exposures by role
    DATA/catalogue.npz      training counts, coded side information and rows of the ID table by dense item; and the code
                            that a model reads for each code of session context in log/ (session_context.py)
    DATA/side_NAME.parquet  code -> published value, or bounds, of one column of side information (sideinfo.py)
    DATA/context_NAME.parquet   the same of one column of session context
    DATA/rejected.parquet   the rows that were not taken, as they came, with the reason
    DATA/card.json, .html   the manifest and how users, sessions and items are spread (card.py)

A folder appears under its name only when it is complete.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow_datasets as tfds
from absl import flags
from array_record.python import array_record_module
from jaxtyping import Int8, Int32, Int64
from tensorflow_datasets.proto import tf_example_generated_pb2

from sessionrec_jax.data import session_context
from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.ragged import offsets
from sessionrec_jax.data.side_information import Coded
from sessionrec_jax.errors import InputError

VERSION = 3
MANIFEST = "prepared.json"
_SPLIT = "users"
_USERS_PER_READ = 65_536
_RAW = tfds.decode.DeserializeMethod.RAW_BYTES


@dataclass(frozen=True)
class FlatLog:
    """A whole log as flat arrays: N exposures in S sessions of U users, each in order."""

    item_N: Int32[np.ndarray, " N"]
    """Dense item id, from 1."""
    feedback_N: Int8[np.ndarray, " N"]
    """0 ignored, 1 clicked, 2 and up the kinds of context."""
    session_items_S: Int32[np.ndarray, " S"]
    """Exposures of a session."""
    session_seconds_S: Int64[np.ndarray, " S"]
    """Start of a session, UTC seconds."""
    session_role_S: Int8[np.ndarray, " S"]
    """0 train, 1 validation, 2 test; never decreases along a user's history."""
    user_session_offsets_U1: Int64[np.ndarray, " U1"]
    """Sessions [u, u + 1) of this array are user u's."""
    session_context: dict[str, Int32[np.ndarray, " S"]] = field(default_factory=dict)
    """Codes of each column of session context: those of a record while it is prepared, then those of the training
    vocabulary."""

    @functools.cached_property
    def session_item_offsets_S1(self) -> Int64[np.ndarray, " S1"]:
        """Exposures [s, s + 1) of this array are session s's."""
        return offsets(self.session_items_S)

    @functools.cached_property
    def user_item_offsets_U1(self) -> Int64[np.ndarray, " U1"]:
        """Exposures [u, u + 1) of this array are user u's."""
        return self.session_item_offsets_S1[self.user_session_offsets_U1]

    @property
    def users(self) -> int:
        return len(self.user_session_offsets_U1) - 1

    def context_of(self, session: slice | np.ndarray) -> dict[str, Int32[np.ndarray, " X"]]:
        """The session context of some sessions."""
        return {name: code_S[session] for name, code_S in self.session_context.items()}

    def user(self, index: int) -> dict[str, Any]:
        """One user's record as it is stored, but for the codes of session context: `user`, the arrays above without
        their letters, and context_NAME."""
        sessions = slice(*self.user_session_offsets_U1[index : index + 2])
        items = slice(*self.user_item_offsets_U1[index : index + 2])
        by_item = {"item": self.item_N[items], "feedback": self.feedback_N[items]}
        by_session = {name: getattr(self, f"{name}_S")[sessions] for name in _BY_SESSION}
        context = {_CONTEXT + name: code for name, code in self.context_of(sessions).items()}
        return {"user": index, **by_item, **by_session, **context}


_BY_ITEM = {"item": np.int32, "feedback": np.int8}
_BY_SESSION = {"session_items": np.int32, "session_seconds": np.int64, "session_role": np.int8}
_CONTEXT = "context_"


def _arrays_of_record(context: Iterable[str]) -> dict[str, type]:
    """Names and types; `context`: the columns of session context."""
    return {**_BY_ITEM, **_BY_SESSION, **{_CONTEXT + name: np.int32 for name in context}}


def write_part(folder: Path, part: int, parts: int, log: FlatLog, first_user: int) -> None:
    """Writes the users of one of the `parts` of a log into `folder`/log: a file of the TFDS data set, written here,
    since the builders of TFDS hold a split in memory and take several times as long."""
    items_U1, sessions_U1 = log.user_item_offsets_U1.tolist(), log.user_session_offsets_U1.tolist()
    columns = [(name, log.item_N if name == "item" else log.feedback_N, items_U1) for name in _BY_ITEM]
    columns += [(name, getattr(log, f"{name}_S"), sessions_U1) for name in _BY_SESSION]
    columns += [(_CONTEXT + name, code_S, sessions_U1) for name, code_S in log.session_context.items()]
    content = [(name, array.tobytes(), array.itemsize, bounds) for name, array, bounds in columns]
    path = folder / "log" / f"session_log-{_SPLIT}.array_record-{part:05d}-of-{parts:05d}"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for index in range(log.users):
        example = tf_example_generated_pb2.Example()
        feature = example.features.feature
        feature["user"].int64_list.value.append(first_user + index)
        for name, array, size, bounds in content:
            feature[name].bytes_list.value.append(array[bounds[index] * size : bounds[index + 1] * size])
        writer.write(example.SerializeToString(deterministic=True))
    writer.close()


def finish_log(folder: Path, users_of_part: Sequence[int], context: Iterable[str]) -> None:
    """Makes the files that `write_part` wrote a data set, and sure that it reads back in order. `context`: the columns
    of session context."""
    features = {"user": tfds.features.Scalar(np.int64)} | {  # as bytes, which decode seven times faster than numbers
        name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
        for name, dtype in _arrays_of_record(context).items()
    }
    bytes_ = sum(file.stat().st_size for file in (folder / "log").iterdir())
    split = tfds.core.SplitInfo(name=_SPLIT, shard_lengths=list(users_of_part), num_bytes=bytes_)
    tfds.folder_dataset.write_metadata(
        data_dir=folder / "log",
        features=tfds.features.FeaturesDict(features),
        split_infos=[split],
        version="1.0.0",
        check_data=False,
    )
    source, users = _read_source(folder), sum(users_of_part)
    if len(source) != users or any(source[u]["user"] != u for u in (0, users // 2, users - 1)):
        raise RuntimeError(f"TFDS reads {len(source)} records of {users} users, or in another order")


def digests(log: FlatLog, bounds_U: Sequence[int]) -> list[bytes]:
    """Of the arrays of the users between each two of the bounds."""
    found = []
    for first, last in itertools.pairwise(bounds_U):
        digest, sessions = hashlib.sha256(), slice(*log.user_session_offsets_U1[[first, last]])
        items = slice(*log.user_item_offsets_U1[[first, last]])
        digest.update(np.diff(log.user_session_offsets_U1[first : last + 1]).tobytes())
        for array in (log.item_N, log.feedback_N):
            digest.update(array[items].tobytes())
        for name in _BY_SESSION:
            digest.update(getattr(log, f"{name}_S")[sessions].tobytes())
        for code in log.context_of(sessions).values():
            digest.update(code.tobytes())
        found.append(digest.digest())
    return found


def fingerprint(
    of_log: Sequence[bytes],
    tables: Sequence[pl.DataFrame],
    side: dict[str, Coded],
    id_row_V: np.ndarray | None,
    context: dict[str, session_context.Coded],
) -> str:
    """Sixteen hex digits of a SHA-256 over the content: the digests of the log, the publisher's ids, the side
    information and the numbers of its codes, which decide a model's shapes, the rows that items share, and the session
    context with its values."""
    digest = hashlib.sha256(b"".join(of_log))
    for table in tables:
        digest.update(table.write_ndjson().encode())
    for name in sorted(side):
        digest.update(f"{name} {len(side[name].table)} ".encode() + side[name].codes_VW.tobytes())
    if id_row_V is not None:
        digest.update(id_row_V.tobytes())
    for name in sorted(context):
        digest.update(f"{name} {context[name].table.write_ndjson()}".encode() + context[name].code_M.tobytes())
    return digest.hexdigest()[:16]


def _read_source(folder: Path, **kwargs: Any) -> Sequence[Any]:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which nobody parses here
    builder = tfds.builder_from_directory(folder / "log")
    return builder.as_data_source(split="+".join(sorted(builder.info.splits)), **kwargs)


@dataclass(frozen=True)
class Prepared:
    """A folder that `sessionrec prepare` wrote."""

    path: Path
    manifest: dict[str, Any]
    """prepared.json: where the log is from, its settings, its counts and its fingerprint."""
    clicks_V: Int64[np.ndarray, " V"]
    """Clicks of each dense item in training sessions; V = items + 1, index 0 is padding."""
    exposures_V: Int64[np.ndarray, " V"]
    """Clicked and ignored exposures of each dense item in training sessions."""
    side: dict[str, Int32[np.ndarray, "V W"]]
    """Side information by column: codes from 1, the last of them out of the vocabulary; 0 = missing or padding of a
    list."""
    id_row_V: Int32[np.ndarray, " V"] | None
    """Row of the ID table of each dense item, where rare ones share theirs (tail.py)."""

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def items(self) -> int:
        return self.manifest["items"]

    @property
    def users(self) -> int:
        return self.manifest["users"]

    @property
    def feedback_names(self) -> list[str]:
        return self.manifest["feedback_names"]

    @property
    def side_values(self) -> dict[str, int]:
        """Number of values of each column of side information; the code above them is out of the vocabulary."""
        return {column["name"]: column["values"] for column in self.manifest["side_columns"]}

    @property
    def context_values(self) -> dict[str, int]:
        """The same of each column of session context."""
        return {column["name"]: column["values"] for column in self.manifest["session_context"]}

    @property
    def context_of_start(self) -> list[session_context.FromStart]:
        """Columns of session context that follow from a session's start."""
        return [column["name"] for column in self.manifest["session_context"] if column["from"] == "start"]

    def context_vocabulary(self, name: str) -> pl.Series:
        """The value of code k + 1 of a column of session context at row k."""
        return pl.read_parquet(self.path / f"context_{name}.parquet")["value"]

    def card(self) -> dict[str, Any]:
        """card.json. Raises InputError where an older release prepared the log, which wrote none."""
        if not (self.path / "card.json").is_file():
            raise InputError(f"{self.path} has no card.json: an older release prepared it. Prepare the log again")
        return json.loads((self.path / "card.json").read_text())

    def item_ids(self) -> pl.Series:
        """The publisher's id of dense item k + 1 at row k."""
        return pl.read_parquet(self.path / "items.parquet", columns=["item_id"])["item_id"]

    def users_of(self, role: int) -> Int64[np.ndarray, " U"]:
        """Users with a session of `role` (0 train, 1 validation, 2 test) that has one before it, in stored order."""
        targets = pl.read_parquet(self.path / "users.parquet", columns=[f"targets_{ROLES[role]}"]).to_series()
        return np.flatnonzero(targets.to_numpy()).astype(np.int64)

    def source(self) -> Sequence[dict[str, Any]]:
        """Users as dicts of numpy arrays, for `grain.MapDataset.source`; about 9,000 users a second. The codes of their
        session context are those of a record, see `arrays`."""
        return _read_source(self.path)

    def arrays(self) -> FlatLog:
        """The whole log in memory, decoded once a process at 30,000 to 60,000 users a second, with session context in
        codes of the training vocabulary."""
        return _arrays(self.path.resolve(), self.fingerprint)

    def first(self, users: int) -> FlatLog:
        """The log of the first so many users, a random sample of all."""
        return _decoded(self.path, min(users, self.users))


@functools.lru_cache(maxsize=4)
def _arrays(path: Path, fingerprint: str) -> FlatLog:
    del fingerprint  # part of the key: a folder that was prepared anew is another log
    return _decoded(path)


def _decoded(path: Path, users: int | None = None) -> FlatLog:
    """The first so many users, or all."""
    records, context = _read_source(path, deserialize_method=_RAW), _codes_of_records(path)
    users = len(records) if users is None else users
    parts: dict[str, list[bytes]] = {name: [] for name in _arrays_of_record(context)}
    for first in range(0, users, _USERS_PER_READ):
        for record in records.__getitems__(list(range(first, min(first + _USERS_PER_READ, users)))):
            feature = tf_example_generated_pb2.Example.FromString(record).features.feature
            for name, part in parts.items():
                part.append(feature[name].bytes_list.value[0])
    whole = {n: np.frombuffer(b"".join(parts[n]), dtype) for n, dtype in _arrays_of_record(context).items()}
    sessions_U = [len(role) for role in parts["session_role"]]  # one byte a session
    return FlatLog(
        **{f"{name}_N": whole[name] for name in _BY_ITEM},
        **{f"{name}_S": whole[name] for name in _BY_SESSION},
        user_session_offsets_U1=offsets(np.array(sessions_U)),
        session_context={name: code_M[whole[_CONTEXT + name]] for name, code_M in context.items()},
    )


def _codes_of_records(path: Path) -> dict[str, Int32[np.ndarray, " M"]]:
    """Of each column of session context the code of the training vocabulary by the code in a record."""
    with np.load(path / "catalogue.npz") as catalogue:
        names = [name for name in catalogue.files if name.startswith(_CONTEXT)]
        return {name.removeprefix(_CONTEXT).removesuffix("_M"): catalogue[name] for name in names}


def open_log(path: str | Path) -> Prepared:
    """Opens a prepared folder. Raises InputError where it is missing, incomplete, of another version or none at all."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; `sessionrec prepare SOURCE ... --out {path}` makes it")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} is not a prepared log (it has no {MANIFEST}); `sessionrec prepare` makes one")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / MANIFEST} cannot be read ({error}); prepare the log again with --overwrite"
        ) from error
    if version != VERSION:
        raise InputError(f"{path} has format version {version!r}; this release reads {VERSION}. Prepare the log again")
    side_files = [f"side_{column['name']}.parquet" for column in manifest["side_columns"]]
    side_files += [f"context_{column['name']}.parquet" for column in manifest["session_context"]]
    wanted = [
        "items.parquet",
        "users.parquet",
        "catalogue.npz",
        "rejected.parquet",
        "log/dataset_info.json",
        *side_files,
    ]
    missing = [name for name in wanted if not (path / name).is_file()]
    if missing:
        raise InputError(f"{path} is incomplete: {', '.join(missing)} missing; prepare the log again with --overwrite")
    with np.load(path / "catalogue.npz") as catalogue:
        side = {column["name"]: catalogue[f"side_{column['name']}_VW"] for column in manifest["side_columns"]}
        id_row_V = catalogue["id_row_V"] if manifest["items_in_tail"] else None
        return Prepared(path, manifest, catalogue["clicks_V"], catalogue["exposures_V"], side, id_row_V)
