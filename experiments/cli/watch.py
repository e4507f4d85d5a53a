"""Mirror the curves of a sweep, or of one run, in TensorBoard or Weights & Biases, while it runs or afterwards.

    sessionrec watch SWEEP --to tensorboard --follow
    sessionrec watch RUN --to wandb --project PROJECT

The command only reads what runs write anyway (metrics.jsonl, config.json, row.json), on any host that has the folder:
workers need no extra and no login. The curves are over training steps and have the names of metrics.jsonl. The test
metrics are added when a run has its row. Ctrl-C loses nothing: the same command continues, and writes no point twice.
The extras `tensorboard` and `wandb` install the writers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from doors.files import refuse_address
from doors.terminal import Terminal
from doors.text import shell
from experiments.cli.parsing import parse_flags
from experiments.watch.live import SECONDS, Program, folder_of, opened
from experiments.watch.runs import Mirror, WatchedRun, runs_of
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import StopSignals


@dataclass(frozen=True)
class Command:
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP|RUN", metavar="SWEEP|RUN")]
    """The sweep folder or run folder."""
    to: Program
    """The program that shows the curves."""
    out: Path | None = None
    """The folder for TensorBoard's event files (default: SWEEP|RUN/tensorboard), or the folder in which W&B makes its
    folder wandb (default: SWEEP|RUN)."""
    project: str | None = None
    """The project of W&B; by default sessionrec. WANDB_ENTITY and WANDB_MODE set the entity and the mode."""
    follow: bool = False
    """Continue until every run has a row."""


def main(argv: list[str]) -> int:
    command = parse_flags(
        Command, argv, prog="sessionrec watch", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if command.project is not None and command.to != "wandb":
        raise InputError(f"--project belongs to --to wandb, and --to is {command.to}; leave it out, or give --to wandb")
    refuse_address(command.folder)
    runs = runs_of(command.folder)
    console = Terminal(stderr=True, highlight=False, soft_wrap=True)
    mirrored = opened(command.to, command.folder, runs, command.out, command.project)
    try:
        with StopSignals() as stop, mirrored as mirror:
            if command.to == "tensorboard":
                folder = command.out or folder_of(command.to, command.folder)
                console.print(shell("tensorboard", "--logdir", folder), markup=False)
            _mirror_all(runs, mirror, console, stop, follow=command.follow)
    except KeyboardInterrupt:
        console.print("stopped; the same command continues from here")
    return 0


def _mirror_all(
    runs: list[WatchedRun], mirror: Mirror, console: Terminal, stop: Callable[[], int], *, follow: bool
) -> None:
    """Mirrors the runs until all have a row. A signal takes effect between two runs, never within one."""
    steps, printed = dict.fromkeys((run.name for run in runs), 0), None
    with console.status("") as status:
        while True:
            for run in runs:
                if stop():
                    return
                if (news := run.poll()) is not None:
                    mirror.write(run, news)
                    steps[run.name] = max((line["step"] + 1 for line in news.lines), default=steps[run.name])
            done = sum(run.has_row for run in runs)
            status.update(f"{done} of {len(runs)} runs have a row; {sum(steps.values()):,} steps mirrored")
            if done != printed:
                console.print(status.status)
                printed = done
            if not follow or done == len(runs):
                return
            time.sleep(SECONDS)
