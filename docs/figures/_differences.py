"""Differences between arms and a reference with their 95 % intervals, as `sessionrec compare` wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt

from scaling.report.figures import parts

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
LINE = 19


def compared(name: str, metric: str, budget: str) -> list[dict[str, Any]]:
    """Returns the arms of a table under one budget, each with its difference to the reference of its group."""
    arms = json.loads((RESULTS / f"{name}.json").read_text())
    return [
        {"group": arm["table"], "arm": arm["arm"], **difference}
        for arm in arms
        if budget in arm["budget"] and (difference := arm["differences"].get(metric))
    ]


def panel(rows: list[dict[str, Any]], title: str, axis: str, *, width: int = 300) -> alt.LayerChart:
    """Draws an arm a line, in the order of `rows`: a point, its interval, and a rule at no difference."""
    y = alt.Y("arm:N", sort=[row["arm"] for row in rows], title=None, axis=alt.Axis(labelLimit=420, grid=False))
    chart = alt.Chart(parts.data(rows))
    x = alt.X("value:Q", title=axis)
    zero = alt.Chart(parts.data([{"value": 0}])).mark_rule(color=parts.REFERENCE, strokeDash=[5, 4]).encode(x=x)
    interval = chart.mark_rule(color=parts.FIT, strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"), y)
    point = chart.mark_point(filled=True, size=55, color=parts.INK, opacity=1).encode(x, y)
    return alt.layer(zero, interval, point).properties(title=title, width=width, height=LINE * len(rows))
