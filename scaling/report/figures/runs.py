"""Figures of the runs and the law through them: loss over D and N, excess over the floor, a metric over the loss."""

from __future__ import annotations

import altair as alt
import numpy as np

from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, THEORY
from scaling.table.run_table import RunTable


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
    text, rules = parts.labels(table, fit and fit.law), []
    loss = parts.response(table, fit and fit.law)
    if fit is not None and fit.floor > 0 and "E" not in fit.open_intervals:
        rules.append((fit.floor, "known floor" if fit.known_floor is not None else "fitted floor"))
    elif table.known_floor is not None:
        rules.append((table.known_floor, "known floor"))
    if table.columns.baseline is not None:
        rules.append((float(table.frame[table.columns.baseline].cast(float).median()), "popularity baseline"))
    x = parts.log_x("d", text.d, table.d)
    y = parts.log_y(text.response, [*loss, *(value for value, _ in rules)])
    layers = [] if fit is None else parts.law_over_data(fit, x, y, 0.0)
    layers += [layer for value, name in rules for layer in parts.rule(value, name, table.d, x, y)]
    colour = None if table.n is None else (table.n, text.n)
    return parts.single(*layers, parts.points(table, fit, x, y, {}, colour), title="Loss against data")


def excess_against_data(table: RunTable, fit: Fit | None, theory: Theory | None, floor: float) -> alt.LayerChart:
    """Loss over the floor in log-log, where a power law is a straight line; the theory's curve and exponent with it."""
    text = parts.labels(table)
    above = table.take(table.loss > floor)
    curve = [] if theory is None else [(d, excess) for d, excess in theory.curve if excess > 0]
    x = parts.log_x("d", text.d, table.d)
    inside = [excess for d, excess in curve if table.d.min() / 1.3 <= d <= table.d.max() * 1.3]
    y = parts.log_y(f"{text.response} over the floor {floor:.5g}", [*(above.loss - floor), *inside])
    layers, names = [], {}
    if fit is not None:
        layers += parts.law_over_data(fit, x, y, floor)
        if fit.law.axes == ("d",) and "beta" in fit.params:  # a law of both has a line a size, in the sizes' colours
            names[_slope_name(fit)] = (FIT, [1, 0])
    if theory is not None:
        names |= {f"theory's slope, D^-{theory.exponent:.3f}": (THEORY, [6, 4])}
        layers.append(_theory_slope(theory, above, floor, x, y))
    if curve:
        names["exact reference"] = (THEORY, [1, 0])
        layers.append(parts.line([{"d": d, "response": excess} for d, excess in curve], x, y, THEORY))
    if names:
        layers.append(parts.line_legend(names))
    colour = None if above.n is None else (above.n, text.n)
    runs = parts.points(above, fit, x, y, {"loss": above.loss, "response": above.loss - floor}, colour)
    return parts.single(*layers, runs, title="Excess over the floor").resolve_scale(strokeDash="independent")


def loss_against_size(table: RunTable) -> alt.LayerChart:
    """Loss over N, coloured by D: flat where the data are the bottleneck."""
    text = parts.labels(table)
    x = parts.log_x("n", text.n, table.n)
    y = parts.log_y(text.response, parts.response(table))
    colour = None if table.d is None else (table.d, text.d)
    return parts.single(parts.points(table, None, x, y, {}, colour), title="Loss against size")


def metric_against_loss(table: RunTable, fit: Fit | None) -> alt.LayerChart:
    """The metric over the upstream loss, with the band of a `fit` of one over the other."""
    low, high = float(table.loss.min()), float(table.loss.max())
    margin = 0.05 * (high - low)
    at = np.linspace(low - margin, high + margin, parts.LINE_POINTS)
    rows, seen = [], [*table.metric]
    if fit is not None:
        value, lower, upper = fit.band({"l": at})
        rows = [{"l": at[i], "response": value[i], "low": lower[i], "high": upper[i]} for i in range(len(at))]
        seen += [*value]
    reach = 0.06 * (max(seen) - min(seen))
    metric = (table.columns.metric or "").replace("_", " ")
    x = parts.even_axis(alt.X, "l", parts.labels(table).l, at[0], at[-1])
    y = parts.even_axis(alt.Y, "response", metric, max(0.0, min(seen) - reach), min(1.0, max(seen) + reach))
    layers = parts.line_with_band(rows, x, y, {"color": alt.value(FIT)}) if rows else []
    colour = None if table.n is None else (table.n, parts.labels(table).n)
    runs = parts.points(table, fit, x, y, {"l": table.loss, "response": table.metric}, colour)
    return parts.single(*layers, runs, title="Metric against upstream loss")


def _theory_slope(theory: Theory, above: RunTable, floor: float, x: alt.X, y: alt.Y) -> alt.Chart:
    """A guide of the theory's slope through the data's centre; its height is no prediction."""
    d = np.array([above.d.min() / 1.25, above.d.max() * 1.25])
    height = np.log(above.loss - floor).mean() - theory.exponent * (np.log(d) - np.log(above.d).mean())
    rows = [{"d": a, "response": b} for a, b in zip(d, np.exp(height), strict=True)]
    return parts.line(rows, x, y, THEORY, [6, 4])


def _slope_name(fit: Fit) -> str:
    interval = fit.interval95.get("beta")
    if fit.params.get("beta") is None:
        return "fit, beta open"
    spread = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"fit, D^-{fit.params['beta']:.3f}{spread}"
