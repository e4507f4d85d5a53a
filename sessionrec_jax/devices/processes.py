"""Many processes that train one model together, usually one a machine: how they meet, agree, and part.

    with joined(Hosts("auto")):
        row = run(...)  # on every process; process 0 writes

All of them see one mesh over all their devices and go through the same steps. What only one can decide or write is done
by process 0 and told to the others (`first`). Every process must have the same settings, and see the same prepared log
and the same run folder: a file system that all share. In one process everything here does nothing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # its key-value store and barriers, which Orbax reads from here too
from jax.experimental import multihost_utils

from sessionrec_jax.config.settings import Hosts
from sessionrec_jax.errors import InputError, NotSaved
from sessionrec_jax.runfolder.stopping import Stopped

_POLL_SECONDS = 10
_PARTING_SECONDS = 10
_AT_LEAST_SECONDS = 5  # that jax waits longer than we do, so that it is we who tell

T = TypeVar("T")


def is_multiprocess() -> bool:
    return jax.process_count() > 1


def is_process_zero() -> bool:
    """Whether this process writes and decides."""
    return jax.process_index() == 0


@contextmanager
def joined(hosts: Hosts) -> Iterator[None]:
    """For the time in which the processes of `hosts` work together; nothing where it names no coordinator.

    Raises InputError where a launcher was to be asked and there is none. Where they do not meet in time, or one of them
    fails alone or is lost, this one ends with a message: to wait for the others would be to hang.
    """
    if not hosts.coordinator:
        yield
        return
    global _wait_seconds
    _wait_seconds = hosts.timeout_seconds
    _meet(hosts)
    try:
        yield
    except (InputError, NotSaved, Stopped, SystemExit) as error:  # of all, as a rule
        _part_or_end(error)
        raise
    except BaseException as error:
        if not is_multiprocess():
            raise
        _end_at_once(error)
    else:
        jax.distributed.shutdown()  # waits for the others


def _meet(hosts: Hosts) -> None:
    auto = hosts.coordinator == "auto"
    where = {} if auto else {"coordinator_address": hosts.coordinator, "num_processes": hosts.count,
                             "process_id": hosts.index, "cluster_detection_method": "deactivate"}  # fmt: skip
    seconds = int(hosts.timeout_seconds)
    told = "the launcher's processes" if auto else f"{hosts.count} processes at {hosts.coordinator}"
    met = threading.Timer(seconds, _not_met, (told, seconds))  # jax would abort, with a stack of its own
    met.daemon = True
    met.start()
    # It would take SIGTERM for itself, also when nobody asks it; see `stopping` and `Wishes`.
    jax.config.update("jax_enable_preemption_service", False)
    # CPU devices may run two programs in either order, and processes that begin with another one wait for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=seconds + _AT_LEAST_SECONDS,
            heartbeat_timeout_seconds=int(hosts.lost_after_seconds),
            shutdown_timeout_seconds=seconds,
        )
    except (ValueError, RuntimeError) as error:
        wanted = ". Wanted a launcher that jax knows: srun, mpirun (Open MPI), a Kubernetes Job or JobSet (with the "
        wanted += "package kubernetes), a TPU pod; or --hosts coordinator=HOST:PORT,count=N,index=I"
        raise InputError(f"--hosts {hosts.coordinator}: {str(error).rstrip('.')}{wanted if auto else ''}") from None
    finally:
        met.cancel()
    if is_multiprocess() and is_process_zero():
        kind, devices = jax.devices()[0].device_kind, jax.device_count()
        print(f"{jax.process_count()} processes, {devices} devices ({kind})", file=sys.stderr, flush=True)


def _not_met(told: str, seconds: int) -> None:
    text = (
        f"error: {told} did not meet within {seconds} s. Each needs the same count, an index of its own from 0, and a "
        "coordinator that is the machine of index 0, with a port that is free there and open to the others; "
        "--hosts timeout_seconds=S waits longer"
    )
    print(text, file=sys.stderr, flush=True)
    os._exit(2)


def _part_or_end(error: BaseException) -> None:
    """Leaves the others where all came here; where this process failed alone, tells so and ends it."""
    if not is_multiprocess():
        return
    try:
        _client().wait_at_barrier("parting", 1000 * _PARTING_SECONDS)
    except jax.errors.JaxRuntimeError:
        code = 2 if isinstance(error, InputError) else getattr(error, "exit_code", 1)
        print(f"error: on process {jax.process_index()} alone: {error}", file=sys.stderr, flush=True)
        os._exit(code)
    jax.distributed.shutdown()


def _end_at_once(error: BaseException) -> None:
    """Ends this process, since the others no longer do the same as it: it failed alone, or one of them was lost."""
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
        last = (str(error).strip() or repr(error)).splitlines()[0]
        print(
            f"error: process {jax.process_index()} lost another one, or a device ({last}). The same command on all of "
            "them goes on from the newest checkpoint",
            file=sys.stderr,
        )
    elif not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)


@contextmanager
def in_step(*of_all: type[Exception]) -> Iterator[None]:
    """Around what all processes do in step: an error that is not `of_all` ends this one before it waits for another."""
    try:
        yield
    except Exception as error:
        if not is_multiprocess() or isinstance(error, (InputError, NotSaved, Stopped, *of_all)):
            raise
        _end_at_once(error)


def _client() -> Any:
    return distributed.global_state.client


_told = 0
_wait_seconds = Hosts.timeout_seconds


def wait_seconds() -> float:
    """How long processes wait for each other's part of a checkpoint."""
    return _wait_seconds


