"""One worker of a sweep folder: takes the costliest run that nobody has, does it, writes its row, takes the next.

    work(Path("SWEEP"))

Any number of them, on any hosts, share a folder through its leases. A run whose worker died is taken over where its
checkpoint stands. One that fails, or takes its workers down, is tried `retries` times more and is then a failed row
with the reason and the end of its log.

With `together` above 1 it takes as many runs at once that can share a program and trains them side by side in it. Each
is held by its own lease. Where one of them fails, all are let go and done alone from their checkpoints, so that the one
at fault fails by itself; so is a run on its last attempt. A run that another worker has taken over gets no row here; a
heartbeat that finds so ends the process, as it does for a single run, and the others go on where their checkpoints
stand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from experiments.sweep import sweep_folder
from experiments.sweep.lease import Lease, Leases, Lost, Past
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import write_json
from sessionrec_jax.runfolder.stopping import Stop, Stopped, StopSignals

_LOG_TAIL_LINES, _LOG_TAIL_BYTES = 20, 4_000
_LOOK_SECONDS = 1.0
"""Between looks at runs that others have."""

Write = Callable[[Path, Any], None]


@dataclass(frozen=True)
class WorkerOptions:
    """How workers go about their runs. No part of a sweep: it may be another each time, and for each worker."""

    retries: int = 2
    """Times that a run is tried again that failed or took its worker down, before it becomes a failed row."""
    together: int = 1
    """Most runs that a worker trains side by side in one program: those that differ in seed, learning rate or table
    prior alone. For small models on an accelerator, where a step of one does not fill the device; on a CPU it costs
    time."""

    def check(self) -> WorkerOptions:
        """Returns itself, or raises InputError."""
        for flag, value, least in (("retries", self.retries, 0), ("together", self.together, 1)):
            if value < least:
                raise InputError(f"--{flag} {value}; wanted at least {least}")
        return self


DEFAULT_OPTIONS = WorkerOptions()


class Run(Protocol):
    """Does a run in its folder and writes its row by `write`, which raises Lost where another worker has the run."""

    def __call__(self, config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> Any: ...


def train_and_measure(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    from experiments.sweep.row import run  # starts jax, after the environment is set

    run(config, run_dir, plan, quiet=True, stop=stop, write=write)


def work(
    sweep_dir: Path,
    run: Run = train_and_measure,
    handling: WorkerOptions = DEFAULT_OPTIONS,
    *,
    only: str | None = None,
    waits: bool = True,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Returns when every run has a row, or the one that `only` names. `run` does those that are alone,
    `row.run_together` several at once. `look` is called after each, and every second while others have the
    rest; a worker that does not wait leaves it to them.

    SIGTERM and SIGINT let the run go, saved if it trains, and raise Stopped or SystemExit. Where another worker has
    taken the run over, the process ends with code 75 (EX_TEMPFAIL).
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(sweep_dir / ".programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    plan, configs = sweep_folder.read(sweep_dir)
    left = {run_id: configs[run_id] for run_id in costliest_first(configs) if only in (None, run_id)}
    leases, apart = Leases(sweep_dir), set()
    with _leaving_when_asked():
        while left:
            lease = _take_first(left, leases, sweep_dir)
            if lease is None and left and not waits:
                return
            if lease is None:
                time.sleep(_LOOK_SECONDS if left else 0)
            elif beside := _take_beside(lease, configs, leases, sweep_dir, handling, apart):
                if not _do_together([lease, *beside], configs, sweep_dir, plan):
                    apart |= {each.run_id for each in (lease, *beside)}
            else:
                run_dir = sweep_folder.run_dir(sweep_dir, lease.run_id)
                with lease, contextlib.suppress(Lost):
                    _do(left[lease.run_id], lease, run_dir, plan, run, handling.retries)
            look()


def costliest_first(configs: dict[str, Config]) -> list[str]:
    """The runs in the order in which they are begun, so that no long one is left for the end."""
    return sorted(configs, key=lambda run_id: -_cost(configs[run_id]))


def _cost(config: Config) -> float:
    """Proportional to a run's time, roughly: only the order counts."""
    users = config.data.users or float("inf")
    return config.train.epochs * users * (20 + config.model.width * (1 + config.model.layers))


def _take_first(left: dict[str, Config], leases: Leases, sweep_dir: Path) -> Lease | None:
    """The first run that can be had; those that have a row are taken out of `left`."""
    newest = leases.newest()
    for run_id in tuple(left):
        if (sweep_folder.run_dir(sweep_dir, run_id) / "row.json").exists():
            del left[run_id]
            continue
        if (lease := leases.take(run_id, newest.get(run_id, 0), _end_at_once)) is not None:
            return lease
    return None


