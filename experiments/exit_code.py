"""Turns the error that ended a command into one message and an exit code (__main__.py lists the codes)."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable

from doors.address import with_addresses
from doors.errors import InputError, NotSaved, no_memory, no_room, wrong_path
from doors.terminal import print_error, say
from experiments.extras import to_install

_SIGNALS = 128
"""An exit code above this means that a signal stopped the command, which is no error."""


def exit_code(call: Callable[[], int | None]) -> int:
    """Returns the exit code of `call`. An error that has an `exit_code` becomes one message without a traceback, and so
    does a full disk and a path that cannot be used; any other error is raised."""
    code = 0
    try:
        try:
            code = call() or 0
        except SystemExit as stopped:  # tyro, after a help or on wrong flags
            code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        sys.stdout.flush()  # here, where a full disk or a closed pipe behind it is reported
        return code
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `sessionrec ... | head` is no failure
        return code
    except Exception as error:
        shown = error if hasattr(error, "exit_code") else _of_the_world(error)
        if shown is None:
            raise
        code = getattr(shown, "exit_code")  # noqa: B009 - not every error has it
        (say if code > _SIGNALS else print_error)(with_addresses(str(shown)))
        return code


def _of_the_world(error: Exception) -> Exception | None:
    """Returns the message for an extra to install, a full disk, too little memory or a path that cannot be used; None
    for any other error. A missing file is another error here, because it may be one of ours."""
    if isinstance(error, ImportError):
        return to_install(error)
    path = getattr(error, "filename", None) or "standard output or a file"
    if words := no_room(error):
        with contextlib.suppress(OSError):  # else the interpreter writes the rest again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NotSaved(f"{path} could not be written: {words}; make room")
    if shown := no_memory(error):
        return shown
    if isinstance(error, OSError) and error.errno != errno.ENOENT and (words := wrong_path(error)):
        return InputError(f"cannot use {path}: {words}")
    return None