def on_process_zero(work: Callable[[], T]) -> T:
    """What `work` returns on process 0, as JSON holds it, on all; its InputError or OSError is raised on all. The
    others wait for as long as it takes. To be called by all, in the same order."""
    global _told
    if not is_multiprocess():
        return work()
    _told += 1
    name = f"told/{_told}"
    if not is_process_zero():
        kind, value = json.loads(_wait_for(name))
        if kind != "value":
            raise InputError(value) if kind == "input" else OSError(value)
        return value
    try:
        value = work()
    except InputError as error:
        _client().key_value_set(name, json.dumps(["input", str(error)]))
        raise
    except OSError as error:
        _client().key_value_set(name, json.dumps(["os", str(error)]))
        raise
    _client().key_value_set(name, json.dumps(["value", value]))
    return value


def _wait_for(name: str) -> str:
    while True:
        try:
            return _client().blocking_key_value_get(name, 1000 * _POLL_SECONDS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def commit_together(name: str, failure: Exception | None, finish: Callable[[], None]) -> None:
    """Where the part of each process went well (`failure` is None), process 0 runs `finish`; else, or where it fails,
    or somebody does not come in `wait_seconds`, all raise. Uses no device, so that a thread may call it. `name`: used
    once."""
    if not is_multiprocess():
        if failure is not None:
            raise failure
        return finish()
    client, seconds = _client(), wait_seconds()
    if failure is not None:
        client.key_value_set(f"{name}/failed/{jax.process_index()}", f"{type(failure).__name__}: {failure}")
    late = None
    try:
        client.wait_at_barrier(f"{name}/came", int(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        late = f"not every process had written its part within {seconds:.0f} s"
    if is_process_zero():
        failed = [text for _, text in client.key_value_dir_get(f"{name}/failed")]
        reason = failed[0] if failed else late
        if reason is None:
            try:
                finish()
            except Exception as error:  # noqa: BLE001 - told to all and raised below
                failure, reason = error, f"{type(error).__name__}: {error}"
        client.key_value_set(f"{name}/outcome", reason or "")
    else:
        try:
            reason = client.blocking_key_value_get(f"{name}/outcome", int(1000 * seconds))
        except jax.errors.JaxRuntimeError:
            reason = f"process 0 did not say within {seconds:.0f} s whether it is whole"
    if failure is not None:
        raise failure
    if reason:
        raise OSError(reason)
    return None


def gather(own: bytes) -> list[bytes]:
    """What each process brings, on all of them."""
    if not is_multiprocess():
        return [own]
    with jax.transfer_guard("allow"):
        lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(own))))
        padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
        padded[: len(own)] = np.frombuffer(own, np.uint8)
        rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def max_over_processes(own: int) -> int:
    """The largest number that a process brings, on all of them."""
    return max(int(number) for number in gather(b"%d" % own))


class Wishes:
    """What the processes ask of all, to stop and to save, and the counts that each has seen, added up.

    One process is obeyed at once. Several tell each other beside each step, through one small sum over their devices
    that is read when the step's own sums are: so a wish is obeyed by all before the same step, two after it was made.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._own, self._agreed = (0, False), (0, False)
        if is_multiprocess():
            self._here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
            self._rows = mesh.size
            self._spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
            whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            self._combine = jax.jit(_combined, out_shardings=whole)

    def agreed(self, signal: int, to_save: bool, *, is_last: bool) -> tuple[int, bool]:
        """(signal that asked to stop, whether to save), for this step, the same on all; `signal` and `to_save` are this
        process's wishes. Whether to save is process 0's to say. On the last step all wait for each other's."""
        if not is_multiprocess():
            return signal, to_save
        self._own = signal, to_save and is_process_zero()
        return (max_over_processes(signal), False) if is_last else self._agreed

    def tell(self, counts: Sequence[int]) -> Any:
        """Sent on its way; for `read`."""
        if not is_multiprocess():
            return counts
        row = np.array([*self._own, *counts], np.int32)
        rows = [row[None], *[np.zeros_like(row)[None]] * (len(self._here) - 1)]  # a row a device; the sum counts one
        parts = jax.device_put(rows, self._here)
        return self._combine(jax.make_array_from_single_device_arrays((self._rows, len(row)), self._spread, parts))

    def read(self, told: Any) -> Sequence[int]:
        """The counts of all processes."""
        if not is_multiprocess():
            return told
        signal, to_save, *counts = jax.device_get(told).tolist()
        self._agreed = signal, bool(to_save)
        return counts


def _combined(told_DX: jax.Array) -> jax.Array:
    return jax.numpy.concatenate([told_DX[:, :2].max(0), told_DX[:, 2:].sum(0)])
