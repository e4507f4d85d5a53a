"""Figures of the runs and the law through them: loss over D and N, excess over the floor, a metric over the loss."""

from __future__ import annotations

import dataclasses

import altair as alt
import numpy as np

from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, THEORY, Colour, Layers, Stroke, Subject
from scaling.report.numbers import estimate
from scaling.table.run_table import RunTable


def reference_floor(subject: Subject, theory: Theory | None) -> float:
    """Returns the floor that excesses are over: the known one, else the fitted one, else 0."""
    table, fit = subject.table, subject.fit
    if table.known_floor is not None:
        return table.known_floor
    if fit is not None and fit.known_floor is not None:
        return fit.known_floor
    if theory is not None:
        return theory.floor
    return 0.0 if fit is None or "E" in fit.open_intervals else fit.floor


def loss_against_data(subject: Subject) -> Layers:
    """Draws loss over D in log-log, the law with its 95 % band, and dashed lines at the floor and the baseline.

    A floor or a baseline that is so far off that it would flatten the data is named under the title instead.
    """
    table, fit, d = subject.table, subject.fit, subject.table.need("d")
    text, rules = parts.labels(table, fit and fit.law), []
    loss = parts.response(table, fit and fit.law)
    if fit is not None and fit.floor > 0 and "E" not in fit.open_intervals:
        rules.append((fit.floor, "known floor" if fit.known_floor is not None else "fitted floor"))
    elif table.known_floor is not None:
        rules.append((table.known_floor, "known floor"))
    if table.columns.baseline is not None:
        baseline = np.median(table.frame[table.columns.baseline].cast(float).drop_nulls().to_numpy())
        rules.append((float(baseline), "popularity baseline"))
    far = [parts.flattens(value, loss) for value, _ in rules]
    drawn = [rule for rule, is_far in zip(rules, far, strict=True) if not is_far]
    named = [f"Not drawn: the {name}, {value:.4g}" for (value, name), is_far in zip(rules, far, strict=True) if is_far]
    x = parts.log_x("d", text.d, d)
    y = parts.log_y(text.response, [*loss, *(value for value, _ in drawn)])
    layers = [] if fit is None else _law(fit, x, y, 0.0)
    ends, middle = (float(d.min()), float(d.max())), float(np.median(loss))
    for value, name in drawn:
        layers += parts.rule(value, name, ends, is_high=value > middle, x=x, y=y)
    runs = parts.points(subject, x, y, fields={}, colour=parts.colour_by_size(table))
    return parts.single(*layers, runs, title="Loss against data", beyond=named)


def excess_against_data(subject: Subject, theory: Theory | None, floor: float) -> Layers:
    """Draws loss over the floor in log-log, where a power law is a straight line, and the theory's curve and slope."""
    table, fit, d = subject.table, subject.fit, subject.table.need("d")
    text = parts.labels(table)
    above = table.take(table.need("loss") > floor)
    excess = above.need("loss") - floor
    curve = [] if theory is None else [(x, value) for x, value in theory.curve if value > 0]
    x = parts.log_x("d", text.d, d)
    inside = [(at, value) for at, value in curve if d.min() / 1.3 <= at <= d.max() * 1.3]
    y = parts.log_y(f"{text.response} - {floor:.5g}", [*excess, *(value for _, value in inside)])
    layers = [] if fit is None else _law(fit, x, y, floor)
    if theory is not None:
        slope, stroke = _theory_slope(theory, above, excess), Stroke(THEORY, (6, 4))
        layers.append(parts.line(slope, x, y, stroke))
        says = f"theory's slope, exponent {theory.exponent:.3f}"
        layers.append(parts.label(slope, says, x, y, THEORY, at=0.3, above=False))
    if inside:
        rows = [{"d": at, "response": value} for at, value in inside]
        layers.append(parts.line([{"d": at, "response": value} for at, value in curve], x, y, Stroke(THEORY)))
        layers.append(parts.label(rows, "exact reference: the best possible", x, y, THEORY, at=0.8, above=False))
    fields = {"loss": above.need("loss"), "response": excess}
    shown = dataclasses.replace(subject, table=above)
    runs = parts.points(shown, x, y, fields=fields, colour=parts.colour_by_size(above))
    return parts.single(*layers, runs, title="Excess over the floor")


def _law(fit: Fit, x: alt.X, y: alt.Y, floor: float) -> list[alt.Chart]:
    """Draws the law, and names a law of D alone on its line. A law of both has a line a size, in the sizes' colours."""
    layers = parts.law_over_data(fit, x, y, floor)
    if fit.law.axes == ("d",) and "beta" in fit.params:
        d = np.geomspace(fit.table.need("d").min(), fit.table.need("d").max(), parts.LINE_POINTS)
        value, low, _ = (v - floor for v in fit.band({"d": d}))
        rows = [{"d": a, "response": b} for a, b in zip(d, value, strict=True) if b > 0]
        band = ", with its 95 % band" if (low > 0).any() and len(layers) > 1 else ""
        layers.append(parts.label(rows, _slope_name(fit) + band, x, y, FIT, at=0.4))
    return layers


def loss_against_size(subject: Subject) -> Layers:
    """Draws loss over N, coloured by D: flat where the data are the bottleneck."""
    table = subject.table
    text = parts.labels(table)
    x = parts.log_x("n", text.n, table.need("n"))
    y = parts.log_y(text.response, parts.response(table))
    colour = None if table.d is None else Colour(table.d, text.d)
    runs = parts.points(dataclasses.replace(subject, fit=None), x, y, fields={}, colour=colour)
    return parts.single(runs, title="Loss against size")


def metric_against_loss(subject: Subject) -> Layers:
    """Draws the metric over the upstream loss, with the band of a fit of one over the other."""
    table, fit = subject.table, subject.fit
    loss, metric = table.need("loss"), table.need("metric")
    low, high = float(loss.min()), float(loss.max())
    margin = 0.05 * (high - low)
    at = np.linspace(low - margin, high + margin, parts.LINE_POINTS)
    rows, seen = [], [*metric]
    if fit is not None:
        value, lower, upper = fit.band({"l": at})
        rows = [{"l": at[i], "response": value[i], "low": lower[i], "high": upper[i]} for i in range(len(at))]
        seen += [*value]
    reach = 0.06 * (max(seen) - min(seen))
    title = (table.columns.metric or "").replace("_", " ")
    x = parts.even_x("l", parts.labels(table).l, at[0], at[-1])
    y = parts.even_y("response", title, max(0.0, min(seen) - reach), min(1.0, max(seen) + reach))
    layers = parts.line_with_band(rows, x, y, {"color": alt.value(FIT)}) if rows else []
    fields = {"l": loss, "response": metric}
    runs = parts.points(subject, x, y, fields=fields, colour=parts.colour_by_size(table))
    return parts.single(*layers, runs, title="Metric against upstream loss")


def _theory_slope(theory: Theory, above: RunTable, excess: np.ndarray) -> list[dict[str, float]]:
    """Returns a guide of the theory's slope through the data's centre. Its height is no prediction."""
    seen = above.need("d")
    d = np.geomspace(seen.min() / 1.25, seen.max() * 1.25, parts.LINE_POINTS)
    height = np.log(excess).mean() - theory.exponent * (np.log(d) - np.log(seen).mean())
    return [{"d": a, "response": b} for a, b in zip(d, np.exp(height), strict=True)]


def _slope_name(fit: Fit) -> str:
    if fit.params.get("beta") is None:
        return "fit, exponent open"
    return f"fit, exponent {estimate(fit.params['beta'], fit.interval95.get('beta'))}"
