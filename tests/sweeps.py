"""A sweep of two small runs that train, as a command, and its results: for the tests of every launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from experiments.sweep import sweep_folder
from experiments.sweep.lease import Leases
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace

PLAN = "--users 40 80 --sizes xxs --learning-rates 0.01 --law none"
"""Two runs."""
SMALL = (
    "--data.rows 4 --data.sessions-per-row 16 --model.id-width 8 --model.side-width 4 --loss.negatives 32 "
    "--train.log-every-steps 1 --train.checkpoint-every-seconds 0.2"
)
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
TIMES = (
    "wall_seconds", "compile_seconds", "sessions_per_second", "items_per_second", "model_flops_utilization",
    "peak_flops_per_second_measured", "peak_flops_per_second_measured_bfloat16", "commit",
)  # fmt: skip


def command(log, out, epochs: int = 3, launcher: str = "--workers 2") -> list[str]:
    sweep = [sys.executable, "-m", "experiments", "sweep", "grid", "--data", str(log.path), "--out", str(out)]
    return [*sweep, *PLAN.split(), *launcher.split(), "--epochs", str(epochs), *SMALL.split()]


def rows(out) -> dict[str, dict]:
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/row.json")}
    return {name: {k: v for k, v in row.items() if k not in TIMES} for name, row in found.items()}


def until(what, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(out) -> dict[str, int]:
    """Returns the process id of the worker of each run that trains, by run_id."""
    names = {path.parent.parent.name for path in out.glob("runs/*/checkpoints/[0-9]*")}
    newest = Leases(out).newest()
    leases = {name: json.loads((out / "leases" / f"{name}.{newest[name]}").read_text()) for name in names}
    return {name: int(each["worker"].rpartition(":")[2]) for name, each in leases.items() if each["state"] == "running"}


def attempts(out) -> dict[str, int]:
    """Returns the number of failed attempts of each run, by run_id."""
    leases = Leases(out)
    return {name: leases.past(name, generation).attempts for name, generation in leases.newest().items()}


def first_line(out, name: str) -> str:
    """The first line of a run's metrics. Its seconds would differ if the run had started over."""
    return (out / "runs" / name / "metrics.jsonl").read_text().splitlines()[0]


def end_of(sweep) -> tuple[int, str]:
    """Waits for a process and returns its exit code and its stderr."""
    stderr = sweep.communicate(timeout=600)[1]  # a checkpoint every 0.2 s is slow on a slow disk
    return sweep.returncode, stderr


def start(argv: list[str], environment: dict[str, str] = ENVIRONMENT):
    return subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)


def begin_sleeping(out, runs: int) -> None:
    """Makes a sweep of runs for `sleep_long`."""
    sweep_folder.begin(out, "grid", [replace(Config(), {"train.seed": seed}) for seed in range(runs)], {})


def sleep_long(config, run_dir, plan, *, stop, write) -> None:
    """A run that lasts until its worker is asked to stop."""
    for _ in range(600):
        time.sleep(0.1)
