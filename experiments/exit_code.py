"""Turns the error that ended a command into one message and an exit code (__main__.py lists the codes)."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from rich.console import Console

from experiments.console import print_error

_SIGNALS = 128
"""An exit code above this means that a signal stopped the command, which is no error."""


def exit_code(call: Callable[[], int | None]) -> int:
    """Returns the exit code of `call`. An error that has an `exit_code` becomes one message without a traceback, and so
    does a full disk; any other error is raised."""
    try:
        return call() or 0
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from here")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `sessionrec ... | head` is no failure
        return 0
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = getattr(error, "exit_code", 1 if is_full else None)
        if code is None:
            raise
        if code > _SIGNALS:
            Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(str(error))
        else:
            print_error(error)
        return code
