"""One door for the terminal: a console on which no text from outside acts as a control sequence."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Column, Table

from doors.text import markup, printable

__all__ = ["Terminal", "markup", "print_error", "say"]

_WIDEST = 1_000


class Terminal(Console):
    """A rich Console that writes every control character of a text as an escape, whoever printed the text."""

    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **kwargs):
            text, style, control = segment
            yield segment if control or (text.isascii() and text.isprintable()) else Segment(printable(text), style)

    def print(self, *objects: Any, **kwargs: Any) -> None:
        """Prints as rich does, except for tables in which rich would cut words or numbers.

        A table of columns that do not wrap keeps its width. Another one that is too wide is printed in pieces.
        """
        objects = tuple(piece for each in objects for piece in self._pieces(each))
        shown, unbounded = self._width, self.options.update(max_width=_WIDEST)
        tables = [
            each for each in objects if isinstance(each, Table) and all(column.no_wrap for column in each.columns)
        ]
        widest = max((self.measure(table, options=unbounded).maximum for table in tables), default=0)
        try:
            if widest > self.width:
                self.width = widest
            super().print(*objects, **kwargs)
        finally:
            self._width = shown

    def _pieces(self, shown: Any) -> list[Any]:
        """Splits the columns of a table whose words are wider than the terminal. Each piece has the first column."""
        if not isinstance(shown, Table) or all(column.no_wrap for column in shown.columns) or self._fits(shown):
            return [shown]
        first, *others = shown.columns
        pieces = [_with_columns(shown, [first])]
        for column in others:
            wider = _with_columns(shown, [*pieces[-1].columns, column])
            if self._fits(wider) or len(pieces[-1].columns) == 1:
                pieces[-1] = wider
            else:
                pieces.append(_with_columns(shown, [first, column]))
        return pieces

    def _fits(self, table: Table) -> bool:
        return self.measure(table, options=self.options.update(max_width=_WIDEST)).minimum <= self.width

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError, which is no failure of a command, where rich would exit with 1."""
        self.quiet = True
        raise BrokenPipeError(errno.EPIPE, "the reader of this output has closed it")


def _with_columns(table: Table, columns: Sequence[Column]) -> Table:
    piece = copy.copy(table)
    piece.columns = [dataclasses.replace(column, _index=place) for place, column in enumerate(columns)]
    return piece


def print_error(message: object) -> None:
    """Prints `message` to stderr after a red `error:`. Square brackets in it are printed as they are."""
    with contextlib.suppress(OSError):
        Terminal(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {markup(message)}")


def say(message: object) -> None:
    """Prints a line of plain text to stderr."""
    with contextlib.suppress(OSError):  # the terminal may be gone, which must not end a run that saves
        print(printable(str(message)), file=sys.stderr, flush=True)
