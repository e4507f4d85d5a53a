"""The address of a folder in a bucket, as a user types it: `s3://BUCKET/NAME` or `gs://BUCKET/NAME`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from doors.errors import InputError, near_miss

SCHEMES = {"s3": "Amazon S3, or a server of its kind", "gs": "Google Cloud Storage"}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+(.*))?", re.DOTALL)  # pathlib makes one slash of two, or none


class Address(NamedTuple):
    """A folder in a bucket, or an object."""

    scheme: str
    bucket: str
    key: str
    """Without a slash at either end."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> Address:
        return self._replace(key=f"{self.key}/{name}")


def address_of(path: str | Path) -> Address | None:
    """Returns the address that `path` is, or None for a path of the file system.

    Raises InputError for a scheme that is not known, and for an address without a bucket or without a name in it.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return None
    scheme, rest = found[1], found[2] or ""
    if scheme not in SCHEMES and (not rest or Path(f"{scheme}:").exists()):
        return None
    bucket, _, key = rest.partition("/")
    typed = f"{scheme}://{rest}"
    if scheme not in SCHEMES:
        raise InputError(f"{typed}: {scheme}:// is no place for a folder; {near_miss(scheme, SCHEMES)}")
    key = key.strip("/")
    if not bucket or not key or not set(key.split("/")).isdisjoint(("", ".", "..")):
        raise InputError(f"{typed} names no folder in a bucket; wanted {scheme}://BUCKET/NAME")
    return Address(scheme, bucket, key)


_remembered: dict[Path, Address] = {}


def remember(folder: Path, address: Address) -> None:
    """Notes that a folder is a copy of what is at the address, for `shown` and `with_addresses`."""
    _remembered[folder] = address


def shown(path: str | Path) -> str:
    """Returns the address of a path in a copy, an address as it is written, and any other path as it is."""
    for folder, address in _remembered.items():
        if Path(path).is_relative_to(folder):
            return str(Path(path)).replace(str(folder), str(address), 1)
    address = address_of(path)
    return str(path if address is None else address)


def with_addresses(text: str) -> str:
    """Returns a message in which the paths of copies are addresses."""
    for folder, address in _remembered.items():
        text = text.replace(str(folder), str(address))
    return text


def absolute(path: str | Path) -> str:
    """Returns an address as it is written, and any other path from the root of the file system."""
    address = address_of(path)
    return str(Path(path).absolute()) if address is None else str(address)
