"""A prepared log in a bucket: fetched once a machine into a cache, and written so that a half-written one is no log.

A copy in the cache is named by the fingerprint of its log, so a log that was prepared again is fetched again, and the
arrays of a copy are mapped by all processes of the machine, like those of any log.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doors.address import Address, remember
from doors.files import named
from doors.state import Damaged, checked
from doors.storage import cache
from doors.storage.bucket import Bucket
from doors.terminal import say
from sessionrec_jax.data import soundness
from sessionrec_jax.errors import InputError

_UPLOADING = ".uploading"
"""An object that is there while a log is being written."""
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_THREADS = 8


def fetched(address: Address, *, again: bool = False) -> Path:
    """Returns the folder of this machine with the log. `again` fetches it even if there is a copy, a damaged one.

    Raises InputError if there is no whole log of this name, or no room for a copy.
    """
    bucket = Bucket(address)
    fingerprint = _manifest(bucket, address)["fingerprint"]
    logs = cache.kept("logs")
    folder = logs / fingerprint
    with cache.locked(logs / f".{fingerprint}.lock"):  # the other processes of this machine wait for one download
        if again:
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            _fetch(bucket, address, fingerprint, folder)
    remember(folder, address)
    return folder


def _manifest(bucket: Bucket, address: Address) -> dict[str, Any]:
    where = str(address / soundness.MANIFEST)
    try:
        manifest = checked(json.loads(bucket.get(address / soundness.MANIFEST)), {"fingerprint": str}, where)
    except FileNotFoundError:
        raise InputError(
            f"{address} is not a prepared log (it has no {soundness.MANIFEST}); "
            f"`sessionrec prepare SOURCE ... --out {address}` makes one"
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise Damaged(f"{where} holds no valid JSON ({error}); prepare the log again with --overwrite") from None
    if not _FINGERPRINT.fullmatch(manifest["fingerprint"]):
        raise Damaged(f"{where} is damaged: its fingerprint is {manifest['fingerprint'][:60]!r}")
    return manifest


def _fetch(bucket: Bucket, address: Address, fingerprint: str, folder: Path) -> None:
    found = {name: each for name, each in bucket.list(address).items() if name != _UPLOADING}
    say(f"fetching {address} ({sum(each.bytes for each in found.values()):,} bytes) into {folder}")
    partial = cache.of_this_process() / uuid.uuid4().hex
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: bucket.download(address / name, partial / name), found))
        soundness.check_bytes(partial)
        if json.loads((partial / soundness.MANIFEST).read_bytes())["fingerprint"] != fingerprint:
            raise Damaged(f"{partial} is damaged: it was written while it was read")
        with named(folder):
            partial.rename(folder)
    except Damaged as error:
        raise Damaged(str(error).replace(str(partial), str(address))) from None
    except FileNotFoundError:
        raise Damaged(f"{address} changed while it was read; type the same command again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_out(address: Address, overwrite: bool) -> None:
    """Raises InputError if a log may not be written there: before a long log is read."""
    bucket = Bucket(address)
    found = bucket.list(address)
    if soundness.MANIFEST in found and not overwrite:
        raise InputError(f"{address} exists already; give another --out, or --overwrite to replace it when all is done")
    if found and soundness.MANIFEST not in found and _UPLOADING not in found:
        raise InputError(f"{address} has other objects, and no prepared log, which is all that is replaced there")
    bucket.check_writable(address)


@contextmanager
def writing(address: Address) -> Iterator[Path]:
    """Gives the path of a folder to prepare. When the block ends, the log is in the bucket, its manifest last, and in
    the cache of this machine. Rejected rows go to the bucket too where they are too many for a log.
    """
    folder = cache.of_this_process() / uuid.uuid4().hex / Path(address.key).name
    folder.parent.mkdir()
    remember(folder, address)
    try:
        yield folder
        _upload(folder, address)
    finally:
        for path in folder.parent.glob("*.rejected.parquet"):
            Bucket(address).put(address._replace(key=f"{address.key}.rejected.parquet"), path)
        shutil.rmtree(folder.parent, ignore_errors=True)


def _upload(folder: Path, address: Address) -> None:
    bucket = Bucket(address)
    before = bucket.list(address)
    bucket.put(address / _UPLOADING, b"")
    bucket.delete([address / soundness.MANIFEST])  # while its other objects are replaced it is no log
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: bucket.put(address / name, files[name]), files.keys() - {soundness.MANIFEST}))
    bucket.delete(address / name for name in before.keys() - files.keys() - {_UPLOADING})
    bucket.put(address / soundness.MANIFEST, files[soundness.MANIFEST])
    bucket.delete([address / _UPLOADING])
    fingerprint = json.loads(files[soundness.MANIFEST].read_bytes())["fingerprint"]
    logs = cache.kept("logs")
    with cache.locked(logs / f".{fingerprint}.lock"):
        if not (logs / fingerprint).exists():
            folder.rename(logs / fingerprint)
