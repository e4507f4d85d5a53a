"""The command line: `sessionrec COMMAND ...`, the same as `python -m experiments COMMAND ...`.

A command is imported only when it is called, so `sessionrec fit` and `report` work where jax is not installed.
Exit codes: 0 done; 2 the input was wrong (one message, no traceback); 1 a failure of ours (with its traceback), or no
room on the disk, or another process of the run was lost (one message, no traceback: trying again may do); 143 and 130
stopped by SIGTERM and Ctrl-C, to be tried again (`sessionrec_jax.stopping`); 75 a worker lost its run to another.
"""

from __future__ import annotations

import ast
import errno
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import scaling.errors

COMMANDS = (
    "sources", "prepare", "describe", "train", "evaluate", "recommend", "sweep", "worker", "status", "watch", "compare",
    "fit", "plan", "design", "report", "demo",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _help()
    return exit_code(lambda: _call(*argv))


def _call(command: str, *rest: str) -> int | None:
    if command not in COMMANDS:
        raise scaling.errors.InputError(f"unknown command {command!r}; {scaling.errors.near_miss(command, COMMANDS)}")
    return importlib.import_module(f"experiments.cli.{command}").main(list(rest))


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
        if not _is(error, "sessionrec_jax.stopping", "Stopped"):
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


def _help() -> int:
    console = Console()
    console.print(
        "[bold]sessionrec[/] COMMAND [OPTIONS]     next-session recommendation, scaling sweeps, power-law fits\n"
    )
    table = Table.grid(padding=(0, 3))
    folder = Path(__file__).parent / "cli"
    for command in COMMANDS:
        docstring = ast.get_docstring(ast.parse((folder / f"{command}.py").read_text())) or ""
        table.add_row(f"  [bold]{command}[/]", docstring.partition("\n")[0])
    console.print(table)
    console.print("\n`sessionrec COMMAND --help` explains every option.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
