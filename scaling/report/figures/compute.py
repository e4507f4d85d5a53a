"""Figures of compute: the compute-optimal path N*(C), D*(C), and the minima of IsoFLOP groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, INK, REFERENCE, Colour, Layers, Stroke, Subject
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Band, Frontier
    from scaling.compute.isoflop import BestN, Budget, IsoFlop
    from scaling.fitting.result import Fit

SHAPES = {"surface": "diamond", "parabola": "triangle-down", "local": "square"}
SIZES = {"surface": 55, "parabola": 110, "local": 190}
"""Smaller marks are drawn on top of larger ones."""
CURVE_POINTS = 40
BEYOND = "beyond the runs"


def frontier(table: RunTable, path: Frontier) -> alt.ConcatChart:
    """Draws N* and D* over C with 95 % bands, dashed beyond the runs' compute, which is shaded. Dots are the runs."""
    n, d = table.need("n"), table.need("d")
    flops, text = path.flops_per_nd * n * d, parts.labels(table)
    best_n = _optimum(path, path.n, runs=_runs(table, flops, n), title=f"best {text.n}")
    best_d = _optimum(path, path.d, runs=_runs(table, flops, d), title=f"best {text.d}")
    return alt.concat(best_n, best_d, columns=2, spacing=40).properties(title="Compute-optimal path")


