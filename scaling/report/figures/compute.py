"""Figures of compute: the compute-optimal path N*(C), D*(C), and the minima of IsoFLOP groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, INK, REFERENCE
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Band, Frontier
    from scaling.compute.isoflop import BestN, Budget, IsoFlop
    from scaling.fitting.fit import Fit

SHAPES = {"surface": "diamond", "parabola": "triangle-down", "local": "square"}
SIZES = {"surface": 55, "parabola": 110, "local": 190}
"""The smaller marks lie upon the larger ones."""
CURVE_POINTS = 40
WITHIN, BEYOND = "within the data", "extrapolation"


def frontier(table: RunTable, path: Frontier) -> alt.HConcatChart:
    """N* and D* over C with 95 % bands: dashed beyond the runs' compute, which is shaded; dots are the runs."""
    flops = path.flops_per_nd * table.n * table.d
    text = parts.labels(table)
    panels = [
        _optimum(table, path, band, flops, values, f"best {title}")
        for band, values, title in ((path.n, table.n, text.n), (path.d, table.d, text.d))
    ]
    return alt.hconcat(*panels, spacing=40).properties(title="Compute-optimal path")


def isoflop(table: RunTable, of: IsoFlop, fit: Fit | None) -> alt.LayerChart:
    """Loss over N, one colour a budget: the runs, the law, the parabola, and the minima; refused ones are hollow.

    Of many budgets the ones with the most sizes are shown.
    """
    text = parts.labels(table, fit and fit.law)
    loss = parts.response(table, fit and fit.law)
    by_sizes = sorted(range(len(of.budgets)), key=lambda i: -len(of.budgets[i].curve.n_G))
    budgets = [of.budgets[i] for i in sorted(by_sizes[: parts.DISCRETE_COLOURS])]
    flops_R = np.full(len(table), np.nan)
    for budget in budgets:
        flops_R[budget.row_R] = budget.flops
    shown = np.isfinite(flops_R)
    minima = [_mark(budget, budget.minima[method]) for method in reversed(SIZES) for budget in budgets]
    x = parts.log_x("n", text.n, np.concatenate([table.n[shown], [mark["n"] for mark in minima]]))
    y = parts.log_y(text.response, np.concatenate([loss[shown], [mark["response"] for mark in minima]]))
    colours = (flops_R[shown], "C: training FLOPs")
    colour = parts.colour_of(*colours, ".2~e")
    layers = []
    for name, dash in (("parabola", [3, 3]), ("law", [1, 0])):
        drawn = [row for budget in budgets for row in _curve(budget, name, of.flops_per_nd, fit)]
        if drawn:
            line = alt.Chart(parts.data(drawn)).mark_line(strokeWidth=1.3, strokeDash=dash, clip=True)
            layers.append(line.encode(x=x, y=y, color=colour, detail="colour:Q"))
    layers.append(parts.points(table.take(shown), None, x, y, {"response": loss[shown]}, colours, ".2~e"))
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
            edge = {} if is_refused else {"stroke": INK}
            chart = alt.Chart(parts.data(marks)).mark_point(
                filled=not is_refused, opacity=1, strokeWidth=1.2, clip=True, **edge
            )
            yield chart.encode(x=x, y=y, shape=shape, size=size, color=colour, tooltip=tooltip)


def _mark(budget: Budget, minimum: BestN) -> dict[str, Any]:
    """Where a minimum is drawn; a refused one at the budget's lowest run."""
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
        if fit is None or "u" in fit.law.axes:
            return []
        loss = fit.loss_at({"n": n, "d": budget.flops / flops_per_nd / n})[0]
    else:
        parabola = budget.vertices["parabola"]
        if parabola.coefficient_K is None:
            return []
        loss = parabola.loss_at(n)
    return [{"colour": budget.flops, "n": a, "response": b} for a, b in zip(n, loss, strict=True) if b > 0]


def _optimum(
    table: RunTable, path: Frontier, band: Band, flops: np.ndarray, values: np.ndarray, title: str
) -> alt.LayerChart:
    everything = np.concatenate([band.value_B, band.low_B, band.high_B, values])
    everything = everything[np.isfinite(everything)]
    x = parts.log_x("c", "C: training FLOPs", np.concatenate([path.budgets_B, flops]), "~e")
    y = parts.log_y(title, _trimmed(everything, band, values), number_format=".2~s")
    low, high = float(flops.min()), float(flops.max())
    shade = alt.Chart(parts.data([{"c": low, "to": high}])).mark_rect(color=REFERENCE, opacity=0.09)
    rows = [
        {"c": c, "response": v, "low": lower, "high": upper}
        for c, v, lower, upper in zip(path.budgets_B, band.value_B, band.low_B, band.high_B, strict=True)
    ]
    colour = {"color": alt.value(FIT)}
    layers = [shade.encode(x=x, x2=alt.X2("to:Q"))]
    whole = [row for row in rows if np.isfinite([row["low"], row["high"], row["response"]]).all()]
    if whole:
        layers.append(parts.line_with_band(whole, x, y, colour)[0])
    slack = 1 + 1e-9
    inside = [row for row in rows if low / slack <= row["c"] <= high * slack]
    below, above = ([r for r in rows if r["c"] < low / slack], [r for r in rows if r["c"] > high * slack])
    # the dashed parts begin where the solid one ends
    below, above = below + inside[:1], inside[-1:] + above
    layers += [parts.line(part, x, y, FIT, [5, 4]) for part in (below, above) if len(part) > 1]
    if inside:
        layers.append(parts.line(inside, x, y, FIT))
    layers.append(parts.line_legend({WITHIN: (FIT, [1, 0]), BEYOND: (FIT, [5, 4])}))
    runs = [{"run": table.row_id[i], "c": flops[i], "response": values[i]} for i in range(len(table))]
    dots = alt.Chart(parts.data(runs)).mark_circle(size=22, opacity=0.5, color=REFERENCE, clip=True)
    number = {"format": ",.4~g"}
    tooltip = ["run:N", alt.Tooltip("c:Q", **number), alt.Tooltip("response:Q", title=title, **number)]
    return parts.panel(*layers, dots.encode(x=x, y=y, tooltip=tooltip))


def _trimmed(everything: np.ndarray, band: Band, values: np.ndarray) -> np.ndarray:
    """Without ends of a band that are more than a factor of 100 off all else: they would flatten the rest."""
    core = np.concatenate([band.value_B[np.isfinite(band.value_B)], values])
    return everything[(everything >= core.min() / 100) & (everything <= core.max() * 100)]
