"""Pieces of a page: elements, tables, lists, numbers as text, and the style. The cells are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from doors.text import html

CSS = """
:root { --ink: #22272e; --soft: #6a737d; --line: #e3e6ea; --wash: #f6f7f9; --warn: #8a5a00; --bad: #b3342d; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  background: #fff; max-width: 1060px; margin: 2.5rem auto 5rem; padding: 0 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .5rem; } p.lead, figcaption, .soft { color: var(--soft); }
p.answer { font-size: 1.1rem; background: var(--wash); padding: .9rem 1.1rem; border-radius: 6px; }
figure { margin: 1.4rem 0 2.2rem; } figcaption { font-size: .9rem; } .chart { min-height: 20px; overflow-x: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); white-space: nowrap; }
td { border-bottom: 1px solid var(--line); } th, td { padding: .32rem .9rem .32rem 0; vertical-align: top; }
td.number, th.number { text-align: right; } tr.out td { color: var(--soft); } code { font-size: .92em; }
tr.missing td { background: #fdf3f2; color: var(--bad); } tr.group td { font-weight: 600; padding-top: 1rem; }
.formula { font-family: ui-monospace, Menlo, Consolas, monospace; } .refusal { color: var(--bad); }
ul.notes { padding-left: 1.2rem; } ul.notes li { margin: .3rem 0; } .warn { color: var(--warn); }
"""


def element(tag: str, text: str, kind: str = "", inner: str = "") -> str:
    """Returns an element of escaped text, with a CSS class if one is given, and with `inner` HTML after the text."""
    return f"<{tag}{f' class={kind}' if kind else ''}>{html(text)}{inner}</{tag}>"


def paragraph(text: str, kind: str = "") -> str:
    return element("p", text, kind)


def notes(lines: Iterable[str], kind: str = "") -> str:
    """Returns a list."""
    return f'<ul class="notes {kind}">' + "".join(element("li", line) for line in lines) + "</ul>"


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


def interval(ends: tuple[float | None, float | None] | None) -> str:
    """Returns [low, high], with a dash for a missing end."""
    low, high = ends or (None, None)
    return f"[{number(low, '.5g')}, {number(high, '.5g')}]"
