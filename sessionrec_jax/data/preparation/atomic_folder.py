"""A folder that appears under its name only when it is complete, and what killed attempts left of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from sessionrec_jax.errors import NotSaved, no_room


def partial_of(out: Path) -> Path:
    """Where `out` is while it is written. The next attempt removes what a killed one left there."""
    out = out.resolve()
    return out.with_name(f".{out.name}.partial")


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its name when the block ends well and is removed otherwise. What
    stands under the name is replaced only then. Raises NotSaved on a full disk."""
    out = out.resolve()
    partial, old = partial_of(out), out.with_name(f".{out.name}.old")
    _put_back(old, out)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, out)
        if words := no_room(error):
            raise NotSaved(
                f"{out} could not be written: {words[:1].lower()}{words[1:]}; nothing is left of the attempt. Make "
                "room and type the same command again"
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    """`old` stands where a replacement was killed between its two steps, or before it had cleared up."""
    if old.exists() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)
