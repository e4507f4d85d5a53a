"""A table for the terminal and the progress of a fit: the commands over tables of runs share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.table import Table

from doors.terminal import Terminal
from doors.text import markup
from scaling.fitting import progress


def narrow_table(*heads: str) -> Table:
    """Returns an empty table whose columns are as wide as their text, and which never cuts a number."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


@contextmanager
def fit_progress() -> Iterator[None]:
    """Shows what the fits inside the block are doing, in the last line of a terminal. Elsewhere it shows nothing."""
    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status("") as status, progress.shown_by(lambda text: status.update(markup(text))):
        yield
