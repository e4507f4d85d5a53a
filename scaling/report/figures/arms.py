"""The figure of several arms: loss against compute with each arm's law and band, and the place where two cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from scaling.arms.compare import ArmFit, ArmsFit
from scaling.arms.multiplier import BEYOND, Versus, log_loss
from scaling.report.figures import parts
from scaling.report.figures.parts import INK, REFERENCE, Layers, Stroke
from scaling.table.run_table import RunTable


def loss_against_cost(found: ArmsFit, others: Sequence[Versus], tables: Mapping[str, RunTable]) -> Layers:
    """Draws the runs of each arm, the lowest loss that its law gives at a cost with its 95 % band, and the crossings.

    The cost is compute, or data where no FLOPs are known. Lines go to BEYOND times the largest cost that all arms
    have runs at. Where the floor is known, the excess over it is drawn.
    """
    floors = {arm.fitted.known_floor for arm in found.arms}
    floor = (floors.pop() or 0.0) if len(floors) == 1 else 0.0
    names = [arm.name for arm in found.arms]
    runs = [row for arm in found.arms for row in _runs(arm, tables[arm.name], floor)]
    reach = BEYOND * min(arm.largest for arm in found.arms)
    curves = {arm.name: _curve(arm, reach, floor) for arm in found.arms}
    costs = np.array([row["c"] for row in runs] + [reach])
    what = "training compute C (FLOPs)" if found.cost == "C" else "training data D"
    x = parts.log_x("c", what, costs, parts.FLOPS if found.cost == "C" else parts.COUNT)
    title = found.response.replace("_", " ") + (f" - {floor:.5g}" if floor else "")
    drawn = [row["response"] for rows in (runs, *curves.values()) for row in rows]
    y = parts.log_y(title, drawn)
    scale = alt.Scale(domain=names, range=parts.ramp(len(names)))
    colour = alt.Color("arm:N", title=found.by, scale=scale, legend=alt.Legend(symbolOpacity=1))
    layers = []
    for rows in filter(None, curves.values()):
        layers += parts.line_with_band(rows, x, y, {"color": colour}, faint=len(curves) > 2)
    dots = alt.Chart(parts.data(runs)).mark_point(filled=True, size=parts.POINT_SIZE, opacity=0.85, clip=True)
    tooltip = ["run:N", "arm:N", alt.Tooltip("c:Q", format=",.4~g"), alt.Tooltip("response:Q", format=".6~g")]
    layers.append(dots.encode(x=x, y=y, color=colour, tooltip=tooltip))
    for place, one in enumerate(others):
        layers += _crossing(found, one, x, y, drawn=drawn, place=place)
    return parts.single(*layers, title=f"Loss against {'compute' if found.cost == 'C' else 'data'}")


def _runs(arm: ArmFit, table: RunTable, floor: float) -> list[dict[str, Any]]:
    d = table.need("d")
    cost = arm.fitted.flops_per_nd * table.need("n") * d if "n" in arm.fitted.law.axes else (arm.flops_per_d or 1.0) * d
    response = table.response(arm.fitted.law) - floor
    return [
        {"run": run, "arm": arm.name, "c": c, "response": value}
        for run, c, value in zip(table.row_id, cost, response, strict=True)
        if value > 0
    ]


def _curve(arm: ArmFit, reach: float, floor: float) -> list[dict[str, Any]]:
    costs = np.geomspace(arm.smallest, max(reach, arm.largest), parts.LINE_POINTS)
    value = np.exp(log_loss(arm, costs, arm.fitted.theta_P[None])[0]) - floor
    low = high = np.full_like(value, np.nan)
    if len(arm.fitted.cloud_SP):
        cloud_SB = np.exp(log_loss(arm, costs, arm.fitted.cloud_SP)) - floor
        low, high = np.nanpercentile(cloud_SB, [2.5, 97.5], axis=0)
    return [
        {"arm": arm.name, "c": costs[i], "response": value[i], "low": low[i], "high": high[i]}
        for i in range(len(costs))
        if np.isfinite(value[i]) and value[i] > 0
    ]


def _crossing(
    found: ArmsFit, one: Versus, x: alt.X, y: alt.Y, *, drawn: Sequence[float], place: int
) -> list[alt.Chart]:
    """Draws a line where an arm crosses the first one, with the probability that they cross within the data of both."""
    at = one.crossing.cost.value
    if at is None:
        return []
    low, high = min(drawn), max(drawn)
    ends = [{"c": at, "response": low}, {"c": at, "response": high}]
    within = one.crossing.within_data
    says = f"{one.arm} and {found.arms[0].name} cross"
    says += "" if within is None else f", within the data with probability {within:.2g}"
    # one line of text for each crossing, from the bottom left, which falling laws leave empty
    row = {"c": at, "response": low * (high / low) ** (0.06 * place), "text": says}
    text = alt.Chart(parts.data([row])).mark_text(align="right", baseline="bottom", dx=-6, fontSize=12, color=INK)
    rule = parts.line(ends, x, y, Stroke(REFERENCE, (4, 3)))
    return [rule, text.encode(x=x, y=y, text="text:N")]
