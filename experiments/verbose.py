"""`-v`, on any command, shows the log records of the libraries (jax, Orbax, Grain) on stderr.

An environment variable keeps it, so that the workers which a command starts show theirs too.
"""

from __future__ import annotations

import logging
import os

from doors.text import printable

VARIABLE = "SESSIONREC_VERBOSE"
_FLAGS = ("-v", "--verbose")


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def show_and_remove(argv: list[str]) -> list[str]:
    """Returns `argv` without -v. If -v or the environment asks for them, records from INFO on are shown."""
    rest = [word for word in argv if word not in _FLAGS]
    if len(rest) < len(argv):
        os.environ[VARIABLE] = "1"
    if environment():
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable("%(asctime)s %(process)d %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    return rest


def environment() -> dict[str, str]:
    """Returns the variable for processes that do not inherit the environment."""
    return {VARIABLE: "1"} if os.environ.get(VARIABLE) == "1" else {}
