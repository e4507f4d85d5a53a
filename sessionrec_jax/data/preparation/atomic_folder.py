"""A folder that appears under its name only when it is complete, and the leftovers of killed attempts."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from doors.files import named
from sessionrec_jax.errors import NotSaved, no_room


def partial_path(out: Path) -> Path:
    """Returns the path of `out` while it is written. The next attempt removes what a killed one left there."""
    out = out.resolve()
    return out.with_name(f".{out.name}.partial")


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to write into, which is renamed to `out` when the block succeeds and removed when it fails.

    What was at `out` is replaced only on success. Raises NotSaved on a full disk.
    """
    out = out.resolve()
    partial, old = partial_path(out), out.with_name(f".{out.name}.old")
    _put_back(old, out)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with named(out):
            partial.mkdir(parents=True)
        yield partial
        with named(out):
            if out.exists():
                out.rename(old)
            partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, out)
        if not isinstance(error, NotSaved) and (words := no_room(error)):
            raise NotSaved(
                f"{out} could not be written: {words[:1].lower()}{words[1:]}; nothing is left of the attempt. Make "
                "room and type the same command again"
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    # `old` exists if a replacement was killed between its two renames, or before it removed `old`.
    if old.exists() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)
