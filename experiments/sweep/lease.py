"""Leases say who works on which run. They are files, so that any number of workers on any hosts share a sweep folder.

    if (lease := leases.take(run_id, leases.newest().get(run_id, 0), on_loss)) is not None:
        with lease:
            ...
            lease.end("released")

A worker holds a run if it made the file of the run's highest generation, leases/RUN_ID.K. Nobody deletes such a file:
a worker takes a run over by making K + 1. It makes the file by a hard link, which appears whole and at one worker only,
on NFS too. `past` counts how the generations ended: released, failed, or neither, which means that the worker died.

A lease's mtime is its heartbeat. It is compared with the mtime of a file that was touched just now, so that one clock
decides, the file server's. On the holder's own machine a death is known at once, because the holder's lock is free. A
holder that was stopped for LEASE_SECONDS finds the higher generation at its next heartbeat, and before it writes a row.
NFS may hide that name for another minute (acdirmax); in that minute two workers may do the same work.
"""

from __future__ import annotations

import abc
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

from doors.files import open_own
from doors.state import Damaged, Kinds, checked
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import write_json
from sessionrec_jax.runfolder.lock import lock

LEASE_SECONDS = 120.0
"""A worker of another machine counts as dead after this time without a heartbeat. NFS caches attributes up to 60."""
_BEATS = 6
"""Heartbeats in LEASE_SECONDS."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


_KINDS: dict[bool, Kinds] = {
    True: {"worker": str, "machine": (str, type(None)), "state": str, "reason": (str, type(None))},
    False: {"reason": str},
}
"""The fields of a lease, and those of one that has failed."""
_UNKNOWN = "a worker of this machine"


class Lost(RuntimeError):
    """Another worker has taken the run over."""


@dataclass(frozen=True)
class Past:
    """The ends of a run's generations, since its failures were last forgiven."""

    generation: int = 0
    """The highest; 0 if the run was never held."""
    worker: str | None = None
    """HOST:PID of the holder, dead or alive; None if the run was released or never held."""
    is_held: bool = False
    deaths: int = 0
    failures: tuple[str, ...] = ()
    """Reasons, the last failure first."""
    faults: tuple[str, ...] = ()
    """A sentence for each file that is damaged, or whose heartbeat is in the future."""

    @property
    def attempts(self) -> int:
        """Failed ones. A worker that was asked to stop, saved and released the run does not count."""
        return self.deaths + len(self.failures)


class Leases:
    """The leases of one sweep folder."""

    def __init__(self, sweep_dir: Path):
        self._folder = sweep_dir / "leases"

    def newest(self) -> dict[str, int]:
        """Returns the highest generation of each run_id."""
        highest: dict[str, int] = {}
        for path in self._folder.iterdir() if self._folder.exists() else ():
            run_id, _, generation = path.name.rpartition(".")
            if generation.isdigit() and not run_id.startswith("."):
                highest[run_id] = max(highest.get(run_id, 0), int(generation))
        return highest

    def past(self, run_id: str, generation: int) -> Past:
        """Returns how the generations up to this one ended; it is final once somebody has taken a higher one."""
        worker, is_held, deaths, failures, faults = None, False, 0, [], []
        for number in range(generation, 0, -1):
            path = self._folder / f"{run_id}.{number}"
            try:
                file = open_own(path, "r")
            except InputError as error:
                faults.append(str(error))
                continue
            with file:
                try:
                    state = checked(json.loads(file.read()), _KINDS[True], str(path))
                    state = checked(state, _KINDS[state["state"] != "failed"], str(path))
                except ValueError as error:
                    is_held = number == generation and lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB) is False
                    holder = "a process of this machine holds it" if is_held else "nobody holds it"
                    damage = error if isinstance(error, Damaged) else f"{path} is damaged: {error}"
                    faults.append(f"{damage}; it is taken for that of a worker that died, and {holder}")
                    worker = _UNKNOWN if is_held else worker
                    continue
                if state["state"] == "forgiven":
                    break
                if state["state"] == "failed":
                    failures.append(state["reason"])
                elif state["state"] == "running":
                    if number == generation:
                        ahead = os.fstat(file.fileno()).st_mtime - self._now()
                        worker, is_held = state["worker"], self._is_alive(file, state, ahead)
                        faults += [_from_the_future(path, ahead)] if ahead > LEASE_SECONDS else []
                    deaths += not (number == generation and is_held)
        return Past(generation, worker, is_held, deaths=deaths, failures=tuple(failures), faults=tuple(faults))

    def _is_alive(self, file: IO[str], state: dict[str, Any], seconds_ahead: float) -> bool:
        if state["machine"] == _machine(self._folder) and lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
        return abs(seconds_ahead) <= LEASE_SECONDS  # one far in the future would be held for ever

    def _now(self) -> float:
        """The time by the clock that stamps the heartbeats; by this host's clock if we may only read the folder."""
        try:
            (self._folder / ".clock").touch()  # a cleaner may have deleted it
            return _touched(self._folder / ".clock")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            return time.time()

    def take(self, run_id: str, newest: int, on_loss: Callable[[], None]) -> Lease | None:
        """Takes a run whose highest generation is `newest`. Returns None if its holder is alive or another process was
        faster. The thread of the heartbeat calls `on_loss` if the run is lost."""
        if self.past(run_id, newest).is_held:
            return None
        self._folder.mkdir(exist_ok=True)
        (self._folder / ".clock").touch()
        state = {
            "worker": f"{platform.node()}:{os.getpid()}",
            "machine": _machine(self._folder),
            "state": "running",
            "reason": None,
        }
        unnamed = self._folder / f".{uuid.uuid4().hex}"
        file = unnamed.open("x")
        try:
            if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is None:
                state["machine"] = None
            file.write(json.dumps(state))
            file.flush()
            _touched(unnamed)
            os.link(unnamed, self._folder / f"{run_id}.{newest + 1}")
        except OSError as error:
            file.close()
            if isinstance(error, FileExistsError):
                return None
            if error.errno not in _NO_LINKS:
                raise
            raise InputError(
                f"{self._folder}: its file system has no hard links ({error.strerror}), which workers need to agree "
                "who runs what (a mounted bucket has none). Wanted a local disk, NFS, Lustre, or s3://BUCKET/NAME; use "
                "another --out."
            ) from None
        finally:
            unnamed.unlink()
        past = self.past(run_id, newest)
        return FileLease(self._folder, run_id, past, state=state, file=file, on_loss=on_loss)


