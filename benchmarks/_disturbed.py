"""Empty runs in a sweep whose workers are killed at random, and what became of them: for sweep.py and for the tests."""

from __future__ import annotations

import fcntl
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from experiments.sweep import sweep_folder
from experiments.sweep.launch import Launcher
from experiments.sweep.lease import lock
from experiments.sweep.worker_options import WorkerOptions, Write
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.stopping import Stop

RUN_SECONDS = 0.2
"""The longest of the runs, which sleep for a random part of it."""
LIFE_SECONDS = 1.0
"""What a worker lives on average, from its first run on."""


class Disturbed(NamedTuple):
    """What became of the runs. Lost are those without a row; `faults` tells of those that two did."""

    seconds: float
    kills: int
    rows: int
    leases: int
    """Times that a worker took a run, which may have been done by then."""
    begun: int
    """Times that a worker began one."""
    rows_written: int
    faults: list[str]
    """A run that was begun while another worker was in it, or had its row."""


def disturbed(sweep_dir: Path, runs: int, launcher: Launcher) -> Disturbed:
    """Does `runs` runs of a new sweep by workers that are killed at random moments."""
    configs = [replace(Config(), {"train.seed": number}) for number in range(runs)]
    sweep_folder.begin(sweep_dir, "empty", configs, {})
    kills: list[str] = []
    begun = time.monotonic()
    launcher.launch(sweep_dir, sleep, options=WorkerOptions(retries=runs), refresh=lambda: None, report=kills.append)
    seconds = time.monotonic() - begun
    folders = [sweep_folder.run_dir(sweep_dir, run_id(config)) for config in configs]
    told = [line for folder in folders for line in _lines(folder / "told")]
    return Disturbed(
        seconds,
        len(kills),
        sum((folder / "row.json").exists() for folder in folders),
        len(list((sweep_dir / "leases").glob("[!.]*"))),
        told.count("begun"),
        told.count("row"),
        [line for line in told if line not in ("begun", "row")],
    )


def sleep(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    """A run that tells what must not happen."""
    if not any(signal.getitimer(signal.ITIMER_REAL)):  # its signal ends the process, whatever it does then
        signal.setitimer(signal.ITIMER_REAL, random.expovariate(1 / LIFE_SECONDS))
    with (run_dir / "inside").open("w") as inside:
        if not lock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _tell(run_dir, "begun beside another")
        if (run_dir / "row.json").exists():
            _tell(run_dir, "begun after its row")
        _tell(run_dir, "begun")
        time.sleep(random.uniform(0, RUN_SECONDS))
        write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})
        _tell(run_dir, "row")


def at_once(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    """A run that is nothing but its row."""
    write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})


def _tell(run_dir: Path, what: str) -> None:
    with (run_dir / "told").open("a") as told:
        told.write(f"{what}\n")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
