"""The command line: `sessionrec COMMAND ...`, the same as `python -m experiments COMMAND ...`.

A command is imported only when it is called, so `sessionrec fit` and `report` work where jax is not installed.

Exit codes: 0 done. 2 wrong input: one message, no traceback. 1 a bug (with its traceback), or one message about a run
that diverged, a full disk or a lost process, where trying again may help. 143, 130 and 129 stopped by SIGTERM, Ctrl-C
and a lost terminal; the same command resumes. 75 a worker lost its run to another.
"""

from __future__ import annotations

import ast
import importlib
import sys
from importlib import metadata
from pathlib import Path

from rich.table import Table

from doors.terminal import Terminal
from experiments.exit_code import exit_code
from experiments.plugins import import_and_remove
from experiments.verbose import show_and_remove
from scaling.errors import InputError, near_miss

COMMANDS = (
    "sources", "prepare", "describe", "train", "evaluate", "recommend", "export", "serve", "sweep", "worker", "status",
    "watch", "compare", "fit", "rates", "predict", "forecast", "plan", "design", "report", "demo", "pod", "config",
    "completion",
)  # fmt: skip
_HELP = ("-h", "--help", "--help-all", "help")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: _call(argv))


def _call(argv: list[str]) -> int | None:
    argv = show_and_remove(argv)
    if argv and argv[0] in ("-V", "--version"):
        print(f"sessionrec {metadata.version('sessionrec-jax')}")
        return 0
    argv = argv if not argv or argv[0] in _HELP else import_and_remove(argv)
    if not argv or argv[0] in _HELP:
        return _help()
    command, *rest = argv
    if command not in COMMANDS:
        raise InputError(f"unknown command {command!r}; {near_miss(command, COMMANDS)}")
    return importlib.import_module(f"experiments.cli.{command}").main(rest)


def _help() -> int:
    console = Terminal()
    console.print(
        "[bold]sessionrec[/] COMMAND [OPTIONS]     next-session recommendation, scaling sweeps, power-law fits\n"
    )
    table = Table.grid(padding=(0, 3))
    folder = Path(__file__).parent / "cli"
    for command in COMMANDS:
        docstring = ast.get_docstring(ast.parse((folder / f"{command}.py").read_text())) or ""
        table.add_row(f"  [bold]{command}[/]", docstring.partition("\n")[0])
    console.print(table)
    console.print("\n`sessionrec COMMAND --help` has examples and explains the options.")
    console.print("`--help-all` also explains every setting of a run. `sessionrec --version` prints the version.")
    console.print("`-v`, on any command, shows the log records of jax and the other libraries.")
    console.print("`--plugin MODULE`, on any command, first imports a module of yours that registers extensions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