def _runs(table: RunTable, flops: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    return [{"run": table.row_id[i], "c": flops[i], "response": values[i]} for i in range(len(table))]


def isoflop(subject: Subject, of: IsoFlop) -> Layers:
    """Draws loss over N, one colour a budget: the runs, the law, the parabola and the minima. Refused ones are hollow.

    If there are many budgets, those with the most sizes are shown.
    """
    table, fit = subject.table, subject.fit
    n_R = table.need("n")
    text = parts.labels(table, fit and fit.law)
    loss = parts.response(table, fit and fit.law)
    by_sizes = sorted(range(len(of.budgets)), key=lambda i: -len(of.budgets[i].curve.n_G))
    budgets = [of.budgets[i] for i in sorted(by_sizes[: parts.DISCRETE_COLOURS])]
    flops_R = np.full(len(table), np.nan)
    for budget in budgets:
        flops_R[budget.row_R] = budget.flops
    shown = np.isfinite(flops_R)
    minima = [_mark(budget, budget.minima[method]) for method in reversed(SIZES) for budget in budgets]
    x = parts.log_x("n", text.n, np.concatenate([n_R[shown], [mark["n"] for mark in minima]]))
    y = parts.log_y(text.response, np.concatenate([loss[shown], [mark["response"] for mark in minima]]))
    colours = Colour(flops_R[shown], "training compute C (FLOPs)", parts.FLOPS)
    colour = parts.colour_of(colours)
    layers = []
    for name, dash in (("parabola", [3, 3]), ("law", [1, 0])):
        drawn = [row for budget in budgets for row in _curve(budget, name, of.flops_per_nd, fit)]
        if drawn:
            line = alt.Chart(parts.data(drawn)).mark_line(strokeWidth=1.3, strokeDash=dash, clip=True)
            layers.append(line.encode(x=x, y=y, color=colour, detail="colour:Q"))
    runs = Subject(table.take(shown), None, subject.tooltip)
    layers.append(parts.points(runs, x, y, fields={"response": loss[shown]}, colour=colours))
    title = "Runs of equal compute"
    if len(budgets) < len(of.budgets):
        title += f" (the {len(budgets)} of {len(of.budgets)} budgets with the most sizes)"
    return parts.single(*layers, *_minima(minima, x, y, colour), title=title)


def _minima(minima: list[dict[str, Any]], x: alt.X, y: alt.Y, colour: alt.Color) -> Iterable[alt.Chart]:
    scale = alt.Scale(domain=list(SHAPES), range=list(SHAPES.values()))
    legend = alt.Legend(symbolFillColor="#c3c9cf", symbolStrokeColor=INK)
    shape = alt.Shape("method:N", title="best N by", scale=scale, legend=legend)
    size = alt.Size("method:N", title="best N by", scale=alt.Scale(domain=list(SIZES), range=list(SIZES.values())))
    tooltip = ["method:N", alt.Tooltip("n:Q", format=",.4~g"), alt.Tooltip("response:Q", format=".6~g"), "refused:N"]
    for is_refused in (False, True):
        marks = [mark for mark in minima if (mark["refused"] is not None) == is_refused]
        if marks:
            edge: dict[str, Any] = {} if is_refused else {"stroke": INK}
            chart = alt.Chart(parts.data(marks)).mark_point(
                filled=not is_refused, opacity=1, strokeWidth=1.2, clip=True, **edge
            )
            yield chart.encode(x=x, y=y, shape=shape, size=size, color=colour, tooltip=tooltip)


def _mark(budget: Budget, minimum: BestN) -> dict[str, Any]:
    """Returns the place of a minimum's mark; a refused one is drawn at the budget's lowest run."""
    lowest = int(np.argmin(budget.curve.loss_G))
    n, loss = (minimum.n, minimum.loss)
    if minimum.refused is not None:
        n, loss = budget.curve.n_G[lowest], budget.curve.loss_G[lowest]
    return {
        "colour": budget.flops, "method": minimum.method, "n": n, "response": loss, "refused": minimum.refused
    }  # fmt: skip


def _curve(budget: Budget, name: str, flops_per_nd: float, fit: Fit | None) -> list[dict[str, float]]:
    n = np.geomspace(budget.curve.n_G[0] / 1.1, budget.curve.n_G[-1] * 1.1, CURVE_POINTS)
    if name == "law":
        if fit is None or {"u", "s"} & set(fit.law.axes):
            return []
        loss = fit.loss_at({"n": n, "d": budget.flops / flops_per_nd / n})[0]
    else:
        parabola = budget.vertices["parabola"]
        if parabola.coefficient_K is None:
            return []
        loss = parabola.loss_at(n)
    return [{"colour": budget.flops, "n": a, "response": b} for a, b in zip(n, loss, strict=True) if b > 0]


def _optimum(path: Frontier, band: Band, *, runs: list[dict[str, Any]], title: str) -> Layers:
    flops, values = (np.array([run[field] for run in runs]) for field in ("c", "response"))
    everything = np.concatenate([band.value_B, band.low_B, band.high_B, values])
    everything = everything[np.isfinite(everything)]
    x = parts.log_x("c", "training compute C (FLOPs)", np.concatenate([path.budgets_B, flops]), parts.FLOPS)
    y = parts.log_y(title, _trimmed(everything, band, values), label=parts.COUNT)
    low, high = float(flops.min()), float(flops.max())
    shade = alt.Chart(parts.data([{"c": low, "to": high}])).mark_rect(color=REFERENCE, opacity=0.09)
    rows = [
        {"c": c, "response": v, "low": lower, "high": upper}
        for c, v, lower, upper in zip(path.budgets_B, band.value_B, band.low_B, band.high_B, strict=True)
    ]
    layers = [shade.encode(x=x, x2=alt.X2("to:Q"))]
    whole = [row for row in rows if np.isfinite([row["low"], row["high"], row["response"]]).all()]
    if whole:
        layers.append(parts.line_with_band(whole, x, y, {"color": alt.value(FIT)})[0])
    solid, dashed = Stroke(FIT), Stroke(FIT, (5, 4))
    slack = 1 + 1e-9
    inside = [row for row in rows if low / slack <= row["c"] <= high * slack]
    below, above = ([r for r in rows if r["c"] < low / slack], [r for r in rows if r["c"] > high * slack])
    # the dashed parts begin where the solid one ends
    below, above = below + inside[:1], inside[-1:] + above
    layers += [parts.line(part, x, y, dashed) for part in (below, above) if len(part) > 1]
    if inside:
        layers.append(parts.line(inside, x, y, solid))
    if inside and len(above) > 1:
        at = alt.Chart(parts.data([{"c": high, "text": f"{BEYOND} \u2192"}]))
        look = at.mark_text(align="left", baseline="bottom", dx=5, fontSize=12, fontWeight=600, color=REFERENCE)
        layers.append(look.encode(x=x, y=alt.value(14), text="text:N"))
    dots = alt.Chart(parts.data(runs)).mark_circle(size=22, opacity=0.5, color=REFERENCE, clip=True)
    tooltip = ["run:N", alt.Tooltip("c:Q", format=",.4~g"), alt.Tooltip("response:Q", title=title, format=",.4~g")]
    return parts.panel(*layers, dots.encode(x=x, y=y, tooltip=tooltip))


def _trimmed(everything: np.ndarray, band: Band, values: np.ndarray) -> np.ndarray:
    """Drops ends of a band that are more than a factor of 100 off all else, because they would flatten it."""
    core = np.concatenate([band.value_B[np.isfinite(band.value_B)], values])
    return everything[(everything >= core.min() / 100) & (everything <= core.max() * 100)]
