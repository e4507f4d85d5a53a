"""What commands over tables of runs share on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table


def columns(*heads: str) -> Table:
    """An empty table whose columns take no more room than their text."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table
