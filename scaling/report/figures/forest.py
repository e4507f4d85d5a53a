"""A forest plot: differences to a reference with their 95 % intervals, one panel a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import altair as alt

from scaling.report.figures import parts
from scaling.report.figures.parts import INK, REFERENCE, Layers

ROW_HEIGHT = 26
AROUND = 190
"""The pixels of a panel's width that the names of its rows take."""


class Difference(NamedTuple):
    """One row of a panel."""

    name: str
    value: float
    low: float
    high: float
    is_clear: bool
    """It is beyond chance; else the mark is hollow."""


def forest(panels: Mapping[str, Sequence[Difference]], title: str) -> alt.ConcatChart:
    """Draws {measure: its differences}. The dashed line is no difference; hollow marks may be chance."""
    drawn = [_panel(measure, rows) for measure, rows in panels.items()]
    return alt.concat(*drawn, columns=2, spacing=28).properties(title=title, usermeta={"around": AROUND})


def _panel(measure: str, rows: Sequence[Difference]) -> Layers:
    ends = [0.0, *(end for row in rows for end in (row.low, row.high))]
    margin = 0.08 * (max(ends) - min(ends)) or 1e-6
    x = parts.even_x("value", "", min(ends) - margin, max(ends) + margin, tickCount=4)
    names = [row.name for row in rows]
    look = alt.Axis(labelLimit=AROUND - 50, ticks=False, domain=False, labelPadding=8)
    y = alt.Y("name:N", sort=names, title=None, axis=look, scale=alt.Scale(domain=names))
    data = parts.data([row._asdict() for row in rows])
    tooltip = [alt.Tooltip("name:N"), *(alt.Tooltip(f"{end}:Q", format="+.4~g") for end in ("value", "low", "high"))]
    low_end = x.copy()
    low_end["shorthand"] = "low:Q"
    none = alt.Chart(parts.data([{"value": 0}])).mark_rule(color=REFERENCE, strokeDash=[4, 3]).encode(x=x)
    bars = alt.Chart(data).mark_rule(strokeWidth=2, color=INK).encode(x=low_end, x2="high:Q", y=y)
    fill = alt.condition(alt.datum.is_clear, alt.value(INK), alt.value(parts.PAPER))
    marks = alt.Chart(data).mark_point(filled=True, size=80, stroke=INK, strokeWidth=1.6, opacity=1)
    marks = marks.encode(x=x, y=y, fill=fill, tooltip=tooltip)
    heading = alt.TitleParams(measure, fontSize=13, offset=6)
    return parts.panel(none, bars, marks, width=300, height=ROW_HEIGHT * len(rows) + 10, title=heading)
