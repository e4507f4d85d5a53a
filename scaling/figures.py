"""The figures of a report: one Altair chart each, from a table of runs, a fit (or none) and a theory (or none).

Charts hold their data and look the same on paper (SVG, PNG) as in the page. Altair is imported here alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import altair as alt
import numpy as np

from scaling.fit import Fit
from scaling.table import RunTable
from scaling.theory import Theory

WIDTH, HEIGHT = 560, 340
INK, FIT, THEORY, REFERENCE = "#22272e", "#b3342d", "#1b6ca8", "#6a737d"
POINT_SIZE = 75
FITTED, HELD_OUT = "in the fit", "held out in the check"
DISCRETE_COLOURS = 8
"""Up to so many distinct values a colour legend lists each; beyond, it is a scale."""
TOOLTIP_COLUMNS = ("seed", "epochs", "learning_rate_peak", "width", "layers", "paradigm", "status")


@dataclass(frozen=True)
class Labels:
    """Axis titles: the columns' names, with what they measure."""

    n: str
    d: str
    loss: str


def labels(table: RunTable) -> Labels:
    columns = table.columns
    words = {name: (name or "").replace("_", " ") for name in (columns.n, columns.d, columns.loss)}
    d = words[columns.d] if columns.d else "training FLOPs / (6 N)"
    return Labels(n=f"N: {words[columns.n]}", d=f"D: {d}", loss=words[columns.loss])


def all_figures(table: RunTable, fit: Fit | None, theory: Theory | None) -> dict[str, alt.LayerChart]:
    """{file stem: chart}; those that the table or a missing fit does not allow are absent. The table has rows."""
    charts = {"loss_against_data": loss_against_data(table, fit)}
    floor = reference_floor(fit, theory, table)
    if (table.loss > floor).any() and floor > 0:
        charts["excess_against_data"] = excess_against_data(table, fit, theory, floor)
    if table.n is not None and len(np.unique(table.n)) > 1:
        charts["loss_against_size"] = loss_against_size(table)
    if fit is not None:
        charts["residuals"] = residuals(fit)
    return {name: _themed(chart) for name, chart in charts.items()}


def reference_floor(fit: Fit | None, theory: Theory | None, table: RunTable) -> float:
    """The floor that excesses are over: the known one, else the fitted one, else 0."""
    if table.known_floor is not None:
        return table.known_floor
    if fit is not None and fit.known_floor is not None:
        return fit.known_floor
    if theory is not None:
        return theory.floor
    return 0.0 if fit is None or "E" in fit.open_intervals else fit.floor


def loss_against_data(table: RunTable, fit: Fit | None) -> alt.LayerChart:
    """Loss over D in log-log, the law with its 95 % band, the floor and the trivial predictor as dashed lines."""
    text, rules = labels(table), []
    if fit is not None and fit.floor > 0 and "E" not in fit.open_intervals:
        rules.append((fit.floor, "known floor" if fit.known_floor is not None else "fitted floor"))
    elif table.known_floor is not None:
        rules.append((table.known_floor, "known floor"))
    if table.columns.baseline is not None:
        rules.append((float(table.frame[table.columns.baseline].cast(float).median()), "popularity baseline"))
    x = _x(table.d, text.d)
    y = _y("loss", text.loss, [*table.loss, *(value for value, _ in rules)])
    layers = [] if fit is None else _law(fit, x, y, 0.0)
    layers += [layer for value, name in rules for layer in _rule(value, name, table.d, x, y)]
    return alt.layer(*layers, _points(table, fit, x, y, table.n, text.n)).properties(title="Loss against data")


