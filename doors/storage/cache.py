"""Folders of this user for what comes from buckets, below XDG_CACHE_HOME (or ~/.cache) / sessionrec, of mode 700.

`kept` is for what may be used again, such as a log. `of_this_process` is removed when the process ends; what a killed
process has left is removed by the next one.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doors.errors import InputError
from doors.files import make_folder, named
from doors.private import make_private

_LOCK = ".lock"


def kept(name: str) -> Path:
    """Returns a folder that stays. Raises InputError or NotSaved if it cannot be made."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    root = base / "sessionrec"
    try:
        if base.exists() and not base.is_dir():
            raise InputError(f"{base} is a file; wanted a folder")
        make_folder(base)
        for folder in (root, root / name):
            make_private(folder)
    except (InputError, OSError) as error:
        raise type(error)(f"{error} (XDG_CACHE_HOME names the folder for copies of what is in a bucket)") from error
    return root / name


@functools.cache
def of_this_process() -> Path:
    """Returns the folder of this process. Its lock is held until the process ends, however it ends."""
    processes = kept("processes")
    for other in processes.iterdir():
        if not is_alive(other.name):
            shutil.rmtree(other, ignore_errors=True)
    folder = processes / uuid.uuid4().hex
    with locked(processes / _LOCK):  # else another process could take it for that of a dead one
        folder.mkdir(mode=0o700)
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a fork of this process ends earlier
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()

    atexit.register(remove)
    return folder


def is_alive(process: str) -> bool:
    """Returns whether the process of the folder with this name still runs, on this machine."""
    folder = kept("processes") / process
    if process == _LOCK:
        return True
    with locked(kept("processes") / _LOCK):
        try:
            file = (folder / _LOCK).open()
        except OSError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process of this machine is in a block with the same `path`."""
    with named(path):
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
