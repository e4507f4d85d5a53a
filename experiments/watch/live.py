"""Mirrors runs into TensorBoard or W&B, for `sessionrec watch`, and for `train --log-to` while a run trains."""

from __future__ import annotations

import fcntl
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from doors.terminal import say
from doors.text import shell
from experiments.watch.runs import Mirror, WatchedRun, runs_of
from experiments.watch.tensorboard import TensorBoard
from experiments.watch.wandb import WandB
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.lock import lock

Program = Literal["tensorboard", "wandb"]
"""A program that shows curves."""
SECONDS = 2.0
"""Time between two looks at the files of the runs."""
_LAST_SECONDS = 120.0
"""Time that a mirror gets after its run has ended: a network that hangs must not hold the command."""
_PROJECT = "sessionrec"


def check_installed(to: Program | None) -> None:
    """Raises InputError, with the command that installs it, if the program is missing."""
    if to is not None and importlib.util.find_spec(to) is None:
        raise InputError(f"{to} is not installed; `pip install 'sessionrec-jax[{to}]'` installs it")


def folder_of(to: Program, watched: Path) -> Path:
    """Returns the default folder of a mirror: that of TensorBoard's files, or the one in which W&B makes its own."""
    return watched / "tensorboard" if to == "tensorboard" else watched


@contextmanager
def opened(
    to: Program, watched: Path, runs: Sequence[WatchedRun], out: Path | None = None, project: str | None = None
) -> Iterator[Mirror]:
    """Opens the mirror of these runs of the folder `watched`, and closes it after the block.

    Raises InputError if `out` cannot be written, if another process mirrors into it, or if `to` is not installed.
    """
    out = folder_of(to, watched) if out is None else out
    with _alone_in(out):
        if to == "tensorboard":
            mirror: Mirror = TensorBoard(out, runs)
        else:
            is_sweep = (watched / "sweep.json").exists()
            mirror = WandB(out, project or _PROJECT, watched.resolve().name if is_sweep else None)
        try:
            yield mirror
        finally:
            mirror.close()


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Holds the lock of the folder. Raises InputError if another process holds it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".watch").open("w")
    except OSError as error:
        raise InputError(f"cannot write into {out} ({error.strerror}); name a writable folder with --out") from None
    with file:
        if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is False:
            raise InputError(f"another `sessionrec watch` writes into {out}; stop it, or use another --out")
        yield


@contextmanager
def mirrored_while(run_dir: Path, to: Program | None) -> Iterator[None]:
    """Mirrors the run of `run_dir`, in another thread, while the block trains it. None does nothing.

    A fault of the mirror is printed and ends the mirror alone.
    """
    if to is None:
        yield
        return
    has_ended = threading.Event()
    thread = threading.Thread(target=_mirror, args=(run_dir, to, has_ended), name=f"mirror to {to}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join(_LAST_SECONDS)
        if thread.is_alive():
            say(f"warning: {to} has not taken the last lines within {_LAST_SECONDS} s; {_again(run_dir, to)}")


def _mirror(run_dir: Path, to: Program, has_ended: threading.Event) -> None:
    """Mirrors the run until `has_ended`, and then what it wrote last. The run's folder may not be there yet."""
    while not (run_dir / "config.json").exists():
        if has_ended.wait(SECONDS):
            return
    try:
        runs = runs_of(run_dir)
        with opened(to, run_dir, runs) as mirror:
            is_last = False
            while not is_last:
                is_last = has_ended.wait(SECONDS)
                for run in runs:
                    if (news := run.poll()) is not None:
                        mirror.write(run, news)
    except Exception as error:  # noqa: BLE001 - whatever the other program does, the run goes on
        say(f"warning: {to} shows this run no longer: {error}; {_again(run_dir, to)}")


def _again(run_dir: Path, to: Program) -> str:
    return f"`{shell('sessionrec', 'watch', run_dir, '--to', to)}` tries again"
