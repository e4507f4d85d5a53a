"""Copies of folders in a bucket: this process reads and writes the copy, and the changes go to the bucket.

    folder = opened("s3://BUCKET/RUN")       # an empty folder if there is nothing in the bucket yet
    (folder / "row.json").write_text(...)
    push(folder)

For a folder of the file system `opened` returns its path, and the other functions do nothing. In the bucket each file
is an object of the same name, except that a checkpoint is one object, an archive `checkpoints/STEP.zip`: an object
appears whole or not at all, so a kill never leaves half of a checkpoint. The bucket is the truth; a copy belongs to one
process and ends with it.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from doors.address import Address, address_of, remember
from doors.errors import InputError, NotSaved
from doors.files import make_folder, named
from doors.storage import cache
from doors.storage.bucket import Bucket, Found, Unanswered

_CHECKPOINTS, _ARCHIVE = "checkpoints/", ".zip"
_LAST = ("prepared.json", "sweep.json", "row.json")
"""These say that a folder is complete, so they are written after its other files."""

_copies: dict[Path, Copy] = {}


def everything(name: str) -> bool:
    return True


def for_workers(name: str) -> bool:
    """Holds for the files of a sweep that a worker reads of the runs of other workers."""
    return "/" not in name or name.endswith(("/row.json", "/halving.json"))


def for_readers(name: str) -> bool:
    """Holds for the files of a sweep that commands read: all but checkpoints and leases."""
    return f"/{_CHECKPOINTS}" not in f"/{name}" and not name.startswith("leases/")


class Copy:
    """A folder in a bucket, and the folder of this process with a copy of it."""

    def __init__(self, address: Address):
        self.address, self.bucket = address, Bucket(address)
        self.folder = cache.of_this_process() / address.scheme / address.bucket / address.key
        self.listing: dict[str, Found] = {}
        """The objects at the last `pull`, by their names from the folder."""
        self._version: dict[str, str] = {}
        self._stamp: dict[str, tuple[int, int]] = {}
        self._pulled = -math.inf
        self._alone = threading.RLock()  # checkpoints are pushed from a thread
        make_folder(self.folder)
        remember(self.folder, address)

    def pull(self, wanted: Callable[[str], bool] = everything, below: str = "") -> None:
        """Reads what has changed in the bucket since the last call, and removes what is gone. `below` is a folder of
        this one, or empty for the whole."""
        with self._alone:
            prefix = f"{below}/" if below else ""
            found = self.bucket.list(self.address / below if below else self.address)
            listed = {f"{prefix}{name}": each for name, each in found.items()}
            old = {name: each for name, each in self.listing.items() if not name.startswith(prefix)}
            self.listing = listed if not below else old | listed
            self._pulled = self._pulled if below else time.monotonic()
            for name in [name for name in self._version if name.startswith(prefix) and name not in listed]:
                self._forget(name)
                if _is_checkpoint(name):
                    shutil.rmtree((self.folder / name).with_suffix(""), ignore_errors=True)
                else:
                    (self.folder / name).unlink(missing_ok=True)
            for name, each in listed.items():
                if wanted(name) and self._version.get(name) != each.version:
                    self._download(name, each)

    def seconds_since_pull(self) -> float:
        """Returns the seconds since the last look at the whole folder."""
        return time.monotonic() - self._pulled

    def _download(self, name: str, found: Found) -> None:
        arrived = cache.of_this_process() / uuid.uuid4().hex
        try:
            self.bucket.download(self.address / name, arrived)
            if arrived.stat().st_size != found.bytes:
                raise FileNotFoundError  # it was replaced meanwhile
            path = self.folder / name
            with named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if _is_checkpoint(name):
                    _unpack(arrived, path.with_suffix(""))
                else:
                    arrived.replace(path)
                    self._stamp[name] = _stamp(path)
            self._version[name] = found.version
        except FileNotFoundError:
            self._forget(name)  # the next pull reads it
        finally:
            arrived.unlink(missing_ok=True)

    def push(self, below: Path) -> None:
        """Writes the files of a folder, without those in its folders, that have changed since the last call."""
        with self._alone:
            files = [path for path in below.iterdir() if path.is_file() and not path.name.startswith(".")]
            for path in sorted(files, key=lambda path: (path.name in _LAST, path.name)):
                name, stamp = str(path.relative_to(self.folder)), _stamp(path)
                if self._stamp.get(name) != stamp:
                    self._version[name] = self.bucket.put(self.address / name, path.read_bytes())
                    self._stamp[name] = stamp

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Writes a checkpoint, a folder, as one object."""
        archive = cache.of_this_process() / uuid.uuid4().hex
        name = f"{checkpoint.relative_to(self.folder)}{_ARCHIVE}"
        try:
            with named(archive), zipfile.ZipFile(archive, "w") as packed:  # not compressed: numbers hardly shrink
                for path in sorted(checkpoint.rglob("*")):
                    packed.write(path, path.relative_to(checkpoint))
            version = self.bucket.put(self.address / name, archive)
        finally:
            archive.unlink(missing_ok=True)
        with self._alone:
            self._version[name] = version

    def drop(self, below: str) -> None:
        """Deletes a folder of the copy. The bucket keeps it, and the next `pull` reads it again."""
        with self._alone:
            for name in [name for name in self._version if name.startswith(f"{below}/")]:
                self._forget(name)
            shutil.rmtree(self.folder / below, ignore_errors=True)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects of the folder."""
        with self._alone:
            for name in names:
                self.bucket.delete([self.address / name])
                self._forget(name)
                self.listing.pop(name, None)

    def _forget(self, name: str) -> None:
        self._version.pop(name, None)
        self._stamp.pop(name, None)


def _is_checkpoint(name: str) -> bool:
    folder, _, file = f"/{name}".rpartition("/")
    return f"{folder}/".endswith(f"/{_CHECKPOINTS}") and file.endswith(_ARCHIVE)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks a checkpoint. Of a damaged one a part is left, or nothing, and the reader of checkpoints says so."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)  # it makes no links, and no path of it leads out of the folder


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def opened(path: str | Path, wanted: Callable[[str], bool] = everything) -> Path:
    """Returns a path of the file system as it is; for an address, the copy of the folder, read from the bucket just
    now. Raises InputError if the bucket cannot be read or the copy not be written."""
    address = address_of(path)
    if address is None:
        return Path(path)
    copy = Copy(address)
    copy = _copies.setdefault(copy.folder, copy)
    copy.pull(wanted)
    return copy.folder


def for_writing(path: str | Path, wanted: Callable[[str], bool] = everything) -> Path:
    """Does what `opened` does, and checks that objects can be written. Raises InputError if they cannot."""
    folder = opened(path, wanted)
    if copy := copy_of(folder):
        copy.bucket.check_writable(copy.address)
    return folder


def for_reading(path: str | Path, wanted: Callable[[str], bool] = everything) -> Path:
    """Does what `opened` does. Raises InputError too if there is nothing of that name in the bucket."""
    folder = opened(path, wanted)
    copy = copy_of(folder)
    if copy and not copy.listing:
        raise InputError(f"there is no folder {copy.address}, or nothing in it; correct its name")
    return folder


def copy_of(folder: Path) -> Copy | None:
    """Returns the copy that a folder is, or is in; None for any other folder."""
    if not _copies:
        return None
    return next((_copies[each] for each in (folder, *folder.parents) if each in _copies), None)


def pull(folder: Path, wanted: Callable[[str], bool] = everything) -> None:
    """Reads what has changed in the bucket below a folder."""
    if copy := copy_of(folder):
        copy.pull(wanted, _name(copy, folder))


def pull_checkpoint(checkpoint: Path) -> None:
    """Reads one checkpoint of a run from the bucket."""
    if copy := copy_of(checkpoint):
        archive = f"{_name(copy, checkpoint)}{_ARCHIVE}"
        copy.pull(lambda name: name == archive, _name(copy, checkpoint.parent))


def drop(folder: Path) -> None:
    """Deletes a folder of a copy, but not what it is a copy of."""
    if copy := copy_of(folder):
        copy.drop(_name(copy, folder))


def exists(path: Path) -> bool:
    """Returns whether a file or a checkpoint is there, or was in the bucket at the last look."""
    copy = copy_of(path)
    if copy is None:
        return path.exists()
    return path.exists() or not {_name(copy, path), f"{_name(copy, path)}{_ARCHIVE}"}.isdisjoint(copy.listing)


def _name(copy: Copy, path: Path) -> str:
    return str(path.relative_to(copy.folder)) if path != copy.folder else ""


@contextlib.contextmanager
def midway() -> Iterator[None]:
    """Turns Unanswered into NotSaved: the input of a command that has begun is not wrong, and it may be tried again."""
    try:
        yield
    except Unanswered as error:
        raise NotSaved(str(error)) from error


def push(folder: Path) -> None:
    """Writes the changed files of `folder` to the bucket of which it is a copy, but not those in its folders. Raises
    NotSaved if the bucket does not answer."""
    if copy := copy_of(folder):
        with midway():
            copy.push(folder)


def push_checkpoint(checkpoint: Path) -> None:
    """Writes a complete checkpoint, after the files of its run: a log that is longer than its checkpoint is cut when
    the run goes on, and one that is shorter would stay so."""
    if copy := copy_of(checkpoint):
        with midway():
            copy.push(checkpoint.parent.parent)
            copy.push_checkpoint(checkpoint)


def delete_checkpoints(checkpoints: Iterable[Path]) -> None:
    """Deletes checkpoints in the bucket alone."""
    for path in checkpoints:
        if copy := copy_of(path):
            copy.delete([f"{_name(copy, path)}{_ARCHIVE}"])


def unlink(path: Path) -> None:
    """Deletes a file, in the bucket too."""
    if copy := copy_of(path):
        copy.delete([_name(copy, path)])
    path.unlink(missing_ok=True)
