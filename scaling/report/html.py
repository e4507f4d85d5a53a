"""Pieces of a page: elements, tables, lists, folds, and numbers as text. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from doors.text import html


def element(tag: str, text: str, kind: str = "", inner: str = "") -> str:
    """Returns an element of escaped text, with a CSS class if one is given, and with `inner` HTML after the text."""
    return f"<{tag}{f' class={kind}' if kind else ''}>{html(text)}{inner}</{tag}>"


def paragraph(text: str, kind: str = "") -> str:
    return element("p", text, kind)


def notes(lines: Iterable[str], kind: str = "") -> str:
    """Returns a list."""
    return f'<ul class="notes {kind}">' + "".join(element("li", line) for line in lines) + "</ul>"


def fold(summary: str, *inner: str) -> str:
    """Returns a section that a click on its summary opens; empty if there is nothing inside."""
    body = "\n".join(part for part in inner if part)
    return f"<details>{element('summary', summary)}\n{body}</details>" if body else ""


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Iterable[int] = (),
    marks: Sequence[str] | None = None,
) -> str:
    """Returns a table of escaped cells.

    Args:
      numbers: the columns that are aligned to the right.
      marks: a CSS class for each row, or "".
    """
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(element(tag, cell, "number" if i in right else "") for i, cell in enumerate(cells))

    marks = marks or [""] * len(rows)
    body = "".join(
        f"<tr{f' class={mark}' if mark else ''}>{line(row, 'td')}</tr>" for row, mark in zip(rows, marks, strict=True)
    )
    return f"<div class=scroll><table><thead><tr>{line(heads, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def short(value: Any) -> str:
    """Returns a cell: six digits, thousands separated, a dash for a missing value."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float) and not (value.is_integer() and abs(value) < 1e9):
        return f"{value:.6g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def number(value: float | None, form: str) -> str:
    """Returns the formatted value, or a dash if it is missing."""
    return "-" if value is None or value != value else f"{value:{form}}"
