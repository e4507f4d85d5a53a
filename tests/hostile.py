"""Makes hostile input for the tests: small logs and tables of runs, and a sweep whose runs take no time."""

from __future__ import annotations

import csv
import itertools
import os
import resource
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.__main__ import main
from experiments.sweep import sweep_folder
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.files import claim

PREPARE = (
    "prepare table --exposures {} --user user --item item --time ts --time-unit s --clicked label "
    "--session-rule gap_minutes=30 --out {}"
)
FIT = "fit {} --d d --loss loss --law power_floor --bootstrap 100"


def write_log(
    path: Path,
    users: int = 20,
    header: str = "user,item,ts,label",
    edit: Callable[[list], list] = list,
    name: Callable[[str], str] = str,
) -> None:
    """Writes six days of four exposures a user. `edit` changes a row, `name` an id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for u, d, i in itertools.product(range(users), range(6), range(4)):
        item, time = (7 * u + 3 * d + 5 * i) % 20, 1714555000 + 86400 * d + 60 * u + i
        rows.append(edit([name(f"u{u}"), name(f"i{item}"), time, int(i == d % 4)]))
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)


def write_runs(
    path: Path, floor: float = 1.7, names: Sequence[str] = ("d", "loss"), edit: Callable[[list], list] = list
) -> None:
    """Writes twelve runs of a power law with this floor."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for d in 1e4 * 2.0 ** np.arange(12):
            writer.writerow(edit([d, (floor + 40 * d**-0.35) * (1 + 0.002 * rng.normal())]))


def sessionrec(command: str) -> int:
    """Runs a command in this process and returns its exit code."""
    return main(shlex.split(command))


def everything(folder: Path) -> set[str]:
    """Returns the path of every file and folder below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def begin_sweep(folder: Path, runs: int = 3) -> list[str]:
    """Begins a sweep of runs that differ in their seeds, each with its folder. Returns their run_ids."""
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(runs)]
    sweep_folder.begin(folder, "seeds", configs, {})
    for config in configs:
        claim(sweep_folder.run_dir(folder, run_id(config)), config)
    return [run_id(config) for config in configs]


def finish(config: Config, run_dir: Path, plan: str, *, stop: Any, write: Any, part: float = 1.0) -> None:
    """A DoRun that only writes a row."""
    del stop, part
    write(run_dir / "row.json", {"run_id": run_id(config), "plan": plan, "status": "done", "loss_nats_per_item": 2.0})


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write more into a file, which fails in the same way as a full disk. No bytecode is kept
    meanwhile: Python would keep the part that fits, and could not import that module again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before
