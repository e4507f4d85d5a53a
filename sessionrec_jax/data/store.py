"""The prepared log on disk: a TFDS data set in ArrayRecord files with one record a user, and some tables.

    DATA/prepared.json      the manifest, written last
    DATA/log/               the users' histories, in the stored random order of users; read without TensorFlow
    DATA/items.parquet      row k has the publisher's id and side information of dense item k + 1 (0 is padding)
    DATA/users.parquet      row k has the publisher's id of dense user k, and counts of sessions and exposures by role
    DATA/catalogue.npz      by dense item: training counts, coded side information and rows of the ID table; also the
                            code that a model reads for each code of session context in log/ (session_context.py)
    DATA/side_NAME.parquet  code -> published value, or bounds, of a column of side information (side_information.py)
    DATA/context_NAME.parquet   the same for a column of session context
    DATA/vector_NAME.npy    by dense item: a column of content vectors (content_vectors.py)
    DATA/rejected.parquet   the rejected rows, unchanged, with the reason
    DATA/arrays/            the content of log/ once more, as arrays that are mapped into memory (mapped.py)
    DATA/checksums.json     bytes and CRC-32 of every other file but those of arrays/ (soundness.py)
    DATA/card.json, .html   the manifest and the distributions of users, sessions and items (card.py)

A dense id numbers users from 0 and items from 1. The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow_datasets as tfds
from absl import flags
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] - compiled, untyped
from jaxtyping import Float, Int32, Int64
from tensorflow_datasets.proto import tf_example_generated_pb2

from doors import tables
from doors.address import address_of
from doors.files import check_name, is_not
from doors.state import Damaged, read_object
from sessionrec_jax.data import bucket_log, content_vectors, mapped, session_context, soundness
from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.content_vectors import ContentVectors
from sessionrec_jax.data.flat_log import FlatLog, joined
from sessionrec_jax.data.ragged import offsets
from sessionrec_jax.data.side_information import SideColumn
from sessionrec_jax.errors import InputError

VERSION = 3
MANIFEST = soundness.MANIFEST
_SPLIT = "users"
_USERS_PER_READ = 65_536
RAW = tfds.decode.DeserializeMethod.RAW_BYTES
Example: Any = getattr(tf_example_generated_pb2, "Example")  # noqa: B009 - protobuf makes the class at run time


_BY_ITEM = {"item": np.int32, "feedback": np.int8}
_BY_SESSION = {"session_items": np.int32, "session_seconds": np.int64, "session_role": np.int8}
_CONTEXT = "context_"
_PROBABILITY = "click_probability"


def _types_of_record(context: Iterable[str], *, has_probability: bool) -> dict[str, type]:
    """Returns the type of each array of a record, given the columns of session context."""
    soft = {_PROBABILITY: np.float32} if has_probability else {}
    return {**_BY_ITEM, **soft, **_BY_SESSION, **{_CONTEXT + name: np.int32 for name in context}}


def write_part(folder: Path, part: int, parts: int, *, log: FlatLog, first_user: int) -> None:
    """Writes users of a log as file number `part` of the `parts` files of the TFDS data set in `folder`/log.

    The builders of TFDS are not used: they hold a split in memory and take several times as long.
    """
    items_U1, sessions_U1 = log.user_item_offsets_U1.tolist(), log.user_session_offsets_U1.tolist()
    columns = [("item", log.item_N, items_U1), ("feedback", log.feedback_N, items_U1)]
    if log.click_probability_N is not None:
        columns.append((_PROBABILITY, log.click_probability_N, items_U1))
    columns += [(name, getattr(log, f"{name}_S"), sessions_U1) for name in _BY_SESSION]
    columns += [(_CONTEXT + name, code_S, sessions_U1) for name, code_S in log.session_context.items()]
    content = [(name, array.tobytes(), array.itemsize, bounds) for name, array, bounds in columns]
    path = folder / "log" / f"session_log-{_SPLIT}.array_record-{part:05d}-of-{parts:05d}"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for index in range(log.users):
        example = Example()
        feature = example.features.feature
        feature["user"].int64_list.value.append(first_user + index)
        for name, array, size, bounds in content:
            feature[name].bytes_list.value.append(array[bounds[index] * size : bounds[index + 1] * size])
        writer.write(example.SerializeToString(deterministic=True))
    writer.close()


def finish_log(folder: Path, users_of_part: Sequence[int], context: Iterable[str], *, has_probability: bool) -> None:
    """Turns the files of `write_part` into a data set and checks that users read back in order.

    `context` names the columns of session context; `has_probability` says that the records have soft labels.
    """
    features = {"user": tfds.features.Scalar(np.int64)} | {  # as bytes, which decode seven times faster than numbers
        name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
        for name, dtype in _types_of_record(context, has_probability=has_probability).items()
    }
    size = sum(file.stat().st_size for file in (folder / "log").iterdir())
    split = tfds.core.SplitInfo(name=_SPLIT, shard_lengths=list(users_of_part), num_bytes=size)
    tfds.folder_dataset.write_metadata(
        data_dir=folder / "log",
        features=tfds.features.FeaturesDict(features),
        split_infos=[split],
        version="1.0.0",
        check_data=False,
    )
    records, users = read_records(folder), sum(users_of_part)
    if len(records) != users or any(records[u]["user"] != u for u in (0, users // 2, users - 1)):
        raise RuntimeError(f"TFDS reads {len(records)} records of {users} users, or in another order")


def read_records(folder: Path, **kwargs: Any) -> Any:
    """Opens the records of a prepared folder as a TFDS data source: one a user, a dict of numpy arrays."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which nobody parses here
    builder: Any = tfds.builder_from_directory(folder / "log")  # TFDS's decorators hide the parameters of its methods
    return builder.as_data_source(split="+".join(sorted(builder.info.splits)), **kwargs)


