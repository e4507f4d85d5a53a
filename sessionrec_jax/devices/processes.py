"""Several processes that train one model together, usually one per machine: how they meet, agree, and part.

    with joined(Hosts("auto")):
        row = run(...)  # on every process; process 0 writes

All of them see one mesh over all their devices and take the same steps. Decisions and files that only one process may
make are made by process 0, which sends the result to the others (`on_process_zero`). Every process must have the same
settings, and see the same prepared log and run folder on a shared file system. In a single process everything here does
nothing.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import clusters, distributed  # key-value store and barriers, which Orbax reads from here too
from jax.experimental import multihost_utils

from sessionrec_jax.config.settings import Hosts
from sessionrec_jax.devices.lifeline import Lifeline
from sessionrec_jax.devices.meeting import Meeting, Place, check_megascale, meet
from sessionrec_jax.devices.watchdog import Watchdog
from sessionrec_jax.errors import InputError, NotSaved
from sessionrec_jax.runfolder.stopping import Stopped

_POLL_SECONDS = 10
_PARTING_SECONDS = 10
_AT_LEAST_SECONDS = 5  # jax waits this much longer than we do, so that the error message is ours
_NAMED_WITHIN_SECONDS = 2  # so long the lifeline may take to name a lost process
_PORTS = 16

T = TypeVar("T")


def is_multiprocess() -> bool:
    return jax.process_count() > 1


def is_process_zero() -> bool:
    """True for the one process that writes files and decides."""
    return jax.process_index() == 0


@contextmanager
def joined(hosts: Hosts, run: str = "") -> Iterator[None]:
    """Joins the processes of `hosts` for as long as the context lasts; it does nothing without a coordinator.

    `run` names the run and its settings; processes of different runs do not join. Raises InputError if the coordinator
    is "auto" and no launcher is found, or if the processes do not meet in time; it names those that are missing. If one
    of them fails alone or is lost, this process ends with a message, because waiting for the others would hang.
    """
    if not hosts.coordinator:
        yield
        return
    global _wait_seconds
    _wait_seconds = hosts.timeout_seconds
    with _watched(hosts, _join(hosts, run)), _parting():
        yield


@contextmanager
def _watched(hosts: Hosts, meeting: Meeting | None) -> Iterator[None]:
    """Ends this process when another one is lost, or when it is stuck itself."""
    global _watchdog
    faulthandler.enable()  # jax may abort this process; then the stacks of its threads are written
    lifeline = Lifeline(meeting.peers, hosts.lost_after_seconds, _end_for_lost) if meeting and meeting.peers else None
    _watchdog = Watchdog(hosts.stuck_after_seconds, f"process {jax.process_index()}")
    try:
        yield
    finally:
        _watchdog.end()
        _watchdog = None
        if lifeline is not None:
            lifeline.part()


@contextmanager
def _parting() -> Iterator[None]:
    """Leaves the other processes together, or ends this one at once if it alone has failed."""
    try:
        yield
    except (InputError, NotSaved, Stopped, SystemExit) as error:  # as a rule every process raises it
        _part_or_end(error)
        raise
    except BaseException as error:
        if not is_multiprocess():
            raise
        _end_at_once(error)
    else:
        jax.distributed.shutdown()  # waits for the others


def _join(hosts: Hosts, run: str) -> Meeting | None:
    """Connects jax with the other processes. Returns their meeting; None if jax alone knows where they meet."""
    auto = hosts.coordinator == "auto"
    where, meeting = _launched(hosts, run) if auto else _named(hosts, run)
    seconds = int(hosts.timeout_seconds)
    expected = "the launcher's processes" if auto else f"{hosts.count} processes at {hosts.coordinator}"
    met = threading.Timer(seconds, _not_met, (expected, seconds))  # jax would abort with a stack trace
    met.daemon = True
    met.start()
    # That service would take SIGTERM for itself; see runfolder/stopping.py and stop_vote.py.
    jax.config.update("jax_enable_preemption_service", False)
    # CPU devices may run two programs in either order, and processes with different orders would wait for ever.
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
        if meeting and meeting.claim:
            meeting.claim.close()
    if is_multiprocess() and is_process_zero():
        kind, devices = jax.devices()[0].device_kind, jax.device_count()
        print(f"{jax.process_count()} processes, {devices} devices ({kind})", file=sys.stderr, flush=True)
    return meeting


def _named(hosts: Hosts, run: str) -> tuple[dict[str, Any], Meeting]:
    """Returns the arguments of jax.distributed.initialize for processes that --hosts names, after they have met."""
    host, _, port = hosts.coordinator.rpartition(":")
    check_megascale(host)
    meeting = meet(Place(host, [int(port)], hosts.count, hosts.index, run), hosts.timeout_seconds)
    return _where(meeting, hosts.count, hosts.index) | {"cluster_detection_method": "deactivate"}, meeting


def _launched(hosts: Hosts, run: str) -> tuple[dict[str, Any], Meeting | None]:
    """Returns the same for the processes of a launcher. Those of srun and mpirun share machines with other jobs, so
    process 0 takes a port that is free; TPU pods and Kubernetes have a network of their own."""
    if not any(cluster.is_env_present() for cluster in (clusters.SlurmCluster, clusters.OmpiCluster)):
        return {}, None
    address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(hosts.timeout_seconds)
    )
    host, _, port = address.rpartition(":")
    first = min(int(port), 2**16 - _PORTS)
    job = os.environ.get("SLURM_JOB_ID", "") + "." + os.environ.get("SLURM_STEP_ID", "")
    meeting = meet(Place(host, range(first, first + _PORTS), count, index, f"{run} {job}"), hosts.timeout_seconds)
    return _where(meeting, count, index) | {"local_device_ids": devices}, meeting


def _where(meeting: Meeting, count: int, index: int) -> dict[str, Any]:
    bind = {"coordinator_bind_address": meeting.bind} if index == 0 else {}
    return {"coordinator_address": meeting.coordinator, "num_processes": count, "process_id": index, **bind}


def _not_met(expected: str, seconds: int) -> None:
    text = (
        f"error: {expected} did not meet within {seconds} s. Each needs the same count, an index of its own from 0, "
        "and a coordinator that is the machine of index 0, with a port that is free there and open to the others; "
        "--hosts timeout_seconds=S waits longer"
    )
    print(text, file=sys.stderr, flush=True)
    os._exit(2)


def _part_or_end(error: BaseException) -> None:
    """Leaves the others if all of them are here; if this process failed alone, reports that and ends it."""
    if not is_multiprocess():
        return
    try:
        _client().wait_at_barrier("parting", 1000 * _PARTING_SECONDS)
    except jax.errors.JaxRuntimeError:
        print(f"error: on process {jax.process_index()} alone: {error}", file=sys.stderr, flush=True)
        os._exit(getattr(error, "exit_code", 1))
    jax.distributed.shutdown()


def _end_for_lost(sentence: str) -> None:
    """Ends this process, because another one is lost; `sentence` says which."""
    advice = "The same command on all of them goes on from the newest checkpoint"
    print(f"error: {sentence}. {advice}", file=sys.stderr, flush=True)
    os._exit(1)


def _end_at_once(error: BaseException) -> None:
    """Ends this process, because it failed alone, or one of the others was lost: they no longer take the same steps."""
    if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
        time.sleep(_NAMED_WITHIN_SECONDS)  # the lifeline ends this process first, if it knows which one is lost
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
def in_step(*shared: type[Exception]) -> Iterator[None]:
    """Wraps work that all processes do in step. An error that only this process may have ends it, because the others
    would wait for it; errors of the types `shared`, which all processes raise, pass through."""
    try:
        yield
    except Exception as error:
        if not is_multiprocess() or isinstance(error, (InputError, NotSaved, Stopped, *shared)):
            raise
        _end_at_once(error)


_watchdog: Watchdog | None = None


def beat() -> None:
    """Says that this process takes its steps; see `stuck_after_seconds` of Hosts."""
    if _watchdog is not None:
        _watchdog.beat()


def _client() -> Any:
    return distributed.global_state.client


_sent = 0
"""The number of results that process 0 has sent."""
_wait_seconds = Hosts.timeout_seconds


def wait_seconds() -> float:
    """Returns how long processes wait for each other's part of a checkpoint."""
    return _wait_seconds


