"""Leases of a sweep in a bucket: objects in the place of the files of lease.py, by the same rules.

A worker holds a run if it made the object of the run's highest generation, leases/RUN_ID.K, by a put that succeeds only
if there is no such object (`If-None-Match: *` on S3, `x-goog-if-generation-match: 0` on Google Cloud Storage). A
heartbeat is a put that succeeds only while the object is the holder's own. Its time, and the time that it is compared
with, are those at which the bucket wrote objects, so that one clock decides. On the holder's own machine a death is
known at once, because the lock on its folder in the cache is free.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doors.state import Damaged, Kinds, checked
from doors.storage import cache, copies
from doors.storage.bucket import Unanswered
from experiments.sweep.lease import LEASE_SECONDS, Lease, Leases, Lost, Past
from sessionrec_jax.errors import InputError

_KINDS: Kinds = {
    "worker": str, "machine": str, "process": str, "state": str, "reason": (str, type(None)),
}  # fmt: skip
_CLOCK = "leases/.clock"


def leases_of(sweep_dir: Path) -> Leases | BucketLeases:
    """Returns the leases of a sweep folder, or of the bucket of which it is a copy."""
    copy = copies.copy_of(sweep_dir)
    return Leases(sweep_dir) if copy is None else BucketLeases(copy)


class BucketLeases:
    """The leases of one sweep in a bucket. `newest` looks, and the other methods go by what it saw."""

    def __init__(self, copy: copies.Copy):
        self._copy = copy
        self._now = time.time()
        self._states: dict[tuple[str, str], dict[str, Any]] = {}
        """The content of leases, by name and version."""

    def newest(self) -> dict[str, int]:
        """Reads the bucket, with the rows of other workers, and returns the highest generation of each run_id."""
        is_written = self._ask_the_time()
        self._copy.pull(copies.for_workers)
        self._now = self._copy.listing[_CLOCK].seconds if is_written else time.time()
        highest: dict[str, int] = {}
        for name in self._copy.listing:
            run_id, _, generation = name.removeprefix("leases/").rpartition(".")
            if name.startswith("leases/") and generation.isdigit():
                highest[run_id] = max(highest.get(run_id, 0), int(generation))
        return highest

    def _ask_the_time(self) -> bool:
        try:
            self._copy.bucket.put(self._copy.address / _CLOCK, b"")
        except Unanswered:
            raise
        except InputError:
            return False  # who may only read goes by the clock of this machine
        return True

    def past(self, run_id: str, generation: int) -> Past:
        """Does what `Leases.past` does."""
        worker, is_held, deaths, failures, faults = None, False, 0, [], []
        for number in range(generation, 0, -1):
            try:
                state = self._state(f"leases/{run_id}.{number}")
            except (FileNotFoundError, Damaged) as error:
                faults.append(f"{error}; it is taken for that of a worker that died")
                continue
            if state["state"] == "forgiven":
                break
            if state["state"] == "failed":
                failures.append(str(state["reason"]))
            elif state["state"] == "running":
                if number == generation:
                    worker, is_held = state["worker"], self._is_alive(f"leases/{run_id}.{number}", state)
                deaths += not (number == generation and is_held)
        return Past(generation, worker, is_held, deaths=deaths, failures=tuple(failures), faults=tuple(faults))

    def _state(self, name: str) -> dict[str, Any]:
        address = self._copy.address / name
        if name not in self._copy.listing:
            raise FileNotFoundError(f"{address} was deleted")
        key = name, self._copy.listing[name].version
        if key not in self._states:
            try:
                self._states[key] = checked(json.loads(self._copy.bucket.get(address)), _KINDS, str(address))
            except ValueError as error:
                raise error if isinstance(error, Damaged) else Damaged(f"{address} is damaged: {error}") from None
        return self._states[key]

    def _is_alive(self, name: str, state: dict[str, Any]) -> bool:
        if state["machine"] == _machine() and not cache.is_alive(Path(state["process"]).name):
            return False
        return self._now - self._copy.listing[name].seconds <= LEASE_SECONDS

    def take(self, run_id: str, newest: int, on_loss: Callable[[], None]) -> Lease | None:
        """Does what `Leases.take` does."""
        past = self.past(run_id, newest)
        if past.is_held:
            return None
        state = {
            "worker": f"{platform.node()}:{os.getpid()}",
            "machine": _machine(),
            "process": cache.of_this_process().name,
            "state": "running",
            "reason": None,
            "lease": uuid.uuid4().hex,  # no two have the same content, so that a repeated put knows its own
        }
        version = self._copy.bucket.create(self._copy.address / f"leases/{run_id}.{newest + 1}", _content(state))
        if version is None:
            return None
        return BucketLease(self._copy, run_id, past, state=state, version=version, on_loss=on_loss)


class BucketLease(Lease):
    """A lease that is an object."""

    def __init__(
        self,
        copy: copies.Copy,
        run_id: str,
        past: Past,
        state: dict[str, Any],
        version: str,
        on_loss: Callable[[], None],
    ):
        super().__init__(run_id, past, state, on_loss)
        own = past.generation + 1
        self._bucket, self._version = copy.bucket, version
        self._object, self._successor = (copy.address / f"leases/{run_id}.{number}" for number in (own, own + 1))

    def renew(self) -> None:
        version = self._bucket.replace(self._object, _content(self._state), self._version)
        if version is None:
            raise Lost(f"{self._object} was deleted or replaced")
        self._version = version
        if self._bucket.has(self._successor):
            raise Lost(f"{self._object} was taken over")

    def _write(self, state: dict[str, Any]) -> None:
        self._bucket.put(self._object, _content(state))


def _content(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


@functools.cache
def _machine() -> str:
    """Names the processes that share a cache: those of one folder on one kernel."""
    boot, folder = Path("/proc/sys/kernel/random/boot_id"), cache.kept("processes").stat()
    return f"{boot.read_text().strip() if boot.exists() else platform.node()} {folder.st_dev} {folder.st_ino}"
