"""Who works on which run: leases as files, so that any number of workers on any hosts share a sweep folder.

    if (lease := leases.take(run_id, leases.newest().get(run_id, 0), on_loss)) is not None:
        with lease:
            ...
            lease.end("released")

The holder of a run is whoever made the file of its highest generation, leases/RUN_ID.K. Nobody takes a file away:
to take a run over is to make K + 1, by a hard link, which exists whole or not at all and once, on NFS too. What a
generation came to (released, failed, or neither: its worker died) is what `past` counts.

A lease's mtime is its heartbeat, and the time to hold it against is the mtime of a file that was touched just now, so
that one clock decides, the file server's. On the holder's own machine its death is known at once: a lock that it held
is free. A holder that stood still for LEASE_SECONDS finds the higher generation at its next heartbeat, and before it
writes a row; NFS may hide that name for another minute (acdirmax), in which two do the same work.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import write_json

LEASE_SECONDS = 120.0
"""Without a heartbeat for so long a worker of another machine counts as dead. NFS caches attributes for up to 60."""
_BEATS = 6
"""Heartbeats in that time."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class Lost(RuntimeError):
    """Another worker has taken the run over."""


def lock(file: IO[str], how: int) -> bool | None:
    """flock. False where another process holds it (with LOCK_NB), None where the file system knows no locks."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


@dataclass(frozen=True)
class Past:
    """What became of the generations of a run, since its failures were last forgiven."""

    generation: int = 0
    """The highest; 0: none."""
    worker: str | None = None
    """HOST:PID of the holder, dead or alive; None where the run was let go, or never held."""
    is_held: bool = False
    deaths: int = 0
    failures: tuple[str, ...] = ()
    """Their reasons, the last one first."""

    @property
    def attempts(self) -> int:
        """Those that came to nothing. A worker that was asked to stop, saved and let go made none."""
        return self.deaths + len(self.failures)


class Leases:
    """The leases of one sweep folder."""

    def __init__(self, sweep_dir: Path):
        self._folder = sweep_dir / "leases"

    def newest(self) -> dict[str, int]:
        """The highest generation by run_id."""
        highest: dict[str, int] = {}
        for path in self._folder.iterdir() if self._folder.exists() else ():
            run_id, _, generation = path.name.rpartition(".")
            if generation.isdigit() and not run_id.startswith("."):
                highest[run_id] = max(highest.get(run_id, 0), int(generation))
        return highest

    def past(self, run_id: str, generation: int) -> Past:
        """Of the generations up to that one. It is final once somebody has taken a higher one."""
        worker, is_held, deaths, failures = None, False, 0, []
        for number in range(generation, 0, -1):
            with (self._folder / f"{run_id}.{number}").open() as file:
                told = json.load(file)
                if told["state"] == "forgiven":
                    break
                if told["state"] == "failed":
                    failures.append(told["reason"])
                elif told["state"] == "running":
                    if number == generation:
                        worker, is_held = told["worker"], self._is_alive(file, told)
                    deaths += not (number == generation and is_held)
        return Past(generation, worker, is_held, deaths, tuple(failures))

    def _is_alive(self, file: IO[str], told: dict[str, Any]) -> bool:
        if told["machine"] == _machine(self._folder) and lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
        return self._now() - os.fstat(file.fileno()).st_mtime <= LEASE_SECONDS

    def _now(self) -> float:
        """By the clock that stamps the heartbeats; by this host's for one who may read the folder and not write."""
        try:
            return _touched(self._folder / ".clock")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            return time.time()

    def take(self, run_id: str, newest: int, on_loss: Callable[[], None]) -> Lease | None:
        """The lease of a run whose highest generation is `newest`; None where its holder is alive, or another process
        was faster. `on_loss` is called by the thread of its heartbeat."""
        if self.past(run_id, newest).is_held:
            return None
        self._folder.mkdir(exist_ok=True)
        (self._folder / ".clock").touch()
        told = {
            "worker": f"{platform.node()}:{os.getpid()}",
            "machine": _machine(self._folder),
            "state": "running",
            "reason": None,
        }
        unborn = self._folder / f".{uuid.uuid4().hex}"
        file = unborn.open("x")
        try:
            if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is None:
                told["machine"] = None
            file.write(json.dumps(told))
            file.flush()
            _touched(unborn)
            os.link(unborn, self._folder / f"{run_id}.{newest + 1}")
        except OSError as error:
            file.close()
            if isinstance(error, FileExistsError):
                return None
            if error.errno not in _NO_LINKS:
                raise
            raise InputError(
                f"{self._folder}: its file system has no hard links ({error.strerror}), by which workers agree who "
                "runs what; a mounted bucket has none. Wanted a local disk, NFS, Lustre or the like; use another --out."
            ) from None
        finally:
            unborn.unlink()
        return Lease(self._folder, run_id, self.past(run_id, newest), told, file, on_loss)


class Lease:
    """A run that is this process's until it ends it, loses it or dies. Use as a context: leaving it stops the heartbeat
    and frees the lock."""

    def __init__(
        self, folder: Path, run_id: str, past: Past, told: dict[str, Any], file: IO[str], on_loss: Callable[[], None]
    ):
        self.run_id, self.worker = run_id, told["worker"]
        self.past = past
        """Of the generations before this one."""
        own = past.generation + 1
        self._path, self._successor = (folder / f"{run_id}.{number}" for number in (own, own + 1))
        self._told, self._file, self._on_loss = told, file, on_loss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_beating()
        self._file.close()

    def renew(self) -> None:
        """A heartbeat. Raises Lost where another worker has the run now; else it is ours for LEASE_SECONDS more."""
        try:
            _touched(self._path)
        except FileNotFoundError:
            raise Lost(f"{self._path} was deleted") from None
        if self._successor.exists():
            raise Lost(f"{self._path.name} was taken over by {json.loads(self._successor.read_text())['worker']}")

    def end(self, state: Literal["released", "failed", "forgiven"], reason: str | None = None) -> None:
        """Lets the run go and says how it went."""
        self._stop_beating()
        write_json(self._path, self._told | {"state": state, "reason": reason})

    def _stop_beating(self) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / _BEATS):
            try:
                self.renew()
            except Lost:
                self._on_loss()
                break
            except OSError:
                continue  # the file server is away, for the others too


def _touched(path: Path) -> float:
    """Sets a file's mtime to the file server's now, and tells it."""
    os.utime(path)
    return path.stat().st_mtime


def _machine(folder: Path) -> str:
    """What shares its locks: one mount on one kernel. Containers may be one machine, and two mounts of a bucket two."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    kernel = boot.read_text().strip() if boot.exists() else platform.node()
    return f"{kernel} {folder.stat().st_dev}"