def on_process_zero(work: Callable[[], T]) -> T:
    """Runs `work` on process 0 and returns its result on all processes, passed on as JSON.

    An InputError or OSError is raised on all. The others wait as long as it takes. All processes must call it, in the
    same order.
    """
    global _sent
    if not is_multiprocess():
        return work()
    _sent += 1
    name = f"sent/{_sent}"
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
    """Lets process 0 run `finish` once every process has done its own part without a `failure`.

    If a part or `finish` failed, or a process does not arrive within `wait_seconds`, all raise. It uses no device, so a
    thread may call it. Each `name` is used once.
    """
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
            except Exception as error:  # noqa: BLE001 - passed on to all processes and raised below
                failure, reason = error, f"{type(error).__name__}: {error}"
        client.key_value_set(f"{name}/outcome", reason or "")
    else:
        try:
            reason = client.blocking_key_value_get(f"{name}/outcome", int(1000 * seconds))
        except jax.errors.JaxRuntimeError:
            reason = f"process 0 did not say within {seconds:.0f} s whether the checkpoint is whole"
    if failure is not None:
        raise failure
    if reason:
        raise OSError(reason)
    return None


def gather(own: bytes) -> list[bytes]:
    """Returns the bytes of every process, on all processes."""
    if not is_multiprocess():
        return [own]
    with jax.transfer_guard("allow"):
        lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(own))))
        padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
        padded[: len(own)] = np.frombuffer(own, np.uint8)
        rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def max_over_processes(own: int) -> int:
    """Returns the largest `own` of all processes, on all processes."""
    return max(int(number) for number in gather(b"%d" % own))
