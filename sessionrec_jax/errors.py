"""What a user can put right: wrong input, and a disk that takes no more."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class InputError(ValueError):
    """What came, what was wanted, what to change. The command line prints it without a traceback and exits with 2."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


class NotSaved(OSError):
    """A checkpoint or a log could not be written; says why and what stands. The command line prints it and exits
    with 1."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_room(error: BaseException) -> str | None:
    """The system's words where a disk, a quota or a limit takes no more; polars and ArrayRecord give no number."""
    told = {code: os.strerror(code) for code in _FULL}
    number, text = getattr(error, "errno", None), str(error)
    return next((words for code, words in told.items() if code == number or words in text), None)
