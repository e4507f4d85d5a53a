"""A SLURM job array of workers, submitted by submitit. If a worker ends while runs are left, another is submitted.

Each job calls `worker.work` and ends when no run is free. Before its time limit SLURM sends it SIGUSR2: it saves,
releases its run and has submitit put it back into the queue; a preempted job does so at SIGTERM. The sweep's jobs have
its name, so that the same sweep, started again, finds the jobs that still run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doors.private import check_private, make_private
from doors.terminal import say
from experiments.sweep import halving, sweep_folder
from experiments.sweep.launch.cores import keep_to
from experiments.sweep.lease import Leases
from experiments.sweep.worker import work
from experiments.sweep.worker_options import DEFAULT_OPTIONS, DoRun, WorkerOptions, check_least
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stopped, StopSignals

_POLL_SECONDS = 2.0
_SAVE_SECONDS = 120
"""Time to save: the warning before the time limit, and the wait for cancelled jobs."""


@dataclass(frozen=True)
class Launcher:
    """--launcher slurm: a job array of workers, which the sweep follows and fills up again while runs are left. A job
    whose time is up, or that is preempted, saves and queues again by itself. Ctrl-C and SIGTERM cancel the jobs, which
    save. If the terminal is lost they stay, and the same sweep started again follows them. SWEEP/slurm has their
    logs."""

    workers: int = 4
    """Size of the job array: workers at once at most, each of one task on one node."""
    partition: str | None = None
    """Left out: the cluster's default."""
    time: int = 60
    """Minutes of a job, at least 5. It is warned two minutes before the end, saves, and goes on in its next turn."""
    gpus: int | None = None
    """GPUs of a worker."""
    cpus: int = 1
    """Cores of a worker. A worker without GPUs keeps to this number."""
    memory: str | None = None
    """Memory of a worker, such as 16G. Left out: the cluster's default."""
    slurm: tuple[str, ...] = ()
    """Other options of sbatch as NAME=VALUE: qos=long account=lab constraint=a100."""

    def check(self) -> None:
        check_least(self, workers=1, time=5, cpus=1, gpus=0)
        if wrong := [each for each in self.slurm if not each.partition("=")[2] or each.startswith("-")]:
            raise InputError(f"--slurm {' '.join(wrong)}; wanted NAME=VALUE, such as qos=long")
        _submitit()
        if shutil.which("sbatch") is None:
            raise InputError("--launcher slurm needs a machine that submits to SLURM; this one has no sbatch")

    def launch(
        self,
        sweep_dir: Path,
        run: DoRun,
        *,
        options: WorkerOptions = DEFAULT_OPTIONS,
        refresh: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        configs, leases = sweep_folder.read(sweep_dir)[1], Leases(sweep_dir)
        missing = list(configs)
        name = _name(sweep_dir)
        jobs: list[Any] = []
        seen_before = None
        with StopSignals() as asked:
            while (missing := sweep_folder.without_row(sweep_dir, missing)) and not asked():
                for job in jobs:
                    _raise_other_errors(job)
                alive, newest = _alive(name), leases.newest()
                ready = sum(halving.is_ready(sweep_dir, configs, each) for each in missing)
                seen = sum(newest.values()), ready
                if seen != seen_before:  # else the jobs that were submitted last have done nothing yet
                    held = sum(leases.past(each, newest.get(each, 0)).is_held for each in missing)
                    idle = max(0, alive - held)
                    if (wanted := min(self.workers - alive, ready - held - idle)) > 0:
                        worker = Worker(sweep_dir.absolute(), run, options, 0 if self.gpus else self.cpus)
                        jobs += self._submit(worker, name, wanted)
                        seen_before = seen
                        report(f"SLURM job {jobs[-1].job_id.partition('_')[0]}: {wanted} of {self.workers} workers")
                elif not alive:
                    raise RuntimeError(f"SLURM's jobs end before they take a run; see {_folder(sweep_dir)}")
                refresh()
                time.sleep(_POLL_SECONDS)
            _cancel(name)  # if all runs are done: jobs that wait in the queue for their next turn
            if asked() and (missing := sweep_folder.without_row(sweep_dir, missing)):
                raise Stopped(f"with {len(missing)} runs left", asked())

    def _submit(self, worker: Worker, name: str, count: int) -> list[Any]:
        submitit = _submitit()
        if not _folder(worker.sweep_dir).exists():
            make_private(_folder(worker.sweep_dir))
        check_private(_folder(worker.sweep_dir), "the pickles of SLURM's jobs")
        executor = submitit.SlurmExecutor(_folder(worker.sweep_dir), max_num_timeout=sys.maxsize)
        ours = {
            "job_name": name,
            "partition": self.partition,
            "time": self.time,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
        }
        others = {"requeue": True} | ({"mem": self.memory} if self.memory else {})
        executor.update_parameters(
            **{option: value for option, value in ours.items() if value is not None},
            signal_delay_s=_SAVE_SECONDS,
            srun_args=[f"--cpus-per-task={self.cpus}"],  # since SLURM 22.05 srun does not take it from sbatch
            additional_parameters=others | dict(each.split("=", 1) for each in self.slurm),
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats sbatch's words there
                return executor.submit_array([worker] * count)
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"no job: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Worker:
    """The work of a job; submitit pickles it and calls it there."""

    sweep_dir: Path
    run: DoRun
    options: WorkerOptions
    cores: int
    """Cores to keep to; 0: all."""

    def __call__(self) -> str | None:
        """Returns the message of an InputError, which ends the sweep."""
        back_into_the_queue = signal.getsignal(signal.SIGUSR2)  # submitit's, which ends the process
        time_is_up = False

        def save(*_: object) -> None:
            nonlocal time_is_up
            time_is_up = True
            signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGUSR2, save)
        if self.cores:
            keep_to(self.cores)
        try:
            work(self.sweep_dir, self.run, self.options, waits=False)
        except InputError as error:
            return str(error)
        except (Stopped, SystemExit) as stopped:
            if time_is_up or _is_preempted():
                back_into_the_queue(signal.SIGUSR2, None)
            raise SystemExit(stopped.exit_code if isinstance(stopped, Stopped) else stopped.code) from None
        return None

    def checkpoint(self) -> Any:
        """Returns the job that submitit puts back into the queue."""
        return _submitit().helpers.DelayedSubmission(self)


def _name(sweep_dir: Path) -> str:
    return f"sessionrec-{hashlib.sha256(str(sweep_dir.resolve()).encode()).hexdigest()[:8]}"


def _folder(sweep_dir: Path) -> Path:
    """The folder of the jobs' logs and of submitit's files."""
    return sweep_dir.absolute() / "slurm"


def _slurm(*command: str) -> str:
    """Returns the output of a SLURM command. Asks again while the controller does not answer."""
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        say(f"{command[0]}: {done.stderr.strip()}; asking again")
        time.sleep(30)
    return done.stdout


def _alive(name: str) -> int:
    """Returns the number of jobs that wait or run."""
    return len(_slurm("squeue", "--me", "--array", "--noheader", f"--name={name}", "--format=%i").split())


def _is_preempted() -> bool:
    """Returns True if this job got SIGTERM because another job wants its node. SLURM queues it again only if it still
    runs at the end of its grace time."""
    shown = _slurm("squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--Format=PreemptTime")
    return shown.strip() not in ("", "N/A", "None")


def _cancel(name: str) -> None:
    """Cancels the jobs and returns when they have saved and ended."""
    _slurm("scancel", "--me", f"--name={name}")
    deadline = time.monotonic() + _SAVE_SECONDS
    while _alive(name) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _raise_other_errors(job: Any) -> None:
    """Raises the error of a job. An error of its run is not one: the job then ends normally."""
    if not job.paths.result_pickle.exists():
        return
    check_private(job.paths.result_pickle.parent, "the pickles of SLURM's jobs")
    if (error := job.exception()) is not None:
        raise RuntimeError(f"a worker failed: {error}")
    if (message := job.result()) is not None:
        raise InputError(message)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"--launcher slurm needs submitit ({error}): pip install 'sessionrec-jax[slurm]'") from None
    return submitit
