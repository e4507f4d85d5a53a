"""One attempt at a run that this worker holds, alone or side by side with others: its log, its row, its lease."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doors.storage import copies
from doors.terminal import say
from experiments.sweep import sweep_folder
from experiments.sweep.lease import Lease, Lost
from experiments.sweep.worker_options import DoRun
from sessionrec_jax.config.settings import Config
from sessionrec_jax.runfolder.files import write_json
from sessionrec_jax.runfolder.stopping import Stopped, StopSignals

_LOG_TAIL_LINES, _LOG_TAIL_BYTES = 20, 4_000


def do_alone(lease: Lease, config: Config, sweep_dir: Path, plan: str, *, run: DoRun, retries: int) -> None:
    """Does one run and ends its lease. Writes a failed row if the run has used up its attempts.

    Raises Lost if another worker has the run now, and Stopped or SystemExit if a signal asked for it.
    """

    def write(path: Path, row: Any) -> None:
        lease.renew()
        write_json(path, row)

    run_dir = _begun(sweep_dir, lease.run_id, config)
    log = run_dir / "log.txt"
    failure = None
    has_row = (run_dir / "row.json").exists()  # another worker may have written it since we looked
    if not has_row and lease.past.attempts > retries:
        write(run_dir / "row.json", _failed_row(config, lease, plan, log))
    elif not has_row:
        try:
            with _stderr_in(log, _title(lease)):
                run(config, run_dir, plan, stop=StopSignals(again=signal.SIG_IGN), write=write)
        except Lost:
            raise
        except (Stopped, SystemExit):
            lease.end("released")
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, the other runs go on
            failure = f"{type(error).__name__}: {error}"
    copies.push(run_dir)
    lease.end("failed" if failure else "released", failure)
    copies.drop(run_dir)


def _begun(sweep_dir: Path, run_id: str, config: Config) -> Path:
    """Returns the folder of a run that this worker has just taken, with all that it needs to go on."""
    run_dir = sweep_folder.run_dir(sweep_dir, run_id)
    copies.drop(run_dir)
    copies.pull(run_dir)
    if config.train.begins_from:
        copies.pull_checkpoint(sweep_folder.run_dir(sweep_dir, config.train.begins_from))
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def do_together(
    leases: Sequence[Lease], configs: Sequence[Config], sweep_dir: Path, plan: str, *, parts: Sequence[float]
) -> bool:
    """Trains runs side by side and ends their leases. A run that another worker has now gets no row here. Each run
    stops when its part of the steps is done.

    Returns False if something failed; then no run has lost an attempt, and each is to be done alone.
    """
    from sessionrec_jax.row import Job, run_together

    lost = set()

    def job(lease: Lease, config: Config, part: float) -> Job:
        def write(path: Path, row: Any) -> None:
            try:
                lease.renew()
            except Lost:
                lost.add(lease)
            else:
                write_json(path, row)

        run_dir = _begun(sweep_dir, lease.run_id, config)
        with (run_dir / "log.txt").open("a") as log:
            print(f"--- {_title(lease)}, together with others: see the log.txt of {leases[0].run_id}", file=log)
        return Job(config, run_dir, write, part)

    with contextlib.ExitStack() as heartbeats:
        for lease in leases:
            heartbeats.enter_context(lease)
        jobs = [job(*each) for each in zip(leases, configs, parts, strict=True)]
        try:
            with _stderr_in(jobs[0].run_dir / "log.txt", f"{len(leases)} runs together"):
                run_together(jobs, plan, quiet=True, stop=StopSignals(again=signal.SIG_IGN))
        except (Stopped, SystemExit):
            raise
        except Exception as error:  # noqa: BLE001  each is tried alone
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"{len(leases)} runs failed together, each is now done alone: {why}")
            return False
        finally:
            for each in jobs:
                copies.push(each.run_dir)
            for lease in set(leases) - lost:
                lease.end("released")
            for each in jobs:
                copies.drop(each.run_dir)
    return True


def _title(lease: Lease) -> str:
    return f"attempt {lease.past.attempts + 1}, {lease.worker}"


def _failed_row(config: Config, lease: Lease, plan: str, log: Path) -> dict[str, Any]:
    from sessionrec_jax.row import identity

    past = lease.past
    deaths = [f"its worker died {past.deaths} times; is there enough memory?"] if past.deaths else []
    row = {"status": "failed", "reason": "; ".join([*past.failures[:1], *deaths]), "log_tail": _tail(log)}
    return identity(config, plan) | row


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(-min(_LOG_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


@contextmanager
def _stderr_in(path: Path, title: str) -> Iterator[None]:
    """Appends to a file all that this process and its libraries write to stderr, and the traceback of an error."""
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
