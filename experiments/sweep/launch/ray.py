"""Tasks on a Ray cluster: one for each run that nobody has, with the run's share of a node.

A task takes its run's lease, does it and ends. Ray starts it again when its worker process or its node dies; it goes on
from the checkpoint, after a node's death when the lease is stale. Until then, and while a worker outside of Ray has the
run, no task waits: the sweep starts one when the run is free.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.sweep import sweep_folder
from experiments.sweep.launch.cores import keep_to
from experiments.sweep.lease import Leases
from experiments.sweep.worker import DEFAULT_OPTIONS, Run, WorkerOptions, costliest_first, work
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stopped, StopSignals

_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_SAVE_SECONDS = 180.0
"""In which a task that was asked to stop has saved."""


@dataclass(frozen=True)
class Launcher:
    """--launcher ray: a task of a Ray cluster for each run. Every node needs this Python and sessionrec, and DATA and
    SWEEP under the same paths. Ctrl-C and SIGTERM cancel the tasks, which save. Ray kills the workers of a node that
    it stops: they lose the steps since the last checkpoint."""

    address: str = "auto"
    """HOST:PORT of the cluster's head. Left out: RAY_ADDRESS, else the cluster that this machine is part of."""
    cpus: int = 1
    """Cores of a run; one on the CPU keeps to so many."""
    gpus: int | None = None
    """GPUs of a run. Left out: one where a node has any."""
    tpus: int | None = None
    """TPU chips of a run. Left out: one where a node has any, and none has GPUs."""

    workers: ClassVar[int] = 1

    def check(self) -> None:
        for flag, value, least in (("cpus", self.cpus, 1), ("gpus", self.gpus, 0), ("tpus", self.tpus, 0)):
            if value is not None and value < least:
                raise InputError(f"--{flag} {value}; wanted at least {least}")
        _ray()

    def launch(
        self,
        sweep_dir: Path,
        run: Run,
        *,
        handling: WorkerOptions = DEFAULT_OPTIONS,
        look: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        ray, leases = _ray(), Leases(sweep_dir)
        missing = costliest_first(sweep_folder.read(sweep_dir)[1])
        with _connected(self.address), StopSignals() as asked:
            options = self._options([node["Resources"] for node in ray.nodes() if node["Alive"]])
            # One more than the run is tried again: the last one finds that it was tried often enough and says so.
            task = ray.remote(**options, max_retries=handling.retries + 1)(_task)
            cores = 0 if options["num_gpus"] or options["resources"] else self.cpus
            flying: dict[Any, str] = {}
            while (missing := sweep_folder.without_row(sweep_dir, missing)) and not asked():
                newest = leases.newest()
                for name in missing:
                    if name not in flying.values() and not leases.past(name, newest.get(name, 0)).is_held:
                        of_task = (sweep_dir.absolute(), name, run, handling, cores)
                        flying[task.options(name=name).remote(*of_task)] = name
                for reference in _ended(flying):
                    _raise_what_is_no_runs(reference, flying.pop(reference))
                look()
            for reference in flying:
                ray.cancel(reference)
            if missing and flying:
                ray.wait(list(flying), num_returns=len(flying), timeout=_SAVE_SECONDS)
            if asked() and (missing := sweep_folder.without_row(sweep_dir, missing)):
                raise Stopped(f"with {len(missing)} runs left", asked())

    def _options(self, nodes: list[dict[str, float]]) -> dict[str, Any]:
        """What a task asks for. Raises InputError where no node has it: Ray would wait for one for ever."""
        has = {what: any(node.get(what) for node in nodes) for what in ("GPU", "TPU")}
        gpus = int(has["GPU"] and not self.tpus) if self.gpus is None else self.gpus
        tpus = int(has["TPU"] and not gpus) if self.tpus is None else self.tpus
        wanted = {what: count for what, count in (("CPU", self.cpus), ("GPU", gpus), ("TPU", tpus)) if count}
        if not any(all(node.get(what, 0) >= count for what, count in wanted.items()) for node in nodes):
            kinds = sorted({_told({what: node.get(what, 0) for what in ("CPU", "GPU", "TPU")}) for node in nodes})
            raise InputError(
                f"a run wants {_told(wanted)}; no node of the Ray cluster has that. Its nodes have {'; '.join(kinds)}. "
                "Ask for less by --cpus, --gpus or --tpus, or add such a node."
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus, "resources": {"TPU": tpus} if tpus else {}}


def _told(resources: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {what}" for what, count in resources.items() if count) or "nothing"


def _task(sweep_dir: Path, name: str, run: Run, handling: WorkerOptions, cores: int) -> None:
    """The body of a task. That it was asked to stop is no error: its run has no row then, and that tells."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by it Ray cancels; a shell's `ray start &` ignores it
    if cores:
        keep_to(cores)
    with contextlib.suppress(Stopped, SystemExit, KeyboardInterrupt):
        work(sweep_dir, run, handling, only=name, waits=False)


def _ended(flying: dict[Any, str]) -> list[Any]:
    """Tasks that ended, after a second at the latest."""
    if not flying:
        time.sleep(_LOOK_SECONDS)
        return []
    return _ray().wait(list(flying), num_returns=len(flying), timeout=_LOOK_SECONDS)[0]


def _raise_what_is_no_runs(reference: Any, name: str) -> None:
    """A task ends well, whatever became of its run."""
    ray = _ray()
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, InputError) else error from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray gave the task of run {name} up, before its worker could hold the run") from error


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Raises InputError where no cluster answers: Ray itself takes a minute to say so and ends the process."""
    ray = _ray()
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        raise InputError(
            f"--address {address}: no Ray cluster to join there ({error}). Wanted HOST:PORT of a running one, as "
            "`ray start --head --port PORT` tells it, of the same versions of Ray and Python as here."
        ) from None
    with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of workers and nodes that died
        try:
            yield
        finally:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns that it will be so
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--launcher ray wants Ray ({error}): pip install 'sessionrec-jax[ray]'") from None
    return ray
