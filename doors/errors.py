"""The errors that a user can put right. Each class has the exit code of a command that it ends."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message says what came, what was wanted and what to change; no traceback is shown."""

    exit_code = 2


class NotSaved(OSError):
    """A file, a checkpoint or a log could not be written. The message names it and says why."""

    exit_code = 1


class NoMemory(RuntimeError):
    """The machine or its accelerator has too little memory. The message says which, and what needs less."""

    exit_code = 1


def near_miss(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CURES = {
    errno.EACCES: "name one that you may write, or change its permissions",
    errno.EPERM: "name one that you may write, or change its permissions",
    errno.EROFS: "its file system is read-only; name a path on another",
    errno.ENOTDIR: "a part of the path is a file; name a path whose parts are folders",
    errno.EISDIR: "wanted a file, and this is a folder",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "it is a symbolic link where none is followed, or links lead in a circle; name the file itself",
    errno.ENOENT: "a folder of its path does not exist; make it first",
}


def no_room(error: BaseException) -> str | None:
    """Returns the system's words if a disk, a quota or a limit is full, else None.

    The text is searched too, because polars and ArrayRecord give no error number.
    """
    number, text = getattr(error, "errno", None), str(error)
    return next((os.strerror(code) for code in _FULL if code == number or os.strerror(code) in text), None)


def no_memory(error: BaseException) -> NoMemory | None:
    """Returns the error to show if memory was refused to this process or on a device of jax, else None."""
    if "RESOURCE_EXHAUSTED" in str(error):  # jax's error has no class of its own for it
        where, words = "a device", str(error).partition("\n")[0]
    elif isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        where, words = "this process", str(error) or "the machine or a limit (ulimit) gave no more"
    else:
        return None
    return NoMemory(
        f"{where} has too little memory: {words}. Fewer rows a batch, a smaller model or more devices need less; the "
        "same command goes on from the last checkpoint"
    )


def wrong_path(error: BaseException) -> str | None:
    """Returns the system's words and a cure if a path cannot be used as it was named, else None."""
    number = getattr(error, "errno", None)
    return f"{os.strerror(number)}; {_CURES[number]}" if number in _CURES else None