def excess_against_data(table: RunTable, fit: Fit | None, theory: Theory | None, floor: float) -> alt.LayerChart:
    """Loss over the floor in log-log, where a power law is a straight line; the theory's curve and exponent with it."""
    text = labels(table)
    above = table.take(table.loss > floor)
    curve = [] if theory is None else [(d, excess) for d, excess in theory.curve if excess > 0]
    x = _x(table.d, text.d)
    inside = [excess for d, excess in curve if table.d.min() / 1.3 <= d <= table.d.max() * 1.3]
    y = _y("excess", f"{text.loss} over the floor {floor:.5g}", [*(above.loss - floor), *inside])
    layers, names = [], {}
    if fit is not None:
        layers += _law(fit, x, y, floor)
        if fit.law.axes == ("d",):  # a law of both has a line a size, in the sizes' colours
            names[_slope_name(fit)] = (FIT, [1, 0])
    if theory is not None:
        names |= {f"theory's slope, D^-{theory.exponent:.3f}": (THEORY, [6, 4])}
        layers.append(_theory_slope(theory, above, floor, x, y))
    if curve:
        names["exact reference"] = (THEORY, [1, 0])
        layers.append(_line([{"d": d, "excess": excess} for d, excess in curve], x, y, THEORY, [1, 0]))
    if names:
        layers.append(_line_legend(names))
    points = _points(above, fit, x, y, above.n, text.n, floor)
    return alt.layer(*layers, points).resolve_scale(strokeDash="independent").properties(title="Excess over the floor")


def loss_against_size(table: RunTable) -> alt.LayerChart:
    """Loss over N, coloured by D: flat where the data are the bottleneck."""
    text = labels(table)
    x = _axis("n", text.n, table.n, alt.X, ".3~s")
    y = _y("loss", text.loss, table.loss)
    return alt.layer(_points(table, None, x, y, table.d, text.d)).properties(title="Loss against size")


def residuals(fit: Fit) -> alt.LayerChart:
    """Residual of log loss over D: no trend and no fan, if the law holds."""
    text = labels(fit.table)
    reach = 1.15 * max(float(np.abs(fit.residual()).max()), 1e-9)
    y = alt.Y(
        "residual:Q",
        title="log loss − log law (nats)",
        scale=alt.Scale(domain=[-reach, reach], nice=False),
        axis=alt.Axis(format="~g", tickCount=7),
    )
    x = _x(fit.table.d, text.d)
    zero = alt.Chart(_data([{"residual": 0}])).mark_rule(color=REFERENCE, strokeDash=[4, 3]).encode(y=y)
    return alt.layer(zero, _points(fit.table, fit, x, y, fit.table.n, text.n)).properties(title="Residuals")


def _points(
    table: RunTable,
    fit: Fit | None,
    x: alt.X,
    y: alt.Y,
    colour: np.ndarray | None,
    colour_title: str,
    floor: float = 0.0,
) -> alt.Chart:
    held = {run.run for run in fit.heldout} if fit is not None else set()
    residual = dict(zip(fit.table.row_id, fit.residual(), strict=True)) if fit is not None else {}
    shown = [name for name in TOOLTIP_COLUMNS if name in table.frame.columns]
    rows = []
    for i, config in enumerate(table.frame.select(shown).to_dicts() if shown else [{}] * len(table)):
        row = {"run": table.row_id[i], "d": table.d[i], "loss": table.loss[i], "excess": table.loss[i] - floor}
        row |= {} if table.n is None else {"n": table.n[i]}
        row |= {} if colour is None else {"colour": colour[i]}
        row |= {"residual": residual[table.row_id[i]]} if table.row_id[i] in residual else {}
        rows.append(row | config | {"role": HELD_OUT if table.row_id[i] in held else FITTED})
    numbers = [name for name in ("n", "d", "loss") if name in rows[0]]
    tooltip = ["run:N", *(alt.Tooltip(f"{name}:Q", format=",.6~g") for name in numbers), *(f"{s}:N" for s in shown)]
    encoding = {"x": x, "y": y, "tooltip": tooltip}
    if colour is not None:
        encoding["color"] = _colour(colour, colour_title)
    if held:
        scale = alt.Scale(domain=[FITTED, HELD_OUT], range=["circle", "triangle-up"])
        encoding["shape"] = alt.Shape("role:N", title=None, scale=scale, legend=alt.Legend(symbolSize=POINT_SIZE))
    mark = alt.Chart(_data(rows)).mark_point(filled=True, size=POINT_SIZE, opacity=0.9, stroke="white", strokeWidth=0.6)
    return mark.encode(**encoding) if colour is not None else mark.encode(**encoding, color=alt.value(INK))


