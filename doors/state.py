"""JSON on disk that is checked before it is trusted: a file may be cut, edited, or of another kind than its name says.

    row = read_object(run_dir / "row.json", {"status": str})

The message names the file and the field. `Damaged` is an InputError, so a command that cannot go on ends with it, and
one that reads many files can catch it, report it and go on with the rest.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from doors.errors import InputError

Kinds = Mapping[str, type | tuple[type, ...]]
"""The type of each field that must be there. A bool is no number here; a tuple lists several types."""


class Damaged(InputError):
    """A file of a prepared log, a run or a sweep does not hold what it was written with."""


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises Damaged if it is not JSON, and FileNotFoundError if it does not exist."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} holds no valid JSON ({error}); it was cut short or edited") from None


def read_object(path: Path, kinds: Kinds) -> dict[str, Any]:
    """Reads a JSON object with these fields and perhaps others. Raises what `read_json` raises."""
    return checked(read_json(path), kinds, str(path))


def checked(values: Any, kinds: Kinds, where: str) -> dict[str, Any]:
    """Returns `values` if it is an object with these fields. Raises Damaged, which begins with `where`."""
    if not isinstance(values, dict):
        raise Damaged(f"{where} is damaged: it holds a {_named(type(values))}, and an object was written there")
    for name, kind in kinds.items():
        if name not in values:
            raise Damaged(f"{where} is damaged: it has no {name!r}")
        value = values[name]
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(map(_named, wanted))
            raise Damaged(f"{where} is damaged: its {name} is {str(value)[:60]!r}; a {names} was written there")
    return values


_CHUNK_BYTES = 1 << 20


def sizes(folder: Path) -> dict[str, int]:
    """Returns the bytes of every file below a folder, by its path from there."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}


def checksums(folder: Path, without: str = "") -> dict[str, list[int]]:
    """Returns bytes and CRC-32 of every file below a folder, except one of the name `without`, by its path from there.
    This finds damage, at a quarter of the cost of a cryptographic hash."""
    files = [path for path in _files(folder) if path.name != without]
    with ThreadPoolExecutor() as pool:
        sums = pool.map(_crc32, files)
        return {
            str(path.relative_to(folder)): [path.stat().st_size, crc] for path, crc in zip(files, sums, strict=True)
        }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def _named(kind: type) -> str:
    names = {dict: "object", list: "list", str: "text", int: "whole number", float: "number", type(None): "null"}
    return names.get(kind, kind.__name__)