def digests(log: FlatLog, bounds_U: Sequence[int]) -> list[bytes]:
    """Returns a SHA-256 of the arrays of each range of users; `bounds_U` are the ends of the ranges."""
    found = []
    for first, last in itertools.pairwise(bounds_U):
        digest, sessions = hashlib.sha256(), slice(*log.user_session_offsets_U1[[first, last]])
        items = slice(*log.user_item_offsets_U1[[first, last]])
        digest.update(np.diff(log.user_session_offsets_U1[first : last + 1]).tobytes())
        for array in (log.item_N, log.feedback_N, log.click_probability_N):
            if array is not None:
                digest.update(array[items].tobytes())
        for name in _BY_SESSION:
            digest.update(getattr(log, f"{name}_S")[sessions].tobytes())
        for code in log.context_of(sessions).values():
            digest.update(code.tobytes())
        found.append(digest.digest())
    return found


def fingerprint(
    log_digests: Sequence[bytes],
    tables: Sequence[pl.DataFrame],
    *,
    side: dict[str, SideColumn],
    vectors: dict[str, ContentVectors],
    id_row_V: np.ndarray | None,
    context: dict[str, session_context.ContextColumn],
) -> str:
    """Returns sixteen hex digits of a SHA-256 over all content that a model can see.

    It covers the log, the tables, side information with the numbers of its values (they decide a model's shapes),
    content vectors, the shared rows of the ID table, and session context with its values.
    """
    digest = hashlib.sha256(b"".join(log_digests))
    for table in tables:
        digest.update(table.write_ndjson().encode())
    for name in sorted(side):
        digest.update(f"{name} {len(side[name].table)} ".encode() + side[name].codes_VW.tobytes())
    for name in sorted(vectors):
        digest.update(f"vector {name} {vectors[name].vector_VF.dtype} ".encode() + vectors[name].vector_VF.tobytes())
    if id_row_V is not None:
        digest.update(id_row_V.tobytes())
    for name in sorted(context):
        digest.update(f"{name} {context[name].table.write_ndjson()}".encode() + context[name].code_M.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A folder that `sessionrec prepare` wrote."""

    path: Path
    manifest: dict[str, Any]
    """The content of prepared.json: source, settings, counts and fingerprint."""
    clicks_V: Int64[np.ndarray, " V"]
    """Training clicks of each dense item. V = items + 1; index 0 is padding."""
    exposures_V: Int64[np.ndarray, " V"]
    """Clicked and ignored training exposures of each dense item."""
    side: dict[str, Int32[np.ndarray, "V W"]]
    """Codes of side information by column, see side_information.py."""
    vectors: dict[str, Float[np.ndarray, "V F"]]
    """Content vectors by column, mapped from their files."""
    id_row_V: Int32[np.ndarray, " V"] | None
    """The row of the ID table of each dense item if rare items share rows (shared_rows.py), else None."""
    address: str = ""
    """The address of a log in a bucket, of which `path` is a copy; empty for any other log."""

    @property
    def where(self) -> str:
        """The address of the log, or the path of its folder."""
        return self.address or str(self.path.resolve())

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
    def has_click_probability(self) -> bool:
        """True if each exposure has a soft label, `FlatLog.click_probability_N`."""
        return "click_probability" in self.manifest

    @property
    def side_values(self) -> dict[str, int]:
        """Number of values of each column of side information."""
        return {column["name"]: column["values"] for column in self.manifest["side_columns"]}

    @property
    def vector_widths(self) -> dict[str, int]:
        """Number of floats of each column of content vectors."""
        return {name: vector_VF.shape[1] for name, vector_VF in self.vectors.items()}

    @property
    def context_values(self) -> dict[str, int]:
        """Number of values of each column of session context."""
        return {column["name"]: column["values"] for column in self.manifest["session_context"]}

    @property
    def context_of_start(self) -> list[session_context.FromStart]:
        """The columns of session context that are computed from a session's start."""
        return [column["name"] for column in self.manifest["session_context"] if column["from"] == "start"]

    def context_vocabulary(self, name: str) -> pl.Series:
        """Returns the values of a column of session context; row k has that of code k + 1."""
        return tables.read_parquet(self.path / f"context_{name}.parquet")["value"]

    def card(self) -> dict[str, Any]:
        """Reads card.json. Raises InputError if an older release, which wrote none, prepared the log."""
        if not (self.path / "card.json").is_file():
            raise InputError(f"{self.path} has no card.json: an older release prepared it. Prepare the log again")
        return json.loads((self.path / "card.json").read_text())

    def item_ids(self) -> pl.Series:
        """Returns the publisher's ids of items; row k has that of dense item k + 1."""
        return tables.read_parquet(self.path / "items.parquet", columns=["item_id"])["item_id"]

    def users_of(self, role: int) -> Int64[np.ndarray, " U"]:
        """Returns the users who have a session of `role` after another session, in stored order."""
        targets = tables.read_parquet(self.path / "users.parquet", columns=[f"targets_{ROLES[role]}"]).to_series()
        return np.flatnonzero(targets.to_numpy()).astype(np.int64)

    def arrays(self, *, soft_labels: bool = False) -> FlatLog:
        """Returns the whole log, mapped from its files (mapped.py). Without `soft_labels` its `click_probability_N` is
        None."""
        return (_arrays if soft_labels else _arrays_of_clicks)(self.path.resolve(), self.fingerprint)

    def sample(self, users: int) -> FlatLog:
        """Returns the log of the first `users` users in stored order, which is a random sample."""
        return joined([*decoded(self.path, min(users, self.users))])


@functools.lru_cache(maxsize=4)
@soundness.guarded
def _arrays(path: Path, fingerprint: str) -> FlatLog:
    del fingerprint  # part of the key: a folder that was prepared again is another log
    return mapped.arrays(path, read_object(path / MANIFEST, {}), functools.partial(decoded, path))


@functools.lru_cache(maxsize=4)
def _arrays_of_clicks(path: Path, fingerprint: str) -> FlatLog:
    return dataclasses.replace(_arrays(path, fingerprint), click_probability_N=None)


def decoded(path: Path, users: int | None = None) -> Iterator[FlatLog]:
    """Decodes the records of the first `users` users, or all, and yields them in parts. TFDS itself decodes several
    times slower."""
    records, context = read_records(path, deserialize_method=RAW), _model_codes(path)
    has_probability = _PROBABILITY in records.dataset_info.features
    types = _types_of_record(context, has_probability=has_probability)
    users = len(records) if users is None else users
    for first in range(0, users, _USERS_PER_READ):
        parts: dict[str, list[bytes]] = {name: [] for name in types}
        for record in records.__getitems__(list(range(first, min(first + _USERS_PER_READ, users)))):
            feature = Example.FromString(record).features.feature
            for name, part in parts.items():
                part.append(feature[name].bytes_list.value[0])
        whole = {name: np.frombuffer(b"".join(parts[name]), dtype) for name, dtype in types.items()}
        sessions_U = [len(role) for role in parts["session_role"]]  # one byte a session
        yield FlatLog(
            **{f"{name}_N": whole[name] for name in _BY_ITEM},
            **{f"{name}_S": whole[name] for name in _BY_SESSION},
            user_session_offsets_U1=offsets(np.array(sessions_U)),
            session_context={name: code_M[whole[_CONTEXT + name]] for name, code_M in context.items()},
            click_probability_N=whole[_PROBABILITY] if has_probability else None,
        )


def _model_codes(path: Path) -> dict[str, Int32[np.ndarray, " M"]]:
    """Reads, for each column of session context, the code of the training vocabulary of each code in the records."""
    with (path / "catalogue.npz").open("rb") as file, np.load(file) as catalogue:
        names = [name for name in catalogue.files if name.startswith(_CONTEXT)]
        return {name.removeprefix(_CONTEXT).removesuffix("_M"): catalogue[name] for name in names}


def open_log(path: str | Path) -> Prepared:
    """Opens a prepared folder, or the copy of one in a bucket.

    Raises InputError if it is missing, incomplete, of another version or something else.
    """
    address = address_of(path)
    if address is None:
        return _open(Path(path))
    try:
        prepared = _open(bucket_log.fetched(address))
    except Damaged:  # the copy, perhaps; the one in the bucket was compared with its checksums
        prepared = _open(bucket_log.fetched(address, again=True))
    return dataclasses.replace(prepared, address=str(address))


def _open(path: Path) -> Prepared:
    check_name(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; `sessionrec prepare SOURCE ... --out {path}` makes it")
    if not (path / MANIFEST).is_file():
        raise InputError(is_not(path, "a prepared log"))
    try:
        manifest = read_object(path / MANIFEST, {"version": int})
    except Damaged as error:
        raise Damaged(f"{error}; prepare the log again with --overwrite") from None
    version = manifest["version"]
    if version != VERSION:
        raise InputError(f"{path} has format version {version!r}; this release reads {VERSION}. Prepare the log again")
    soundness.check_manifest(path, manifest)
    side_files = [f"side_{column['name']}.parquet" for column in manifest["side_columns"]]
    side_files += [f"context_{column['name']}.parquet" for column in manifest["session_context"]]
    side_files += [content_vectors.file_of(column["name"]) for column in manifest.get("vectors", [])]
    tables = ["items.parquet", "users.parquet", "catalogue.npz", "rejected.parquet", "log/dataset_info.json"]
    missing = [name for name in [*tables, *side_files] if not (path / name).is_file()]
    if missing:
        raise InputError(f"{path} is incomplete: {', '.join(missing)} missing; prepare the log again with --overwrite")
    soundness.check_files(path, manifest)
    return read_folder(path, manifest)


@soundness.guarded
def read_folder(path: Path, manifest: dict[str, Any]) -> Prepared:
    """Reads the arrays of a prepared folder that is known to be complete, up to its manifest."""
    with (path / "catalogue.npz").open("rb") as file, np.load(file) as catalogue:
        soundness.check_catalogue(manifest, catalogue)
        side = {column["name"]: catalogue[f"side_{column['name']}_VW"] for column in manifest["side_columns"]}
        id_row_V = catalogue["id_row_V"] if manifest["items_in_tail"] else None
        return Prepared(
            path=path,
            manifest=manifest,
            clicks_V=catalogue["clicks_V"],
            exposures_V=catalogue["exposures_V"],
            side=side,
            vectors=content_vectors.mapped(path, manifest),
            id_row_V=id_row_V,
        )
