"""The console: a narrow terminal, or none, cuts no number of a table."""

from __future__ import annotations

import re

import pytest
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


def wide_table(columns: int) -> Table:
    table = Table("", *(f"metric {k}" for k in range(columns)), title="arms")
    for arm in ("next session", "next exposure"):
        table.add_row(arm, *(f"{k + 0.1234:.4f} ({k:+.4f})" for k in range(columns)))
    return table


@pytest.mark.parametrize("width", [30, 44, 80, 250])
def test_a_table_that_is_too_wide_is_printed_in_pieces_that_cut_no_word(width):
    printed = shown(wide_table(12), width)
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    words = re.findall(r"[^\s┃│]+", printed)
    assert all(words.count(f"{k + 0.1234:.4f}") == 2 for k in range(12))
    pieces = printed.count("arms")
    assert words.count("exposure") == pieces, "each piece has the names of the rows"
    assert (pieces == 1) == (width == 250)


def test_a_column_that_the_terminal_cannot_hold_has_a_piece_of_its_own():
    assert shown(wide_table(3), 16).count("arms") == 3
