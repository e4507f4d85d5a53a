"""The parts of all figures: colours, axes with few round ticks, data, the points of runs, the law's lines, the theme.

Charts hold their data and look the same on paper as in the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from doors.text import printable_values
from scaling.fitting.result import Fit
from scaling.laws.registry import Law
from scaling.table.run_table import RunTable

WIDTH, HEIGHT = 720, 380
PANEL_WIDTH, PANEL_HEIGHT = 300, 240
"""The size of a panel in a figure with several panels side by side."""
INK, FIT, THEORY, REFERENCE = "#22272e", "#c2413a", "#2f7fc0", "#737c86"
GRID, LINES, PAPER = "#e8eaed", "#9aa1a9", "white"
THEME_COLOURS = {INK: "ink", FIT: "fit", THEORY: "theory", REFERENCE: "soft", GRID: "line", LINES: "axis"}
"""{colour of a figure: the variable of the page's style that is in its place there}, for a dark page too."""
RAMP = ("#6a4c9c", "#3b6fb0", "#248f8d", "#3aa35b", "#8fae2e", "#d0a820")
"""Colours from low to high values that are visible on white and on black, which viridis' ends are not."""
COUNT, FLOPS, VALUE = (
    "abs(datum.value) < 1000 ? format(datum.value, '.3~g') : abs(datum.value) < 1e15 ? "
    "replace(replace(format(datum.value, '.3~s'), 'G', 'B'), 'k', 'K') : "
    "replace(format(datum.value, '.2~e'), 'e+', 'e')",
    "replace(format(datum.value, '.2~e'), 'e+', 'e')",
    "format(datum.value, '.4~g')",
)
"""Labels of ticks as people say them: 450, 449K and 100B; 1e18; 0.0025."""
FLATTENS = 1.5
"""A reference that would stretch the data's log axis by more than this factor is named in the title, not drawn."""
POINT_SIZE = 75
FITTED, HELD_OUT = "in the fit", "held out in the check"
DISCRETE_COLOURS = 8
"""A colour legend lists up to this many distinct values; with more it is a scale."""
LINE_POINTS = 80

Layers = alt.LayerChart | alt.FacetChart


@dataclass(frozen=True)
class Subject:
    """The runs of a figure, and the law through them, if any."""

    table: RunTable
    fit: Fit | None
    tooltip: tuple[str, ...] = ()
    """Columns that hovering over a run shows."""


class Colour(NamedTuple):
    """The values that give each run its colour."""

    values_R: np.ndarray
    title: str
    label: str = COUNT


class Stroke(NamedTuple):
    colour: str
    dash: tuple[int, int] = (1, 0)


@dataclass(frozen=True)
class Labels:
    """Axis titles: the names of the columns, with what they measure."""

    n: str
    d: str
    response: str
    u: str
    l: str  # noqa: E741 the laws call the axis of an upstream loss so


def labels(table: RunTable, law: Law | None = None) -> Labels:
    columns = table.columns

    def words(name: str | None) -> str:
        return (name or "").replace("_", " ")

    def named(what: str, name: str | None) -> str:
        return what if words(name).lower() in ("", what[-1].lower()) else f"{what} ({words(name)})"

    response = columns.loss
    if law is not None and law.response == "metric":
        response = columns.metric
    elif columns.loss is None:
        response = f"1 - {columns.metric}"
    return Labels(
        n=named("model size N", columns.n),
        d="training data D = FLOPs / (6 N)" if columns.flops and not columns.d else named("training data D", columns.d),
        response=_with_what(words(response)),
        u="unique data D",
        l=f"upstream loss ({words(columns.loss)})",
    )


def _with_what(response: str) -> str:
    """Returns the response's name with the word loss, unless it says already what it measures."""
    is_unit = "nats" in response.split() and "loss" not in response.split()
    return f"loss ({response})" if is_unit else response


def colour_by_size(table: RunTable) -> Colour | None:
    """Returns N as the colour; None where there are no two sizes."""
    return None if table.n is None or len(np.unique(table.n)) < 2 else Colour(table.n, labels(table).n)


def response(table: RunTable, law: Law | None = None) -> np.ndarray:
    """Returns [R] what `law` predicts; without a law the loss, or the error 1 - metric if there is no loss."""
    if law is not None:
        return table.response(law)
    return table.loss if table.loss is not None else 1 - table.need("metric")


def points(
    subject: Subject, x: alt.X, y: alt.Y, *, fields: Mapping[str, np.ndarray], colour: Colour | None
) -> alt.Chart:
    """Draws one mark a run, which names the run and its settings. Triangles are predicted by the held-out check.

    `fields` are {field: [R]} besides n, d and the response, for x, y and the tooltip.
    """
    table, fit = subject.table, subject.fit
    held = {run.run for run in fit.heldout} if fit is not None else set()
    shown = [name for name in subject.tooltip if name in table.frame.columns]
    configs = table.frame.select(shown).to_dicts() if shown else [{}] * len(table)
    values = {"n": table.n, "d": table.d, "response": response(table, fit.law if fit is not None else None)}
    values = {name: v for name, v in (values | dict(fields)).items() if v is not None}
    rows = [
        {"run": table.row_id[i], **{name: v[i] for name, v in values.items()}, **config}
        | ({} if colour is None else {"colour": colour.values_R[i]})
        | {"role": HELD_OUT if table.row_id[i] in held else FITTED}
        for i, config in enumerate(configs)
    ]
    tooltip = ["run:N", *(alt.Tooltip(f"{name}:Q", format=",.6~g") for name in values), *(f"{s}:N" for s in shown)]
    encoding: dict[str, Any] = {"x": x, "y": y, "tooltip": tooltip}
    encoding["color"] = alt.value(INK) if colour is None else colour_of(colour)
    if held:
        scale = alt.Scale(domain=[FITTED, HELD_OUT], range=["circle", "triangle-up"])
        encoding["shape"] = alt.Shape(
            "role:N", title=None, scale=scale, legend=alt.Legend(symbolSize=POINT_SIZE, symbolFillColor=REFERENCE)
        )
    mark = alt.Chart(data(rows)).mark_point(filled=True, size=POINT_SIZE, opacity=0.9, stroke=PAPER, strokeWidth=0.6)
    return mark.encode(**encoding)


def law_over_data(fit: Fit, x: alt.X, y: alt.Y, floor: float) -> list[alt.Chart]:
    """Draws the law over D less `floor`, one line for each N of a law of both, with a band unless the floor is fitted.

    A law of repeated data is drawn as if no datum came twice, and one of density at the median density.
    """
    table = fit.table
    seen_R = table.need("d")
    d = np.geomspace(seen_R.min() / 1.25, seen_R.max() * 1.25, LINE_POINTS)
    by_size = "n" in fit.law.axes
    rows = []
    for n in spread(np.unique(table.need("n"))) if by_size else [None]:
        at = {"d": d} | ({} if n is None else {"n": np.full_like(d, n)}) | ({"u": d} if "u" in fit.law.axes else {})
        at |= {"s": np.full_like(d, np.median(table.need("density")))} if "s" in fit.law.axes else {}
        value, low, high = (v - floor for v in fit.band(at))
        rows += [
            {"d": d[i], "response": value[i], "low": low[i], "high": high[i]} | ({"colour": n} if by_size else {})
            for i in range(len(d))
            if value[i] > 0
        ]
    encoding: dict[str, Any] = {"color": alt.value(FIT)}
    if by_size:
        encoding = {"color": colour_of(Colour(table.need("n"), labels(table).n)), "detail": "colour:Q"}
    return line_with_band(rows, x, y, encoding, with_band=not (floor > 0 and fit.known_floor is None), faint=by_size)


def line_with_band(
    rows: list[dict], x: alt.X, y: alt.Y, encoding: dict[str, Any], *, with_band: bool = True, faint: bool = False
) -> list[alt.Chart]:
    """Draws rows with the fields of x and y and, for the band, low and high. A band end must be above 0."""
    line = alt.Chart(data(rows)).mark_line(strokeWidth=1.8, clip=True).encode(x=x, y=y, **encoding)
    banded = [row for row in rows if row["low"] > 0]  # also drops NaN: no bootstrap, no band
    if not banded or not with_band:
        return [line]
    low_end = y.copy()
    low_end["shorthand"] = "low:Q"
    area = alt.Chart(data(banded)).mark_area(opacity=0.10 if faint else 0.16, clip=True)
    return [area.encode(x=x, y=low_end, y2=alt.Y2("high:Q"), **encoding), line]


def line(rows: list[dict], x: alt.X, y: alt.Y, stroke: Stroke) -> alt.Chart:
    mark = alt.Chart(data(rows)).mark_line(
        strokeWidth=1.8, color=stroke.colour, strokeDash=list(stroke.dash), clip=True
    )
    return mark.encode(x=x, y=y)


def label(rows: list[dict], text: str, x: alt.X, y: alt.Y, colour: str, *, at: float, above: bool = True) -> alt.Chart:
    """Writes `text` at a falling line of `rows`, `at` its share from the left, on the side where the line is not."""
    row = rows[min(int(at * len(rows)), len(rows) - 1)] | {"text": text}
    look: dict[str, Any] = {"fontSize": 12, "fontWeight": 600, "color": colour, "clip": True}
    if above:
        mark = alt.Chart(data([row])).mark_text(align="left", baseline="bottom", dx=5, dy=-5, **look)
    else:
        mark = alt.Chart(data([row])).mark_text(align="right", baseline="top", dx=-5, dy=5, **look)
    return mark.encode(x=x, y=y, text="text:N")


def rule(value: float, name: str, d: tuple[float, float], *, is_high: bool, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Draws a dashed line across at `value`, with its name at the first end of `d`, or at the last if it `is_high`:
    there a falling law is not.
    """
    at = data([{"response": value, "d": d[is_high], "text": f"{name} {value:.4g}"}])
    dashed = alt.Chart(at).mark_rule(color=REFERENCE, strokeDash=[5, 4], strokeWidth=1.3).encode(y=y)
    text = alt.Chart(at).mark_text(
        align="right" if is_high else "left", baseline="bottom", dy=-3, fontSize=12, color=REFERENCE
    )
    return [dashed, text.encode(x=x, y=y, text="text:N")]


def colour_of(colour: Colour) -> alt.Color:
    distinct = np.unique(colour.values_R)
    if len(distinct) <= DISCRETE_COLOURS:
        scale = alt.Scale(domain=distinct.tolist(), range=ramp(len(distinct)))
        legend = alt.Legend(symbolType="circle", symbolOpacity=1, symbolSize=POINT_SIZE, labelExpr=colour.label)
        return alt.Color("colour:O", title=colour.title, scale=scale, legend=legend)
    low, high = float(distinct[0]), float(distinct[-1])
    scale = alt.Scale(type="log", domain=np.geomspace(low, high, len(RAMP)).tolist(), range=list(RAMP))
    # next to lines and shapes Vega-Lite turns a gradient into symbols, one for each tick: so only a few are named
    legend = alt.Legend(
        gradientLength=240, values=ticks(low, high), symbolSize=POINT_SIZE, labelExpr=colour.label, symbolOpacity=1
    )
    return alt.Color("colour:Q", title=colour.title, scale=scale, legend=legend)


def ramp(count: int) -> list[str]:
    """Returns `count` colours of RAMP, evenly spaced; between two of them they are mixed."""
    channels = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in RAMP])
    at = np.linspace(0, len(RAMP) - 1, count) if count > 1 else np.array([1.0])
    mixed = np.stack([np.interp(at, np.arange(len(RAMP)), channel) for channel in channels.T], axis=1)
    return ["#" + "".join(f"{round(value):02x}" for value in row) for row in mixed]


def spread(values: np.ndarray) -> Iterable[float]:
    """Returns at most six of the values, evenly spaced."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), 6)).round().astype(int))].tolist()


def flattens(value: float, values: np.ndarray) -> bool:
    """Returns whether an axis that reaches to `value` would flatten the data, `values` [R]."""
    low, high = float(values.min()), float(values.max())
    span = np.log(max(high / low, 1.01))
    return bool(np.log(max(high, value) / min(low, value)) > FLATTENS * span + 0.05)


def log_x(field: str, title: str, values: np.ndarray, label: str = COUNT) -> alt.X:
    """Returns a log axis that fits its data, with ticks at a grid's own values, or at round ones."""
    distinct = np.unique(np.asarray(values, float)).tolist()
    at = distinct if len(distinct) <= DISCRETE_COLOURS else None
    return alt.X(f"{field}:Q", title=title, **_log_axis(values, label, at))


def log_y(title: str, values: Iterable[float], field: str = "response", label: str = VALUE) -> alt.Y:
    """Returns a log axis that fits its data, with ticks at round values, however narrow the range."""
    return alt.Y(f"{field}:Q", title=title, **_log_axis(np.asarray(list(values), float), label))


def _log_axis(values: np.ndarray, label: str, at: list[float] | None = None) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    margin = max((high / low) ** 0.09, 1.006)
    low, high = low / margin, high * margin
    axis = alt.Axis(values=at or ticks(low, high), labelExpr=label, labelOverlap=True)
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": axis}


def even_x(field: str, title: str, low: float, high: float, **axis: Any) -> alt.X:
    """Returns a linear axis from `low` to `high`."""
    return alt.X(f"{field}:Q", title=title, **_even_axis(low, high, axis))


def even_y(field: str, title: str, low: float, high: float, **axis: Any) -> alt.Y:
    """Returns a linear axis from `low` to `high`."""
    return alt.Y(f"{field}:Q", title=title, **_even_axis(low, high, axis))


def _even_axis(low: float, high: float, axis: dict[str, Any]) -> dict[str, Any]:
    scale = alt.Scale(domain=[float(low), float(high)], nice=False, zero=False)
    axis = {"format": ".6~g"} | axis
    return {"scale": scale, "axis": alt.Axis(**axis)}


def ticks(low: float, high: float) -> list[float]:
    """Returns a few round numbers between `low` and `high` of a log axis."""
    if high / low > 8:
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        step = -(-len(decades) // 9)
        digits = (
            (1, 2, 3, 5, 7)
            if high / low < 30
            else (1, 2, 5)
            if high / low < 300
            else (1, 3)
            if high / low < 3e4
            else (1,)
        )
        return [float(f"{m}e{k}") for k in decades[::step] for m in digits if low <= float(f"{m}e{k}") <= high]
    rough = (high - low) / 7
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
    return [float(f"{step * i:.12g}") for i in range(int(np.ceil(low / step)), int(high / step) + 1)]


def data(rows: list[dict]) -> alt.InlineData:
    """Returns rows as JSON; what is not a finite number is null."""
    # one text, because Altair copies a chart's data at every step
    plain = [{k: _finite(v.item() if isinstance(v, np.generic) else v) for k, v in row.items()} for row in rows]
    return alt.InlineData(values=json.dumps(plain, allow_nan=False), format=alt.JsonDataFormat(type="json"))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else printable_values(value)


def single(*layers: alt.Chart, title: str, beyond: Iterable[str] = ()) -> Layers:
    """Returns one panel of full width. `beyond` names what is too far off the data to be drawn."""
    text = alt.TitleParams(title, subtitle=list(beyond)) if (beyond := list(beyond)) else title
    return alt.layer(*layers).properties(title=text, width=WIDTH, height=HEIGHT)


def panel(*layers: alt.Chart, width: int = PANEL_WIDTH, height: int = PANEL_HEIGHT, title: Any = "") -> Layers:
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def themed(chart: Any, *, legend_inside: bool = False) -> alt.TopLevelMixin:
    """Gives a chart the common look, in a single call, because each call copies the data.

    With `legend_inside` the legend is in the upper right corner, which a single falling law leaves empty.
    """
    place = ("top-right", "vertical", "top", 6) if legend_inside else ("top", "horizontal", "left", 10)
    axis = alt.AxisConfig(
        labelFontSize=12, titleFontSize=13, titleFontWeight=500, titlePadding=10, gridColor=GRID,
        domainColor=LINES, tickColor=LINES, labelColor=INK, titleColor=INK,
    )  # fmt: skip
    look = {
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500, "labelLimit": 320, "titleLimit": 420,
        "labelColor": INK, "titleColor": INK, "titlePadding": 8,
        **dict(zip(("orient", "direction", "titleOrient", "offset"), place, strict=True)),
    }  # fmt: skip
    config = alt.Config(
        font="Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif",
        title=alt.TitleConfig(
            fontSize=16, anchor="start", offset=14, color=INK, fontWeight=600, subtitleColor=REFERENCE,
            subtitleFontSize=12, subtitlePadding=5,
        ),
        axis=axis,
        legend=alt.LegendConfig(**look),
        view=alt.ViewConfig(stroke=None),
    )  # fmt: skip
    return chart.properties(background=PAPER, padding=12, config=config)


def as_dict(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Returns the chart as Vega-Lite, without the web address of its schema: a page has no address."""
    spec = chart.to_dict(validate=False)
    del spec["$schema"]
    return printable_values(spec)
