"""A SLURM job array of workers, submitted by submitit; whatever ends one, another is submitted while runs are left.

Each job is `worker.work` and ends when nothing is left that nobody has. Ahead of its time limit SLURM sends it SIGUSR2:
it saves, lets its run go and has submitit put it back into the queue; so does a preempted one at SIGTERM. The sweep's
jobs are known by their name, so that a sweep which is typed again finds those that still run.
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

from experiments.sweep import sweep_folder
from experiments.sweep.launch.cores import keep_to
from experiments.sweep.lease import Leases
from experiments.sweep.worker import DEFAULT_OPTIONS, Run, WorkerOptions, work
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stopped, StopSignals

_LOOK_SECONDS = 2.0
_SAVE_SECONDS = 120
"""Of warning before the time limit, and for jobs that were cancelled."""


@dataclass(frozen=True)
class Launcher:
    """--launcher slurm: a job array of workers, which the sweep follows and fills up again while runs are left. A job
    whose time is up, or that is preempted, saves and queues again by itself. Ctrl-C and SIGTERM cancel the jobs, which
    save; where the terminal goes away they stay, and the same sweep typed again follows them. SWEEP/slurm has their
    logs."""

    workers: int = 4
    """Size of the job array: workers at once at most, each of one task on one node."""
    partition: str | None = None
    """Left out: the cluster's default."""
    time: int = 60
    """Minutes of a job, at least 5. It is told two minutes ahead, saves, and goes on in its next turn."""
    gpus: int | None = None
    """GPUs of a worker."""
    cpus: int = 1
    """Cores of a worker; one without GPUs keeps to so many."""
    memory: str | None = None
    """Memory of a worker, such as 16G. Left out: the cluster's default."""
    slurm: tuple[str, ...] = ()
    """Other options of sbatch as NAME=VALUE: qos=long account=lab constraint=a100."""

    def check(self) -> None:
        for flag, least in (("workers", 1), ("time", 5), ("cpus", 1), ("gpus", 0)):
            if (value := getattr(self, flag)) is not None and value < least:
                raise InputError(f"--{flag} {value}; wanted at least {least}")
        if wrong := [each for each in self.slurm if not each.partition("=")[2] or each.startswith("-")]:
            raise InputError(f"--slurm {' '.join(wrong)}; wanted NAME=VALUE, such as qos=long")
        _submitit()
        if shutil.which("sbatch") is None:
            raise InputError("--launcher slurm wants a machine that submits to SLURM; here is no sbatch")

    def launch(
        self,
        sweep_dir: Path,
        run: Run,
        *,
        handling: WorkerOptions = DEFAULT_OPTIONS,
        look: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        missing, leases = list(sweep_folder.read(sweep_dir)[1]), Leases(sweep_dir)
        name = _name(sweep_dir)
        jobs: list[Any] = []
        taken_then = None
        with StopSignals() as asked:
            while (missing := sweep_folder.without_row(sweep_dir, missing)) and not asked():
                for job in jobs:
                    _raise_what_is_no_runs(job)
                alive, newest = _alive(name), leases.newest()
                taken = sum(newest.values())
                if taken != taken_then:  # or those that were submitted last have done nothing yet
                    held = sum(leases.past(each, newest.get(each, 0)).is_held for each in missing)
                    idle = max(0, alive - held)
                    if (wanted := min(self.workers - alive, len(missing) - held - idle)) > 0:
                        worker = Worker(sweep_dir.absolute(), run, handling, 0 if self.gpus else self.cpus)
                        jobs += self._submit(worker, name, wanted)
                        taken_then = taken
                        say(f"SLURM job {jobs[-1].job_id.partition('_')[0]}: {wanted} of {self.workers} workers")
                elif not alive:
                    raise RuntimeError(f"SLURM's jobs end before they take a run; see {_folder(sweep_dir)}")
                look()
                time.sleep(_LOOK_SECONDS)
            _cancel(name)  # where all is done: those that wait in the queue for their next turn
            if asked() and (missing := sweep_folder.without_row(sweep_dir, missing)):
                raise Stopped(f"with {len(missing)} runs left", asked())

    def _submit(self, worker: Worker, name: str, count: int) -> list[Any]:
        submitit = _submitit()
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
            srun_args=[f"--cpus-per-task={self.cpus}"],  # which srun does not take from sbatch since SLURM 22.05
            additional_parameters=others | dict(each.split("=", 1) for each in self.slurm),
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # where submitit repeats sbatch's words
                return executor.submit_array([worker] * count)
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"no job: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Worker:
    """What a job does; submitit pickles it and calls it there."""

    sweep_dir: Path
    run: Run
    handling: WorkerOptions
    cores: int
    """To keep to; 0: all."""

    def __call__(self) -> str | None:
        """Told is a mistake of the user's, which ends the sweep."""
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
            work(self.sweep_dir, self.run, self.handling, waits=False)
        except InputError as error:
            return str(error)
        except (Stopped, SystemExit) as stopped:
            if time_is_up or _is_preempted():
                back_into_the_queue(signal.SIGUSR2, None)
            raise SystemExit(stopped.exit_code if isinstance(stopped, Stopped) else stopped.code) from None
        return None

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue."""
        return _submitit().helpers.DelayedSubmission(self)


def _name(sweep_dir: Path) -> str:
    return f"sessionrec-{hashlib.sha256(str(sweep_dir.resolve()).encode()).hexdigest()[:8]}"


def _folder(sweep_dir: Path) -> Path:
    """Of the jobs' own logs and of what submitit keeps."""
    return sweep_dir.absolute() / "slurm"


def _slurm(*command: str) -> str:
    """What a command of SLURM prints; its controller may be away for a while."""
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        print(f"{command[0]}: {done.stderr.strip()}; asking again", file=sys.stderr)
        time.sleep(30)
    return done.stdout


def _alive(name: str) -> int:
    """Jobs that wait or run."""
    return len(_slurm("squeue", "--me", "--array", "--noheader", f"--name={name}", "--format=%i").split())


def _is_preempted() -> bool:
    """Whether this job's SIGTERM means that another job wants its node. SLURM puts it back into the queue only if it
    is still there at the end of its grace."""
    shown = _slurm("squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--Format=PreemptTime")
    return shown.strip() not in ("", "N/A", "None")


def _cancel(name: str) -> None:
    """Returns when they have saved and gone."""
    _slurm("scancel", "--me", f"--name={name}")
    deadline = time.monotonic() + _SAVE_SECONDS
    while _alive(name) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _raise_what_is_no_runs(job: Any) -> None:
    """A worker that ends by itself ends well, whatever became of its runs."""
    if not job.paths.result_pickle.exists():
        return
    if (error := job.exception()) is not None:
        raise RuntimeError(f"a worker failed: {error}")
    if (told := job.result()) is not None:
        raise InputError(told)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"--launcher slurm wants submitit ({error}): pip install 'sessionrec-jax[slurm]'") from None
    return submitit
