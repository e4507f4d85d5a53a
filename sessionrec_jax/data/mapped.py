"""The arrays of a prepared log as files that are mapped into memory: DATA/arrays/NAME.npy, and their list arrays.json.

    log = mapped.arrays(path, manifest, parts)

The records in DATA/log are the contract, and these files repeat them. To open a log is then to map a few files: no
byte is read before it is used, and all processes of a machine share one copy. .npy was chosen over Arrow's format,
because the arrays have three lengths, which no Arrow table has, and numpy maps each file as it is.

`arrays.json` has the fingerprint of the log and the bytes and CRC-32 of each file. An opening compares the fingerprint,
the sizes, the types and the lengths, which takes a millisecond; `sessionrec describe --check` compares the checksums.
Because the records are whole, files that are missing (in a log of an earlier release), cut, of another log or of
another byte order are made again from the records, with one message. Where they cannot be written, the process has the
log in its own memory. They are written under another name and renamed, so several processes may do so at once.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from doors.state import checksums, read_object
from doors.terminal import say
from sessionrec_jax.data import soundness
from sessionrec_jax.data.flat_log import FlatLog, joined
from sessionrec_jax.data.session_log import PROBABILITY
from sessionrec_jax.errors import InputError

_CONTEXT = "context_"
_ARRAYS: dict[str, type] = {
    "item_N": np.int32, "feedback_N": np.int8, "session_items_S": np.int32, "session_seconds_S": np.int64,
    "session_role_S": np.int8, "session_item_offsets_S1": np.int64, "user_session_offsets_U1": np.int64,
}  # fmt: skip
_WAITS_SECONDS = (0.01, 0.1, 1.0)
_LEFTOVER_SECONDS = 24 * 3600
"""After this time a partial folder is that of a killed process, and is removed."""


class _Unusable(Exception):
    """The files cannot be used; the message says why, and is empty if there is no file."""


def arrays(path: Path, manifest: dict[str, Any], parts: Callable[[], Iterable[FlatLog]]) -> FlatLog:
    """Returns the whole log of the prepared folder `path`, mapped; `parts` decodes its records, some users at a time.

    Raises Damaged if the records are not what the manifest counts.
    """
    try:
        return _mapped(path, manifest)
    except _Unusable as why:
        if str(why):
            say(f"{path / soundness.ARRAYS} {why}; it is made again from the records")
    try:
        write(path, manifest, parts())
        return _mapped_in_the_end(path, manifest)
    except (OSError, _Unusable) as error:
        say(
            f"{path / soundness.ARRAYS} could not be written ({getattr(error, 'strerror', None) or error}), so this "
            "process decodes the log into its own memory; open the log once where its folder can be written"
        )
    return joined([*_checked(manifest, parts())])


def write(path: Path, manifest: dict[str, Any], parts: Iterable[FlatLog]) -> None:
    """Writes the arrays of a log, which come in parts, and replaces older ones.

    Raises OSError if they cannot be written, and Damaged if they are not what the manifest counts.
    """
    _remove_leftovers(path)
    partial = path / f".{soundness.ARRAYS}-{uuid.uuid4().hex}"
    try:
        partial.mkdir()
        _write_files(partial, manifest, parts)
        listed = {"fingerprint": manifest["fingerprint"], "files": checksums(partial)}
        (partial / soundness.LIST).write_text(json.dumps(listed, indent=1))
        _put(partial, path, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, path: Path, manifest: dict[str, Any]) -> None:
    """Renames a folder, unless another process has put its own there: both have the same content."""
    target = path / soundness.ARRAYS
    if target.exists():
        with contextlib.suppress(_Unusable):
            _mapped(path, manifest)
            return
        old = partial.with_name(f"{partial.name}-old")
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        partial.replace(target)
    except OSError:
        if not (target / soundness.LIST).is_file():
            raise


def _remove_leftovers(path: Path) -> None:
    for partial in path.glob(f".{soundness.ARRAYS}-*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(partial)


def _mapped_in_the_end(path: Path, manifest: dict[str, Any]) -> FlatLog:
    """Maps the arrays. Two processes that find the same damage may both replace the folder, and a file is then missing
    for a moment: waits for it."""
    for wait_seconds in _WAITS_SECONDS:
        with contextlib.suppress(_Unusable):
            return _mapped(path, manifest)
        time.sleep(wait_seconds)
    return _mapped(path, manifest)


def _types(manifest: dict[str, Any]) -> dict[str, np.dtype]:
    soft = {"click_probability_N": np.float32} if PROBABILITY in manifest else {}
    context = {f"{_CONTEXT}{column['name']}_S": np.int32 for column in manifest["session_context"]}
    return {name: np.dtype(kind) for name, kind in {**_ARRAYS, **soft, **context}.items()}


def _length(name: str, manifest: dict[str, Any]) -> int:
    """Returns the entries of an array, by the letter at the end of its name."""
    users, sessions = manifest["users"], manifest["sessions"]
    by_letter = {"N": manifest["exposures"], "S": sessions, "S1": sessions + 1, "U1": users + 1}
    return by_letter[name.rpartition("_")[2]]


def _write_files(folder: Path, manifest: dict[str, Any], parts: Iterable[FlatLog]) -> None:
    with contextlib.ExitStack() as files:
        opened = {name: files.enter_context((folder / f"{name}.npy").open("wb")) for name in _types(manifest)}
        for name, kind in _types(manifest).items():
            header = {"descr": kind.str, "fortran_order": False, "shape": (_length(name, manifest),)}
            np.lib.format.write_array_header_1_0(opened[name], header)
        for name in ("session_item_offsets_S1", "user_session_offsets_U1"):
            opened[name].write(np.zeros(1, np.int64).tobytes())
        sessions = exposures = 0
        for part in _checked(manifest, parts):
            soft = {} if part.click_probability_N is None else {"click_probability_N": part.click_probability_N}
            content: dict[str, np.ndarray] = {
                **{name: getattr(part, name) for name in _ARRAYS},
                "session_item_offsets_S1": part.session_item_offsets_S1[1:] + exposures,
                "user_session_offsets_U1": part.user_session_offsets_U1[1:] + sessions,
                **soft,
                **{f"{_CONTEXT}{name}_S": code_S for name, code_S in part.session_context.items()},
            }
            for name, kind in _types(manifest).items():
                opened[name].write(content[name].astype(kind, copy=False).tobytes())
            sessions, exposures = sessions + len(part.session_role_S), exposures + len(part.item_N)


def _checked(manifest: dict[str, Any], parts: Iterable[FlatLog]) -> Iterator[FlatLog]:
    """Yields the parts. Raises Damaged if one, or all of them together, are not what the manifest counts."""
    users = sessions = exposures = 0
    for part in parts:
        soundness.check_part(manifest, part)
        users, sessions = users + part.users, sessions + len(part.session_role_S)
        exposures += len(part.item_N)
        yield part
    soundness.check_counts(manifest, users=users, sessions=sessions, exposures=exposures)


def _mapped(path: Path, manifest: dict[str, Any]) -> FlatLog:
    folder = path / soundness.ARRAYS
    if not folder.exists():
        raise _Unusable
    try:
        listed = read_object(folder / soundness.LIST, {"fingerprint": str, "files": dict})
        if listed["fingerprint"] != manifest["fingerprint"]:
            raise _Unusable("is of another log")
        found = {name: _map(folder, name, manifest, listed["files"]) for name in _types(manifest)}
    except (OSError, InputError) as error:
        raise _Unusable(f"is damaged ({str(error).splitlines()[0]})") from error
    offsets_S1 = found.pop("session_item_offsets_S1")
    context = {
        name.removeprefix(_CONTEXT).removesuffix("_S"): found.pop(name)
        for name in [*found]
        if name.startswith(_CONTEXT)
    }
    return FlatLog(**found, session_context=context, stored_offsets_S1=offsets_S1)


def _map(folder: Path, name: str, manifest: dict[str, Any], files: dict[str, Any]) -> np.ndarray:
    """Maps one array. Raises _Unusable if its bytes, its type or its length are not what they must be."""
    file, wanted = folder / f"{name}.npy", _types(manifest)[name]
    size, entry = file.stat().st_size, files.get(f"{name}.npy")
    if not isinstance(entry, list) or entry[:1] != [size]:
        raise _Unusable(f"is damaged ({file.name} has {size:,} bytes, and arrays.json does not list as many)")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _Unusable(f"is damaged ({file.name}: {str(error).splitlines()[0]})") from error
    if array.dtype != wanted:
        raise _Unusable(f"has numbers of the type {array.dtype.str} in {file.name}, where {wanted.str} is read here")
    if array.shape != (_length(name, manifest),):
        raise _Unusable(
            f"has {array.shape} numbers in {file.name}, and prepared.json counts {_length(name, manifest):,}"
        )
    return array.view(np.ndarray)
