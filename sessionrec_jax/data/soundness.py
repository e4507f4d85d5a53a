"""A prepared log is checked before it is trusted: its files against the manifest and against each other.

Every opening compares the files' sizes, the lengths of the tables and arrays, and the range of every code of the
catalogue, which costs milliseconds. The records are checked when they are decoded. `sessionrec describe --check` also
reads every byte again and compares checksums, which finds damage that keeps all sizes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import polars as pl

from doors import tables
from doors.errors import no_room
from doors.state import Damaged, Kinds, checked, checksums, read_object, sizes

MANIFEST = "prepared.json"
"""The file with the counts of a log, its settings and its fingerprint."""
CHECKSUMS = "checksums.json"
"""The file with bytes and CRC-32 of every other file but those of ARRAYS. Logs of an earlier release do not have it."""
ARRAYS, LIST = "arrays", "arrays.json"
"""The folder of mapped arrays (mapped.py) and its list of files with bytes and CRC-32."""

_NUMBER = (int, float)
_KINDS: Kinds = {
    "source": str, "note": str, "settings": dict, "feedback_names": list, "rejected": dict, "rows": int,
    "fingerprint": str, "users": int, "items": int, "items_exposed": int, "sessions": int, "exposures": int,
    "context_exposures": int, "clicks": int, "click_rate": _NUMBER, "sessions_by_role": dict,
    "target_sessions_by_role": dict, "users_without_target": int, "items_per_session_mean": _NUMBER,
    "max_session_items": int, "sessions_per_user_mean": _NUMBER, "sessions_per_user_quantiles": dict,
    "time_range_ms": list, "items_in_tail": int, "side_columns": list, "session_context": list,
}  # fmt: skip
_COLUMN: Kinds = {"name": str, "values": int}
_VECTORS: Kinds = {"name": str, "width": int, "type": str}

P = ParamSpec("P")
T = TypeVar("T")


def guarded(read: Callable[P, T]) -> Callable[P, T]:
    """Turns an error of a function that reads the folder `path`, its first argument, into one message."""

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except Exception as error:
            if isinstance(error, MemoryError) or no_room(error):
                raise
            words = str(error).splitlines()[0][:300].rstrip(".") if str(error) else type(error).__name__
            if isinstance(error, Damaged) and "prepare the log again" in words:
                raise
            raise _damaged(Path(str(args[0])), words) from error

    return reading


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged(f"{path} is damaged: {what}. Copy it again, or prepare the log again with --overwrite")


def check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Raises Damaged if the manifest lacks a field, or has one of another type."""
    try:
        checked(manifest, _KINDS, "prepared.json")
        for column in (*manifest["side_columns"], *manifest["session_context"]):
            checked(column, _COLUMN, "a column in prepared.json")
        for column in manifest.get("vectors", []):
            checked(column, _VECTORS, "a column of vectors in prepared.json")
    except Damaged as error:
        raise _damaged(path, str(error)) from None


@guarded
def check_files(path: Path, manifest: dict[str, Any]) -> None:
    """Raises Damaged if a file is missing, has another size, or does not have a row for each user or item."""
    if (path / CHECKSUMS).exists():
        _compare(path, sizes(path), lambda entry: entry[0], "bytes")
    _check_records(path / "log", manifest["users"])
    for name, rows in (("users", manifest["users"]), ("items", manifest["items"])):
        found = tables.scan_parquet(path / f"{name}.parquet").select(pl.len()).collect().item()
        if found != rows:
            raise Damaged(f"{name}.parquet has {found:,} rows, and prepared.json counts {rows:,} {name}")


def _check_records(log: Path, users: int) -> None:
    """Compares TFDS's list of record files with the files that are there."""
    splits = json.loads((log / "dataset_info.json").read_bytes())["splits"]
    lengths = [int(length) for split in splits for length in split["shardLengths"]]
    files = [file for file in log.iterdir() if ".array_record-" in file.name]
    listed, found = sum(int(split["numBytes"]) for split in splits), sum(file.stat().st_size for file in files)
    if sum(lengths) != users:
        raise Damaged(f"log/dataset_info.json counts {sum(lengths):,} users, and prepared.json {users:,}")
    if len(files) != len(lengths):
        raise Damaged(f"log/ has {len(files)} of its {len(lengths)} record files")
    if found != listed:
        raise Damaged(f"the record files in log/ have {found:,} bytes, and {listed:,} were written")


