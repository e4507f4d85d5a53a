"""Runs the missing runs of a sweep in worker processes of this machine; survives a worker's death and its own.

On a CPU each worker keeps to its share of the cores: two pinned processes do 1.6-1.95 times the steps of one process on
both. Compiled programs are shared through a cache in the sweep folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sessionrec_jax.config import Config
from sessionrec_jax.config_values import run_id
from sessionrec_jax.runfolder import claim, read_json, write_json
from sessionrec_jax.stopping import Stopped, StopSignals

ATTEMPTS = 3
"""Times that a run may take its worker process down before it becomes a failed row."""


def launch(
    configs: Sequence[Config], sweep_dir: Path, plan: str, workers: int, on_row: Callable[[dict[str, Any]], None]
) -> None:
    """Runs `configs` (resolved, largest first is best) that have no row yet; `on_row` hears of each row as it comes.

    SIGTERM and SIGINT are passed on to the workers, which save and go; then Stopped is raised.
    """
    with StopSignals() as asked:
        while missing := [config for config in configs if not (_run_dir(sweep_dir, config) / "row.json").exists()]:
            if asked():
                raise Stopped(f"with {len(missing)} runs left", asked())
            try:
                _one_pool(missing, sweep_dir, plan, workers, on_row, asked)
            except BrokenProcessPool:  # a worker was killed, by the system for its memory, say, or was asked to go
                if not asked():
                    for config in missing:
                        _give_up_on_killer(config, sweep_dir, plan, on_row)


def _one_pool(
    missing: Sequence[Config],
    sweep_dir: Path,
    plan: str,
    workers: int,
    on_row: Callable[[dict[str, Any]], None],
    asked: Callable[[], int],
) -> None:
    context = multiprocessing.get_context("spawn")  # jax does not survive a fork
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    setup = (numbers, workers, str(sweep_dir / ".programs"), os.getpid())
    pool = ProcessPoolExecutor(min(workers, len(missing)), context, _set_up_worker, setup)
    try:
        waiting = {pool.submit(_work, config, sweep_dir, plan) for config in missing}
        told = False
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                on_row(future.result())
            if asked() and not told:  # the first that goes breaks the pool, which then waits for the others
                told = True
                for worker in multiprocessing.active_children():
                    worker.terminate()
    finally:  # not `with`, whose exit takes the cancelling back
        pool.shutdown(wait=True, cancel_futures=True)


def _run_dir(sweep_dir: Path, config: Config) -> Path:
    return sweep_dir / "runs" / run_id(config)


# --- in the worker -------------------------------------------------------------------------------------------------


def _set_up_worker(numbers: Any, workers: int, programs: str, parent: int) -> None:
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the sweep's own passes it on
    number = numbers.get()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: workers])


def _die_with(parent: int) -> None:
    """A killed sweep must not leave workers behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(config: Config, sweep_dir: Path, plan: str) -> dict[str, Any]:
    from experiments.row import identity, run  # starts jax, after the environment is set

    run_dir = _run_dir(sweep_dir, config)
    claim(run_dir, config)
    attempts = run_dir / "attempts.json"
    before = read_json(attempts) if attempts.exists() else 0
    write_json(attempts, before + 1)
    try:
        row = run(config, run_dir, plan, quiet=True, stop=StopSignals(again=signal.SIG_IGN))
    except Stopped as stopped:
        write_json(attempts, before)  # it was not the run's doing
        os._exit(stopped.exit_code)  # a worker that stays would take the next run
    except Exception as error:  # noqa: BLE001  whatever it was: the other runs go on, and the row says why
        (run_dir / "error.txt").write_text(traceback.format_exc())
        row = identity(config, plan) | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        write_json(run_dir / "row.json", row)
    attempts.unlink(missing_ok=True)
    return row


def _give_up_on_killer(config: Config, sweep_dir: Path, plan: str, on_row: Callable[[dict[str, Any]], None]) -> None:
    run_dir = _run_dir(sweep_dir, config)
    if (run_dir / "row.json").exists() or not (run_dir / "attempts.json").exists():
        return
    if read_json(run_dir / "attempts.json") < ATTEMPTS:
        return
    from experiments.row import identity

    reason = f"its worker process was killed {ATTEMPTS} times; is there enough memory?"
    row = identity(config, plan) | {"status": "failed", "reason": reason}
    write_json(run_dir / "row.json", row)
    on_row(row)
