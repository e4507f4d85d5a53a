"""Checkpoints: arrays by Orbax, the rest as JSON, a manifest of checksums over both; save, verify, restore, refuse.

A checkpoint is a folder named by its step: state/ (parameters, optimizer state, step), progress.json (data iterator,
counters, config) and manifest.json. It is written under another name and renamed when it is complete, so a folder whose
name is a step was complete once; the manifest shows whether it still is, because Orbax would restore a flipped byte
without an error. If several processes train together, each writes its own arrays into the same folder, and process 0
does the rest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from doors.state import checksums
from doors.storage import copies
from doors.terminal import say
from sessionrec_jax.devices.processes import (
    commit_together,
    is_multiprocess,
    is_process_zero,
    on_process_zero,
    wait_seconds,
)
from sessionrec_jax.errors import InputError, NotSaved, no_room
from sessionrec_jax.runfolder.files import read_json, write_json

_STATE, _PROGRESS, _MANIFEST = "state", "progress.json", "manifest.json"
_PARTIAL, _DAMAGED = ".partial-", "damaged-"

Loaded = tuple[Any, dict[str, Any]]


class Checkpoints:
    """The checkpoints of the one run that trains in `folder`. Use it as a context: leaving it waits for the writes.

    Saving is asynchronous: the arrays are copied, then written, checked and renamed in the background. An older
    checkpoint is deleted only when the newer one is complete.
    """

    def __init__(self, folder: Path, kept: int, kept_steps: Collection[int] = ()):
        """`kept` is the number of newest checkpoints that stay, in addition to the best one and to `kept_steps`."""
        self._folder, self._kept, self._kept_steps = folder.absolute(), kept, kept_steps
        options = ocp.AsyncOptions(timeout_secs=int(wait_seconds())) if is_multiprocess() else ocp.AsyncOptions()
        self._orbax = ocp.StandardCheckpointer(async_options=options)
        self._background = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._saves = 0
        on_process_zero(self._clear)

    def _clear(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(f"{_PARTIAL}*"):  # left by a process that was killed
            shutil.rmtree(partial)

    def __enter__(self) -> Checkpoints:
        self._opened = ExitStack()
        self._opened.enter_context(_quiet_orbax())
        for leave in (self._orbax.close, self._background.shutdown, self._wait):  # they are called in reverse order
            self._opened.callback(leave)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._opened.__exit__(*raised)

    def save(self, step: int, state: Any, progress: dict[str, Any], best: int | None = None) -> None:
        """Starts to write a checkpoint; it returns when `state` may change.

        `state` has arrays, `progress` values for JSON; the checkpoint of step `best` stays, however old. A checkpoint
        of the same step is replaced. Raises NotSaved if this one, or the one before, cannot be written.
        """
        self._wait()
        partial = self._folder / f"{_PARTIAL}{step}"

        def begin() -> None:
            partial.mkdir()
            (partial / _PROGRESS).write_text(json.dumps(progress))

        try:
            on_process_zero(begin)
            with jax.transfer_guard("allow"):  # with several processes Orbax compares numbers of its own
                self._orbax.save(partial / _STATE, state)
        except Exception as error:
            raise self._not_saved(step, error) from error
        self._saves += 1
        self._pending = self._background.submit(self._finish, step, best, f"{self._folder}/{self._saves}")

    def _finish(self, step: int, best: int | None, name: str) -> None:
        failure = None
        try:
            self._orbax.wait_until_finished()
        except Exception as error:  # noqa: BLE001 - passed on to all processes
            failure = error
        try:
            commit_together(name, failure, lambda: self._complete(step, best))
        except Exception as error:
            raise self._not_saved(step, error) from error

    def _complete(self, step: int, best: int | None) -> None:
        partial = self._folder / f"{_PARTIAL}{step}"
        write_json(partial / _MANIFEST, checksums(partial, without=_MANIFEST))
        replaced = [self._renamed(step)] if step in steps_in(self._folder) else []
        partial.rename(self._folder / str(step))
        copies.push_checkpoint(self._folder / str(step))
        stay = {best, *self._kept_steps}
        gone = [each for each in steps_in(self._folder)[: -self._kept] if each not in stay]
        for folder in [*replaced, *map(self._renamed, gone)]:
            shutil.rmtree(folder)
        copies.delete_checkpoints(self._folder / str(each) for each in gone)

    def _renamed(self, step: int) -> Path:
        """Renames a checkpoint before it is deleted, so that a kill never leaves half of one under its step."""
        return (self._folder / str(step)).rename(self._folder / f"{_PARTIAL}{step}-old")

    def _not_saved(self, step: int, error: Exception) -> NotSaved:
        if is_process_zero():
            shutil.rmtree(self._folder / f"{_PARTIAL}{step}", ignore_errors=True)
        full = no_room(error) is not None
        reason = "there is no space left on its disk" if full else f"{type(error).__name__}: {error}"
        before = steps_in(self._folder)
        return NotSaved(
            f"{self._folder}: the checkpoint of step {step} could not be written: {reason}. "
            f"{'Make room' if full else 'Fix this'} and type the same command again; it goes on from "
            + (f"step {before[-1]}" if before else "the start, since there is no checkpoint yet")
        )

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, like: Any) -> Loaded | None:
        """Returns (state, progress) of the newest whole checkpoint, placed like `like`; None without checkpoints.

        Newer ones that are damaged are renamed to damaged-STEP, so that their steps can be saved again. Raises
        InputError as `newest_whole` and `load` do.
        """
        step = on_process_zero(self._whole)
        return None if step is None else load(self._folder, step, like)

    def _whole(self) -> int | None:
        step, damaged = newest_whole(self._folder)
        for each in damaged:
            renamed = self._folder / f"{_DAMAGED}{each}"
            shutil.rmtree(renamed, ignore_errors=True)
            (self._folder / str(each)).rename(renamed)
        copies.delete_checkpoints(self._folder / str(each) for each in damaged)
        return step


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silences Orbax's own reports of a failed write, which is raised and reported once.

    Orbax logs it three times, each with a traceback, and its closed event loop complains about every part that was
    still being written. Some of these complaints come after the error, so their filter stays if there was one.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    def unraisable(hooked: Any) -> None:
        if "Event loop is closed" not in str(hooked.exc_value):
            before(hooked)

    log, before = logging.getLogger("absl"), sys.unraisablehook
    log.addFilter(is_shown)
    sys.unraisablehook = unraisable
    try:
        yield
        sys.unraisablehook = before
    finally:
        log.removeFilter(is_shown)


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in `folder`, oldest first, without checking that they are whole."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def newest_whole(folder: Path) -> tuple[int | None, list[int]]:
    """Returns the step of the newest whole checkpoint, or None, and the steps of the damaged ones that are newer.

    The damaged ones are reported on stderr. Raises InputError if there are checkpoints and none is whole, because
    starting over would lose the whole run.
    """
    damages: dict[int, str] = {}
    for step in reversed(steps_in(folder)):
        if (damage := damage_of(folder, step)) is None:
            for damaged, damage in damages.items():
                text = f"{folder}: the checkpoint of step {damaged} is damaged ({damage}); that of step {step} is used"
                say(text)
            return step, list(damages)
        damages[step] = damage
    if damages:
        listed = "; ".join(f"step {step}: {damage}" for step, damage in damages.items())
        raise InputError(
            f"{folder}: none of its checkpoints is whole ({listed}). Put a copy of one back, or delete the folder to "
            "train again from the start"
        )
    return None, []


def load(folder: Path, step: int, like: Any) -> Loaded:
    """Returns (state, progress) of a whole checkpoint, placed like `like`, on any devices.

    Raises InputError, with the name of the array, if a shape or type differs; Orbax would cast silently.
    """
    checkpoint = (folder / str(step)).absolute()
    with ocp.StandardCheckpointer() as orbax:
        _refuse_another_model(orbax.metadata(checkpoint / _STATE).item_metadata.tree, like, folder)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return orbax.restore(checkpoint / _STATE, abstract), read_json(checkpoint / _PROGRESS)


def damage_of(folder: Path, step: int) -> str | None:
    """Returns what is wrong with a checkpoint; None if it is as it was written."""
    checkpoint = folder / str(step)
    try:
        wanted, found = json.loads((checkpoint / _MANIFEST).read_text()), checksums(checkpoint, without=_MANIFEST)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(wanted, dict):
        return f"{_MANIFEST} is not a JSON object"
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return f"{name} has {found.get(name)} for its bytes and checksum, not {wanted.get(name)}"
    return None


def load_best(folder: Path, best: Sequence[Any] | None, like: Any) -> tuple[int, Any]:
    """Returns (step, state) of the checkpoint with the best validation; `best` begins with its step.

    Raises InputError if no validation gave a number yet or the checkpoint is damaged, and as `load` does.
    """
    if best is None:
        raise InputError(f"{folder}: no validation has given a number yet, so no checkpoint is the best one")
    step = best[0]
    if (damage := on_process_zero(lambda: damage_of(folder, step))) is not None:
        raise InputError(
            f"{folder}: the best checkpoint, of step {step}, is damaged ({damage}). Put a copy of it back, or delete "
            "the folder to train again from the start"
        )
    return step, load(folder, step, like)[0]


def _refuse_another_model(saved: Any, like: Any, folder: Path) -> None:
    wanted = {_name(path): (x.shape, str(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(like)}
    found = {_name(path): (tuple(x.shape), str(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(saved)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{folder}: the checkpoint has {name} = {found.get(name, 'nothing')}, the configured model wants "
                f"{wanted.get(name, 'nothing')}; it was written by another model. Use another --out."
            )


def _name(path: tuple[Any, ...]) -> str:
    keys = (getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))) for key in path)
    return ".".join(str(key) for key in keys)
