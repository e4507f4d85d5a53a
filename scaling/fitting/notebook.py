"""A fit as HTML, which a notebook shows in place of its `repr`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def as_html(sentences: Sequence[str], formula: str, values: Mapping[str, str], notes: Sequence[str]) -> str:
    """Returns the verdict, the formula, a table of the parameters, and the notes.

    Args:
      sentences: the verdict on the law, and what goes with it.
      formula: the law's formula and name.
      values: {parameter: its value and interval in words}.
      notes: notes and warnings.
    """
    first, *others = sentences
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in values.items()
    )
    parts = [
        f"<p><b>{escape(first)}</b> {escape(' '.join(others))}</p>",
        f"<p><code>{escape(formula)}</code></p>",
        f"<table><tr><th></th><th style='text-align:left'>value [95 %]</th></tr>{rows}</table>",
        *(f"<p>{escape(note)}</p>" for note in notes),
    ]
    return "".join(parts)
