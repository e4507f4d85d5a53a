"""Figures of compute: the compute-optimal path N*(C), D*(C), and the minima of IsoFLOP groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from scaling.figures import parts
from scaling.figures.parts import FIT, REFERENCE
from scaling.table import RunTable

if TYPE_CHECKING:
    from scaling.frontier import Band, Frontier

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
    inside = [row for row in rows if low * (1 - 1e-9) <= row["c"] <= high * (1 + 1e-9)]
    below, above = ([r for r in rows if r["c"] <= low], [r for r in rows if r["c"] >= high])
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