def _take_beside(
    lease: Lease,
    configs: dict[str, Config],
    leases: Leases,
    sweep_dir: Path,
    handling: WorkerOptions,
    apart: set[str],
) -> list[Lease]:
    """Of at most so many other runs that can share its program, none of them `apart`; what cannot be had is left."""
    taken: list[Lease] = []
    most, retries = handling.together - 1, handling.retries
    if not most or lease.run_id in apart or not _has_another_attempt(lease.past, retries):
        return taken
    newest, program = leases.newest(), program_of(configs[lease.run_id])
    for run_id in costliest_first(configs):
        if len(taken) == most:
            break
        if run_id == lease.run_id or program_of(configs[run_id]) != program:
            continue
        generation = newest.get(run_id, 0)
        is_done = (sweep_folder.run_dir(sweep_dir, run_id) / "row.json").exists()
        if run_id in apart or is_done or not _has_another_attempt(leases.past(run_id, generation), retries):
            continue
        if (other := leases.take(run_id, generation, _end_at_once)) is not None:
            taken.append(other)
    return taken


def _has_another_attempt(past: Past, retries: int) -> bool:
    """After the next one; a first attempt is as good."""
    return past.attempts < max(retries, 1)


def _end_at_once() -> NoReturn:
    print("another worker has taken this run over; this process stood still for too long", file=sys.stderr, flush=True)
    os._exit(os.EX_TEMPFAIL)


def _do(config: Config, lease: Lease, run_dir: Path, plan: str, run: Run, retries: int) -> None:
    def write(path: Path, row: Any) -> None:
        lease.renew()
        write_json(path, row)

    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / "log.txt"
    failure = None
    is_left = not (run_dir / "row.json").exists()  # it may have been written since we looked
    if is_left and lease.past.attempts > retries:
        write(run_dir / "row.json", _failed(config, lease, plan, log))
    elif is_left:
        try:
            with _stderr_in(log, f"attempt {lease.past.attempts + 1}, {lease.worker}"):
                run(config, run_dir, plan, stop=StopSignals(again=signal.SIG_IGN), write=write)
        except Lost:
            raise
        except (Stopped, SystemExit):
            lease.end("released")
            raise
        except Exception as error:  # noqa: BLE001  whatever it was: the other runs go on
            failure = f"{type(error).__name__}: {error}"
    lease.end("failed" if failure else "released", failure)


def _do_together(held: Sequence[Lease], configs: dict[str, Config], sweep_dir: Path, plan: str) -> bool:
    """False where something went wrong; then none of the runs that have no row has lost an attempt."""
    from experiments.sweep.row import Job, run_together

    lost = set()

    def job(lease: Lease) -> Job:
        def write(path: Path, row: Any) -> None:
            try:
                lease.renew()
            except Lost:
                lost.add(lease)
            else:
                write_json(path, row)

        run_dir = sweep_folder.run_dir(sweep_dir, lease.run_id)
        run_dir.mkdir(parents=True, exist_ok=True)
        title = f"attempt {lease.past.attempts + 1}, {lease.worker}"
        with (run_dir / "log.txt").open("a") as log:
            print(f"--- {title}, beside others: the log.txt of {held[0].run_id} tells of all", file=log)
        return Job(configs[lease.run_id], run_dir, write)

    with contextlib.ExitStack() as beating:
        for lease in held:
            beating.enter_context(lease)
        jobs = [job(lease) for lease in held]
        try:
            with _stderr_in(jobs[0].run_dir / "log.txt", f"{len(held)} runs together"):
                run_together(jobs, plan, quiet=True, stop=StopSignals(again=signal.SIG_IGN))
        except (Stopped, SystemExit):
            raise
        except Exception as error:  # noqa: BLE001  each is tried alone
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{len(held)} runs failed together, each is now done alone: {why}", file=sys.stderr, flush=True)
            return False
        finally:
            for lease in set(held) - lost:
                lease.end("released")
    return True


def _failed(config: Config, lease: Lease, plan: str, log: Path) -> dict[str, Any]:
    from experiments.sweep.row import identity

    past = lease.past
    died = [f"its worker died {past.deaths} times; is there enough memory?"] if past.deaths else []
    row = {"status": "failed", "reason": "; ".join([*past.failures[:1], *died]), "log_tail": _tail(log)}
    return identity(config, plan) | row


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(-min(_LOG_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


@contextmanager
def _stderr_in(path: Path, title: str) -> Iterator[None]:
    """What this process and its libraries write to stderr, and the traceback of an error, go to the end of a file."""
    sys.stderr.flush()
    outside = os.dup(2)
    with path.open("a") as log:
        print(f"--- {title}", file=log, flush=True)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            traceback.print_exc(file=log)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(outside, 2)
            os.close(outside)


@contextmanager
def _leaving_when_asked() -> Iterator[None]:
    """Where a run does not ask whether it shall stop (it compiles, it evaluates, it waits) a signal ends it; training
    saves first, and evaluation begins anew from its end. A signal that is ignored stays so."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    both = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.getsignal(each) for each in both if signal.getsignal(each) is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
