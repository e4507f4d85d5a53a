"""The console: a narrow terminal, or none, cuts no number of a table."""

from __future__ import annotations

from rich.table import Table

from doors.terminal import Terminal
from experiments.cli.output import narrow_table


def shown(table: Table, width: int) -> str:
    console = Terminal(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    assert console.width == width  # also for what is printed next
    return captured.get()


def test_no_number_is_cut():
    table = narrow_table(*(f"column {i}" for i in range(9)))
    numbers = [f"{i}.123456789e+05 [{i}.1, {i}.2]" for i in range(9)]
    table.add_row(*numbers)
    assert all(number in shown(table, 40) for number in numbers)


def test_a_text_that_may_wrap_stays_within_the_terminal():
    table = Table("name", "text")
    table.add_row("a", "word " * 60)
    assert max(map(len, shown(table, 40).splitlines())) <= 40
