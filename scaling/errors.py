"""The errors that a user can put right: wrong input, and tables that cannot carry the law that was asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message says what came, what was expected and what to change; no traceback is printed."""

    exit_code = 2
    """The exit code of a command that ends with this error."""


class Refusal(InputError):
    """The table cannot carry this law. The message gives the reason and the cure."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the closest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
