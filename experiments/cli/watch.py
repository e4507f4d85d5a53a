"""Mirror the curves of a sweep, or of one run, in TensorBoard or Weights & Biases, while it runs or afterwards.

sessionrec watch SWEEP --to tensorboard --follow
sessionrec watch RUN --to wandb --project PROJECT

It reads what runs write anyway (metrics.jsonl, config.json, row.json), on any host that has the folder: workers need no
extra and no login. Curves are over training steps, under the names that they have in metrics.jsonl; what was measured
on the test sessions is added when a run has its row. Ctrl-C ends it at no loss, and typed again it goes on: nothing
stands twice. The extras `tensorboard` and `wandb` install what it writes with.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from experiments.sweep.lease import lock
from experiments.watch.runs import Mirror, WatchedRun, runs_of
from experiments.watch.tensorboard import TensorBoard
from experiments.watch.wandb import WandB
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import StopSignals

_FOLLOW_SECONDS = 2.0
_PROJECT = "sessionrec"


@dataclass(frozen=True)
class Command:
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP|RUN")]
    """Sweep folder, or run folder."""
    to: Literal["tensorboard", "wandb"]
    """Where the curves go."""
    out: Path | None = None
    """Folder of the event files (default: tensorboard in SWEEP|RUN), or for W&B's own (default: SWEEP|RUN, in which it
    makes a folder wandb)."""
    project: str | None = None
    """W&B's project; sessionrec, if not told. Entity and mode are taken from WANDB_ENTITY and WANDB_MODE."""
    follow: bool = False
    """Go on until every run has a row."""


def main(argv: list[str]) -> int:
    command = tyro.cli(
        Command, args=argv, prog="sessionrec watch", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if command.project is not None and command.to != "wandb":
        raise InputError(f"--project is W&B's; --to {command.to} has none. Leave it out, or give --to wandb")
    runs = runs_of(command.folder)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    out = command.out or (command.folder / "tensorboard" if command.to == "tensorboard" else command.folder)
    with _alone_in(out):
        if command.to == "tensorboard":
            mirror: Mirror = TensorBoard(out, runs)
            console.print(f"tensorboard --logdir {out}", markup=False)
        else:
            is_sweep = (command.folder / "sweep.json").exists()
            group = command.folder.resolve().name if is_sweep else None
            mirror = WandB(out, command.project or _PROJECT, group)
        try:
            _mirrored(runs, mirror, console, follow=command.follow)
        except KeyboardInterrupt:
            console.print("ended; the same command goes on from here")
    return 0


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".watch").open("w")
    except OSError as error:
        raise InputError(
            f"cannot write into {out} ({error.strerror}); wanted a folder that can take it: --out"
        ) from None
    with file:
        if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is False:
            raise InputError(f"another `sessionrec watch` writes into {out}; end it, or use another --out")
        yield


def _mirrored(runs: list[WatchedRun], mirror: Mirror, console: Console, *, follow: bool) -> None:
    """A signal is heard between two runs, so that none is left in the middle."""
    steps, said = dict.fromkeys((run.name for run in runs), 0), None
    with StopSignals() as stop, console.status("") as line:
        try:
            while True:
                for run in runs:
                    if stop():
                        return
                    if (news := run.poll()) is not None:
                        mirror.write(run, news)
                        steps[run.name] = max((of["step"] + 1 for of in news.lines), default=steps[run.name])
                done = sum(run.has_row for run in runs)
                line.update(f"{done} of {len(runs)} runs have a row; {sum(steps.values()):,} steps mirrored")
                if done != said:
                    console.print(line.status)
                    said = done
                if not follow or done == len(runs):
                    return
                time.sleep(_FOLLOW_SECONDS)
        finally:
            mirror.close()