def _law(fit: Fit, x: alt.X, y: alt.Y, floor: float) -> list[alt.Chart]:
    """The law over D less `floor`, one line for each N of a law of both, with a band unless `floor` is fitted too."""
    d = np.geomspace(fit.table.d.min() / 1.25, fit.table.d.max() * 1.25, 80)
    field = y["shorthand"].removesuffix(":Q")
    by_size = "n" in fit.law.axes
    sizes = _spread(np.unique(fit.table.n)) if by_size else [None]
    rows = []
    for n in sizes:
        value, low, high = (v - floor for v in fit.predict(n=n, d=d))
        rows += [
            {"d": d[i], field: value[i], "low": low[i], "high": high[i]} | ({"colour": n} if by_size else {})
            for i in range(len(d))
            if value[i] > 0
        ]
    colour = {"color": _colour(fit.table.n, labels(fit.table).n)} if by_size else {"color": alt.value(FIT)}
    detail = {"detail": "colour:Q"} if by_size else {}
    line = alt.Chart(_data(rows)).mark_line(strokeWidth=1.8, clip=True).encode(x=x, y=y, **colour, **detail)
    banded = [row for row in rows if row["low"] > 0]  # also drops NaN: no bootstrap, no band
    if not banded or (floor > 0 and fit.known_floor is None):
        return [line]
    low_end = y.copy()
    low_end["shorthand"] = "low:Q"
    band = alt.Chart(_data(banded)).mark_area(opacity=0.10 if by_size else 0.16, clip=True)
    return [band.encode(x=x, y=low_end, y2=alt.Y2("high:Q"), **colour, **detail), line]


def _theory_slope(theory: Theory, above: RunTable, floor: float, x: alt.X, y: alt.Y) -> alt.Chart:
    """A guide of the theory's slope through the data's centre; its height is no prediction."""
    d = np.array([above.d.min() / 1.25, above.d.max() * 1.25])
    height = np.log(above.loss - floor).mean() - theory.exponent * (np.log(d) - np.log(above.d).mean())
    return _line([{"d": a, "excess": b} for a, b in zip(d, np.exp(height), strict=True)], x, y, THEORY, [6, 4])


def _slope_name(fit: Fit) -> str:
    interval = fit.interval95.get("beta")
    if fit.params.get("beta") is None:
        return "fit, beta open"
    spread = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"fit, D^-{fit.params['beta']:.3f}{spread}"


def _line(rows: list[dict], x: alt.X, y: alt.Y, colour: str, dash: list[int]) -> alt.Chart:
    mark = alt.Chart(_data(rows)).mark_line(strokeWidth=1.8, color=colour, strokeDash=dash, clip=True)
    return mark.encode(x=x, y=y)


def _line_legend(names: dict[str, tuple[str, list[int]]]) -> alt.Chart:
    """A legend for lines that are drawn in fixed colours: an invisible layer that owns the legend."""
    scale = alt.Scale(domain=list(names), range=[dash for _, dash in names.values()])
    colours = {
        "expr": " : ".join(f"datum.label == {json.dumps(name)} ? '{c}'" for name, (c, _) in names.items())
        + f" : '{INK}'"
    }
    legend = alt.Legend(title=None, symbolType="stroke", symbolSize=400, symbolStrokeWidth=2, symbolStrokeColor=colours)
    rows = [{"line": name} for name in names]
    return (
        alt.Chart(_data(rows))
        .mark_rule(opacity=0)
        .encode(strokeDash=alt.StrokeDash("line:N", scale=scale, legend=legend))
    )


