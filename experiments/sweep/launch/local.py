"""Worker processes on this machine. Each calls `worker.work` on the sweep folder; a new one replaces one that dies.

On a CPU each keeps to its share of the cores: two pinned processes do 1.6-1.95 times the steps of one process on both.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from doors.address import shown
from experiments.sweep import sweep_folder
from experiments.sweep.worker import work
from experiments.sweep.worker_options import DEFAULT_OPTIONS, DoRun, WorkerOptions, check_least
from sessionrec_jax.runfolder.stopping import STOPPING, Stopped, StopSignals

_POLL_SECONDS = 1.0
_ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")


def default_workers() -> int:
    """Returns one worker for each core, at most four, because each holds the log and its own jax. Returns one where
    there is an accelerator, because every worker would take all of its memory."""
    if any(Path(device).exists() for device in _ACCELERATORS):
        return 1
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class Launcher:
    """--launcher local: worker processes on this machine. Ctrl-C and SIGTERM are passed on to them, and they save."""

    workers: int = field(default_factory=default_workers)
    """Worker processes; on a CPU each keeps to its share of the cores. Left out: one where there is an accelerator,
    else one for each core and at most four. 0: write the folder and leave its runs to `sessionrec worker`."""

    def check(self) -> None:
        check_least(self, workers=0)

    def launch(
        self,
        sweep_dir: Path,
        run: DoRun,
        *,
        options: WorkerOptions = DEFAULT_OPTIONS,
        refresh: Callable[[], None] = lambda: None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        missing = list(sweep_folder.read(sweep_dir)[1])

        def left() -> int:
            missing[:] = sweep_folder.without_row(sweep_dir, missing)
            return len(missing)

        context = multiprocessing.get_context("spawn")  # jax does not survive a fork

        def start(number: int) -> BaseProcess:
            arguments = (number, self.workers, Path(shown(sweep_dir)), run, options, os.getpid())
            worker = context.Process(target=_work, args=arguments)
            worker.start()
            return worker

        with StopSignals() as asked:
            crew = {number: start(number) for number in range(min(self.workers, left()))}
            try:
                while crew and not asked():
                    multiprocessing.connection.wait([worker.sentinel for worker in crew.values()], _POLL_SECONDS)
                    refresh()
                    for number, worker in tuple(crew.items()):
                        code = worker.exitcode
                        if code in (1, 2):  # it has printed why
                            raise SystemExit(code)
                        if code is None or (code and asked()):
                            continue
                        del crew[number]
                        is_replaced = code != 0 and left() > 0
                        if is_replaced:
                            crew[number] = start(number)
                        if code:  # -9: SIGKILL, often for memory
                            report(f"a worker ended with {code}" + ("; another takes its place" if is_replaced else ""))
            finally:
                _end(crew.values())
            if asked() and left():
                raise Stopped(f"with {left()} runs left", asked())


def _end(workers: Collection[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def _work(number: int, workers: int, sweep_dir: Path, run: DoRun, options: WorkerOptions, parent: int) -> None:
    """The process of one worker."""
    from experiments.exit_code import exit_code

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for each in set(STOPPING) - {signal.SIGTERM}:  # a terminal's reach every process; the sweep's own passes them on
        signal.signal(each, signal.SIG_IGN)
    keep_to_share(number, workers)

    def quietly() -> int:
        try:
            work(sweep_dir, run, options)
        except Stopped as stopped:  # the sweep's own process prints it
            return stopped.exit_code
        return 0

    sys.exit(exit_code(quietly))


def keep_to_share(number: int, workers: int) -> None:
    """Keeps this process to the cores of worker `number`, if the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: workers])


def _end_with(parent: int) -> None:
    """Ends this worker, which saves first, when its sweep is killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
