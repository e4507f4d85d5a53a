"""Turns the error that ended a command into one message and an exit code (the codes are listed in __main__.py)."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from rich.console import Console

import scaling.errors


def exit_code(call: Callable[[], int | None]) -> int:
    """Of `call`; what ended it is told in one message, as far as that is enough."""
    try:
        return call() or 0
    except ValueError as error:
        if not (isinstance(error, scaling.errors.InputError) or _is(error, "sessionrec_jax.errors", "InputError")):
            raise
        _tell(error)
        return 2
    except RuntimeError as error:
        if not _is(error, "sessionrec_jax.runfolder.stopping", "Stopped"):
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from here")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `sessionrec ... | head` is no failure
        return 0
    except OSError as error:
        if not (_is(error, "sessionrec_jax.errors", "NotSaved") or error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise
        _tell(error)
        return 1


def _is(error: Exception, module: str, name: str) -> bool:
    """Whether `error` is of a class of sessionrec_jax: of a module that is not loaded nothing can have been raised."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def _tell(error: Exception) -> None:
    text = str(error).replace("[", r"\[")
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {text}")
