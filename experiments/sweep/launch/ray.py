"""Tasks on a Ray cluster: one for each run that nobody has, with the run's share of a node.

A task takes its run's lease, does the run and ends. Ray starts it again when its worker process or its node dies; the
run then goes on from its checkpoint, after a node's death when the lease is stale. While the run is not free, no task
waits for it: the sweep starts one when it is.
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

from experiments.plugins import environment as plugin_environment
from experiments.sweep import halving, sweep_folder
from experiments.sweep.launch.cores import keep_to
from experiments.sweep.lease import Leases
from experiments.sweep.worker import costliest_first, work
from experiments.sweep.worker_options import DEFAULT_OPTIONS, DoRun, WorkerOptions, check_least
from experiments.verbose import environment as verbose_environment
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stopped, StopSignals

_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_SAVE_SECONDS = 180.0
"""Time for tasks that were asked to stop: they save."""


@dataclass(frozen=True)
class Launcher:
    """--launcher ray: a task of a Ray cluster for each run. Every node needs this Python and sessionrec, and DATA and
    SWEEP under the same paths. Ctrl-C and SIGTERM cancel the tasks, which save. If Ray stops a node, it kills the
    workers there: they lose the steps since the last checkpoint."""

    address: str = "auto"
    """HOST:PORT of the cluster's head. Left out: RAY_ADDRESS, else the cluster that this machine is part of."""
    cpus: int = 1
    """Cores of a run. A run on the CPU keeps to this number."""
    gpus: int | None = None
    """GPUs of a run. Left out: one where a node has any."""
    tpus: int | None = None
    """TPU chips of a run. Left out: one where a node has any and no node has GPUs."""

    workers: ClassVar[int] = 1

    def check(self) -> None:
        check_least(self, cpus=1, gpus=0, tpus=0)
        _ray()

    def launch(
        self,
        sweep_dir: Path,
        run: DoRun,
        *,
        options: WorkerOptions = DEFAULT_OPTIONS,
        refresh: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        ray, leases = _ray(), Leases(sweep_dir)
        configs = sweep_folder.read(sweep_dir)[1]
        missing = costliest_first(configs)
        with _connected(self.address), StopSignals() as asked:
            wanted = self._wanted([node["Resources"] for node in ray.nodes() if node["Alive"]])
            # One more than the retries: the last task finds that the run was tried often enough and writes its row.
            task = ray.remote(**wanted, max_retries=options.retries + 1)(_task)
            cores = 0 if wanted["num_gpus"] or wanted["resources"] else self.cpus
            tasks: dict[Any, str] = {}
            while (missing := sweep_folder.without_row(sweep_dir, missing)) and not asked():
                newest = leases.newest()
                for name in missing:
                    if name in tasks.values() or not halving.is_ready(sweep_dir, configs, name):
                        continue
                    if not leases.past(name, newest.get(name, 0)).is_held:
                        named = task.options(name=name)
                        tasks[named.remote(sweep_dir.absolute(), name, run, options, cores=cores)] = name
                for reference in _ended(tasks):
                    _raise_other_errors(reference, tasks.pop(reference))
                refresh()
            for reference in tasks:
                ray.cancel(reference)
            if missing and tasks:
                ray.wait(list(tasks), num_returns=len(tasks), timeout=_SAVE_SECONDS)
            if asked() and (missing := sweep_folder.without_row(sweep_dir, missing)):
                raise Stopped(f"with {len(missing)} runs left", asked())

    def _wanted(self, nodes: list[dict[str, float]]) -> dict[str, Any]:
        """The resources of a task. Raises InputError if no node has them, since Ray would wait for ever."""
        has = {what: any(node.get(what) for node in nodes) for what in ("GPU", "TPU")}
        gpus = int(has["GPU"] and not self.tpus) if self.gpus is None else self.gpus
        tpus = int(has["TPU"] and not gpus) if self.tpus is None else self.tpus
        wanted = {what: count for what, count in (("CPU", self.cpus), ("GPU", gpus), ("TPU", tpus)) if count}
        if not any(all(node.get(what, 0) >= count for what, count in wanted.items()) for node in nodes):
            kinds = sorted({_text({what: node.get(what, 0) for what in ("CPU", "GPU", "TPU")}) for node in nodes})
            raise InputError(
                f"a run wants {_text(wanted)}; no node of the Ray cluster has that. Its nodes have {'; '.join(kinds)}. "
                "Ask for less by --cpus, --gpus or --tpus, or add such a node."
            )
        return {"num_cpus": self.cpus, "num_gpus": gpus, "resources": {"TPU": tpus} if tpus else {}}


def _text(resources: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {what}" for what, count in resources.items() if count) or "nothing"


def _task(sweep_dir: Path, name: str, run: DoRun, options: WorkerOptions, cores: int) -> None:
    """The body of a task. A task that was asked to stop ends without an error; the missing row shows it."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # Ray cancels by SIGINT, which a shell's `ray start &` ignores
    if cores:
        keep_to(cores)
    with contextlib.suppress(Stopped, SystemExit, KeyboardInterrupt):
        work(sweep_dir, run, options, only=name, waits=False)


def _ended(tasks: dict[Any, str]) -> list[Any]:
    """Returns the tasks that ended, after a second at the latest."""
    if not tasks:
        time.sleep(_POLL_SECONDS)
        return []
    return _ray().wait(list(tasks), num_returns=len(tasks), timeout=_POLL_SECONDS)[0]


def _raise_other_errors(reference: Any, name: str) -> None:
    """Raises the error of a task. An error of its run is not one: the task then ends normally."""
    ray = _ray()
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, InputError) else error from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray gave up the task of run {name} before its worker held the run") from error


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connects to the cluster. Raises InputError if none answers; Ray would end the process after a minute."""
    ray = _ray()
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            # the workers of a cluster do not inherit it
            runtime_env={"env_vars": plugin_environment() | verbose_environment()},
        )
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        raise InputError(
            f"--address {address}: no Ray cluster to join there ({error}). Wanted HOST:PORT of a running one, as "
            "`ray start --head --port PORT` prints it, with the same versions of Ray and Python as here."
        ) from None
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints there which workers and nodes died
        try:
            yield
        finally:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the future default, which Ray otherwise warns about
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--launcher ray needs Ray ({error}): pip install 'sessionrec-jax[ray]'") from None
    return ray
