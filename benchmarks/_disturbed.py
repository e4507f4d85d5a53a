"""Empty runs in a sweep whose workers are killed at random, and a record of them: for sweep.py and for the tests."""

from __future__ import annotations

import fcntl
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from experiments.sweep import sweep_folder
from experiments.sweep.launch import Launcher
from experiments.sweep.worker_options import WorkerOptions, Write
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.lock import lock
from sessionrec_jax.runfolder.stopping import Stop

RUN_SECONDS = 0.2
"""A run sleeps for a random part of this time."""
LIFE_SECONDS = 1.0
"""Average life of a worker, from its first run on."""


class Disturbed(NamedTuple):
    """A record of the runs. Runs without a row are lost."""

    seconds: float
    kills: int
    rows: int
    leases: int
    """The number of times that a worker took a run, which may have been done by then."""
    starts: int
    """The number of times that a worker started a run."""
    rows_written: int
    faults: list[str]
    """Runs that were started while another worker was in them, or after their row."""


def disturbed(sweep_dir: Path, runs: int, launcher: Launcher) -> Disturbed:
    """Does `runs` runs of a new sweep by workers that are killed at random moments."""
    configs = [replace(Config(), {"train.seed": number}) for number in range(runs)]
    sweep_folder.begin(sweep_dir, "empty", configs, {})
    kills: list[str] = []
    start = time.monotonic()
    launcher.launch(sweep_dir, sleep, options=WorkerOptions(retries=runs), refresh=lambda: None, report=kills.append)
    seconds = time.monotonic() - start
    folders = [sweep_folder.run_dir(sweep_dir, run_id(config)) for config in configs]
    events = [line for folder in folders for line in _lines(folder / "events")]
    return Disturbed(
        seconds=seconds,
        kills=len(kills),
        rows=sum((folder / "row.json").exists() for folder in folders),
        leases=len(list((sweep_dir / "leases").glob("[!.]*"))),
        starts=events.count("start"),
        rows_written=events.count("row"),
        faults=[line for line in events if line not in ("start", "row")],
    )


def sleep(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    """A run that records what must not happen."""
    if not any(signal.getitimer(signal.ITIMER_REAL)):  # its signal ends the process, whatever it does then
        signal.setitimer(signal.ITIMER_REAL, random.expovariate(1 / LIFE_SECONDS))
    with (run_dir / "inside").open("w") as inside:
        if not lock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _record(run_dir, "start while another runs")
        if (run_dir / "row.json").exists():
            _record(run_dir, "start after its row")
        _record(run_dir, "start")
        time.sleep(random.uniform(0, RUN_SECONDS))
        write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})
        _record(run_dir, "row")


def at_once(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    """A run that only writes its row."""
    write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})


def _record(run_dir: Path, what: str) -> None:
    with (run_dir / "events").open("a") as events:
        events.write(f"{what}\n")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
