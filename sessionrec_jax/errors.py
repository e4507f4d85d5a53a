"""The errors that a user can put right. Each class has the exit code of a command that it ends."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message says what came, what was wanted and what to change; no traceback is shown."""

    exit_code = 2


def near_miss(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


class NotSaved(OSError):
    """A checkpoint or a log could not be written. The message says why, and from which step the run can go on."""

    exit_code = 1


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_room(error: BaseException) -> str | None:
    """Returns the system's words if a disk, a quota or a limit is full, else None.

    The text is searched too, because polars and ArrayRecord give no error number.
    """
    number, text = getattr(error, "errno", None), str(error)
    return next((os.strerror(code) for code in _FULL if code == number or os.strerror(code) in text), None)