def check_catalogue(manifest: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises Damaged if an array of catalogue.npz is missing, of another length, or has a code that no value has."""
    items = manifest["items"] + 1
    codes = {f"side_{column['name']}_VW": column["values"] + 1 for column in manifest["side_columns"]}
    if manifest["items_in_tail"]:
        codes["id_row_V"] = manifest["items"]
    for name in ("clicks_V", "exposures_V", *codes):
        if name not in arrays:
            raise Damaged(f"catalogue.npz has no array {name}")
        if len(arrays[name]) != items or not np.issubdtype(arrays[name].dtype, np.integer):
            raise Damaged(f"{name} of catalogue.npz is for {len(arrays[name]) - 1:,} items, not {items - 1:,}")
        _in_range(arrays[name], codes.get(name, np.iinfo(np.int64).max), f"{name} of catalogue.npz")
    if (arrays["clicks_V"] > arrays["exposures_V"]).any():
        raise Damaged("catalogue.npz counts more clicks than exposures of an item")
    for column in manifest["session_context"]:
        name = f"context_{column['name']}_M"
        if name not in arrays:
            raise Damaged(f"catalogue.npz has no array {name}")
        _in_range(arrays[name], column["values"] + 1, f"{name} of catalogue.npz")


def check_counts(manifest: dict[str, Any], **counts: int) -> None:
    """Raises Damaged if a decoded log has other counts (users, sessions, exposures) than the manifest."""
    for name, found in counts.items():
        if found != manifest[name]:
            raise Damaged(f"log/ has {found:,} {name}, and prepared.json counts {manifest[name]:,}")


def check_part(manifest: dict[str, Any], part: Any) -> None:
    """Raises Damaged if some decoded users (a FlatLog) have arrays that disagree, or a code that no value has."""
    lengths = len(part.session_items_S), len(part.session_seconds_S), len(part.session_role_S)
    if len(set(lengths)) != 1 or len(part.feedback_N) != len(part.item_N):
        raise Damaged("the records in log/ have arrays of different lengths")
    if int(part.session_items_S.sum()) != len(part.item_N):
        raise Damaged("the sessions in log/ do not add up to their exposures")
    _in_range(part.item_N - 1, manifest["items"] - 1, "an item in log/")
    _in_range(part.feedback_N, len(manifest["feedback_names"]) - 1, "a feedback code in log/")
    _in_range(part.session_role_S, 2, "a session role in log/")


def _in_range(codes: np.ndarray, highest: int, what: str) -> None:
    if codes.size and not (codes.min() >= 0 and codes.max() <= highest):
        raise Damaged(f"{what} is outside its range")


@guarded
def check_bytes(path: Path) -> str:
    """Reads every file and compares its checksum. Returns a sentence; raises Damaged."""
    _check_arrays(path)
    if not (path / CHECKSUMS).exists():
        return "an earlier release prepared this log, without checksums; only sizes and counts were compared"
    return f"{_compare(path, checksums(path), list, 'bytes and checksum')} files are as they were written"


def _check_arrays(path: Path) -> None:
    folder = path / ARRAYS
    if not (folder / LIST).is_file():
        return
    found, wanted = checksums(folder, without=LIST), read_object(folder / LIST, {"files": dict})["files"]
    if differing := sorted(name for name in wanted if found.get(name) != wanted[name]):
        raise Damaged(
            f"{ARRAYS}/{differing[0]} has another checksum than it was written with; delete the folder {ARRAYS}, and "
            "the next opening makes it again from the records. Do not prepare the log again"
        )


def _compare(path: Path, found: dict[str, Any], part: Callable[[Any], Any], what: str) -> int:
    """Compares what was found of each file with the list of the preparation; returns the number of files."""
    wanted = read_object(path / CHECKSUMS, {})
    for name, entry in wanted.items():
        if name not in found:
            raise Damaged(f"{name} is missing")
        if found[name] != part(entry):
            raise Damaged(f"{name} has {found[name]} for its {what}, and was written with {part(entry)}")
    return len(wanted)