class Lease(abc.ABC):
    """A run that this process holds until it ends the lease, loses it or dies. Leaving it as a context stops the
    heartbeat."""

    def __init__(self, run_id: str, past: Past, state: dict[str, Any], on_loss: Callable[[], None]):
        self.run_id, self.worker = run_id, state["worker"]
        self.past = past
        """The generations before this one."""
        self._state, self._on_loss = state, on_loss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_beating()

    @abc.abstractmethod
    def renew(self) -> None:
        """Makes a heartbeat, which keeps the run for LEASE_SECONDS more. Raises Lost if another worker has it now."""

    @abc.abstractmethod
    def _write(self, state: dict[str, Any]) -> None:
        """Writes how the run went."""

    def end(self, state: Literal["released", "failed", "forgiven"], reason: str | None = None) -> None:
        """Releases the run and records how it went."""
        self._stop_beating()
        self._write(self._state | {"state": state, "reason": reason})

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
            except (OSError, InputError):
                continue  # the file server does not answer, to the others neither


class FileLease(Lease):
    """A lease in a sweep folder of the file system. Leaving it as a context also frees its lock."""

    def __init__(
        self, folder: Path, run_id: str, past: Past, state: dict[str, Any], file: IO[str], on_loss: Callable[[], None]
    ):
        super().__init__(run_id, past, state, on_loss)
        own = past.generation + 1
        self._path, self._successor = (folder / f"{run_id}.{number}" for number in (own, own + 1))
        self._file = file

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._file.close()

    def renew(self) -> None:
        try:
            _touched(self._path)
        except FileNotFoundError:
            raise Lost(f"{self._path} was deleted") from None
        if self._successor.exists():
            raise Lost(f"{self._path.name} was taken over by {self._successor.name}")

    def _write(self, state: dict[str, Any]) -> None:
        write_json(self._path, state)


def _from_the_future(path: Path, ahead: float) -> str:
    return (
        f"{path}: its heartbeat is {ahead:,.0f} s in the future, by a clock that was wrong; it counts as that of a "
        "worker that died"
    )


def _touched(path: Path) -> float:
    """Sets a file's mtime to the file server's time, and returns it."""
    os.utime(path)
    return path.stat().st_mtime


def _machine(folder: Path) -> str:
    """Names the processes that share locks: those of one mount on one kernel. Two containers may be one machine in this
    sense, and two mounts of a bucket are two."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    kernel = boot.read_text().strip() if boot.exists() else platform.node()
    return f"{kernel} {folder.stat().st_dev}"