def _rule(value: float, name: str, d: np.ndarray, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    data = _data([{"loss": value, "d": float(d.min()), "text": f"{name} {value:.5g}"}])
    rule = alt.Chart(data).mark_rule(color=REFERENCE, strokeDash=[5, 4], strokeWidth=1.3).encode(y=y)
    text = alt.Chart(data).mark_text(align="left", baseline="bottom", dx=-4, dy=-3, fontSize=12, color=REFERENCE)
    return [rule, text.encode(x=x, y=y, text="text:N")]


def _colour(values: np.ndarray, title: str) -> alt.Color:
    distinct = np.unique(values)
    if len(distinct) <= DISCRETE_COLOURS:
        scale = alt.Scale(domain=distinct.tolist(), range=_viridis(len(distinct)))
        legend = alt.Legend(symbolSize=POINT_SIZE, symbolType="circle", symbolOpacity=1, format=".3~s")
        return alt.Color("colour:O", title=title, scale=scale, legend=legend)
    low, high = float(distinct[0]), float(distinct[-1])
    scale = alt.Scale(type="log", scheme="viridis", domain=[low, high])
    # beside lines and shapes Vega-Lite turns a gradient into symbols, one for each tick: so few are named
    legend = alt.Legend(format=".3~s", gradientLength=180, symbolSize=POINT_SIZE, values=_ticks(low, high))
    return alt.Color("colour:Q", title=title, scale=scale, legend=legend)


def _viridis(count: int) -> list[str]:
    """`count` well-told-apart colours of viridis, without its pale end."""
    anchors = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#d8c020"]
    return [anchors[round(i)] for i in np.linspace(0, len(anchors) - 1, count)] if count > 1 else [anchors[2]]


def _spread(values: np.ndarray) -> Iterable[float]:
    """At most six of the values, evenly."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), 6)).round().astype(int))].tolist()


def _x(values: np.ndarray, title: str) -> alt.X:
    return _axis("d", title, values, alt.X, ".3~s")


def _y(field: str, title: str, values: Iterable[float]) -> alt.Y:
    return _axis(field, title, np.asarray(list(values), float), alt.Y, "~g")


def _axis(field: str, title: str, values: np.ndarray, channel: type, number_format: str) -> alt.X | alt.Y:
    """A log axis that fits its data, with ticks at a grid's own values, or round ones however little the data span."""
    low, high = float(values.min()), float(values.max())
    margin = max((high / low) ** 0.06, 1.004)
    low, high = low / margin, high * margin
    distinct = np.unique(values)
    on_grid = channel is alt.X and len(distinct) <= DISCRETE_COLOURS
    return channel(
        f"{field}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=distinct.tolist() if on_grid else _ticks(low, high), format=number_format, labelOverlap=True
        ),
    )


def _ticks(low: float, high: float) -> list[float]:
    if high / low > 8:
        digits = (1, 2, 5) if high / low < 300 else (1, 3) if high / low < 3e4 else (1,)
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        return [float(f"{m}e{k}") for k in decades for m in digits if low <= float(f"{m}e{k}") <= high]
    rough = (high - low) / 7
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
    return [float(f"{step * i:.12g}") for i in range(int(np.ceil(low / step)), int(high / step) + 1)]


def _data(rows: list[dict]) -> alt.Data:
    plain = [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
    return alt.Data(values=[{k: None if v != v else v for k, v in row.items()} for row in plain])


def _themed(chart: alt.LayerChart) -> alt.LayerChart:
    font = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
    return (
        chart.properties(width=WIDTH, height=HEIGHT, background="white", padding=12)
        .configure(font=font)
        .configure_title(fontSize=16, anchor="start", offset=14, color=INK, fontWeight=600)
        .configure_axis(
            labelFontSize=12,
            titleFontSize=13,
            titleFontWeight=500,
            titlePadding=10,
            gridColor="#e8eaed",
            domainColor="#9aa1a9",
            tickColor="#9aa1a9",
            labelColor=INK,
            titleColor=INK,
        )
        .configure_legend(
            labelFontSize=12, titleFontSize=12, titleFontWeight=500, labelLimit=320, titleLimit=320, offset=18
        )
        .configure_view(stroke=None)
    )
