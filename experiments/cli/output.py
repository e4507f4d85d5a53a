"""A table for the terminal that the commands over tables of runs share."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table


def narrow_table(*heads: str) -> Table:
    """Returns an empty table whose columns are as wide as their text, and which never cuts a number."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table
