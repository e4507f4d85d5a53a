"""Figures that show how far to trust a fit: profiles, the bootstrap's cloud, the held-out error of every form."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from scaling.fitting.forms import Forms
from scaling.fitting.profile import LikelihoodProfile
from scaling.fitting.result import Fit
from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, INK, REFERENCE, Layers, Stroke

THRESHOLD95 = 1.92
"""The rise of half chi-square at the ends of a 95 % interval of one parameter: 3.84 / 2."""
RISE_SHOWN = 5.0
PROFILE_COLUMNS = 3
DRAWS_SHOWN = 1000
CLOUD_SHARE = 0.99
"""The share of the draws, in each parameter, that a panel shows. The rest may be outside."""
PAIRS = (("alpha", "beta"), ("E", "beta"), ("E", "alpha"))


def profile(fit: Fit) -> alt.ConcatChart:
    """Draws the rise of the objective as each parameter is held fixed. The interval is where it stays below 1.92."""
    panels = [
        _profile_of(name, profile, is_first=i % PROFILE_COLUMNS == 0)
        for i, (name, profile) in enumerate(fit.profile.items())
    ]
    return alt.concat(*panels, columns=PROFILE_COLUMNS, spacing=28).properties(title="Profiles")


def _profile_of(name: str, of: LikelihoodProfile, is_first: bool) -> Layers:
    value, rise = of.value_G, of.rise_G
    inside = rise <= RISE_SHOWN
    first, last = (np.flatnonzero(inside)[i] for i in (0, -1)) if inside.any() else (0, len(value) - 1)
    low, high = float(value[max(first - 1, 0)]), float(value[min(last + 1, len(value) - 1)])
    if low > 0 and high / low > 30:
        x = parts.log_x("value", "", np.array([low, high]))
        x["axis"]["values"] = parts.ticks(low, high)[:: max(1, len(parts.ticks(low, high)) // 4)]
    else:
        x = parts.even_x("value", "", low, high, tickCount=3)
    y = parts.even_y("rise", "rise (half chi-square)" if is_first else "", 0, RISE_SHOWN, tickCount=5)
    rows = [{"value": v, "rise": r} for v, r in zip(value, rise, strict=True)]
    threshold = alt.Chart(parts.data([{"rise": THRESHOLD95}])).mark_rule(color=REFERENCE, strokeDash=[4, 3])
    layers = [parts.line(rows, x, y, Stroke(FIT)), threshold.encode(y=y)]
    ends = [{"value": end} for end in of.interval95 if end is not None]
    if ends:
        layers.append(alt.Chart(parts.data(ends)).mark_rule(color=INK, strokeWidth=1).encode(x=x))
    look: dict[str, Any] = {"dy": -9, "color": FIT, "fontSize": 12, "fontWeight": 600}
    if of.interval95[0] is None:
        at = alt.Chart(parts.data([{"value": low, "rise": THRESHOLD95}]))
        layers.append(at.mark_text(align="left", dx=4, text="\u2190 open", **look).encode(x=x, y=y))
    if of.interval95[1] is None:
        at = alt.Chart(parts.data([{"value": high, "rise": THRESHOLD95}]))
        layers.append(at.mark_text(align="right", dx=-4, text="open \u2192", **look).encode(x=x, y=y))
    return parts.panel(*layers, width=185, height=150, title=alt.TitleParams(name, fontSize=13, offset=6))


def cloud_pairs(fit: Fit) -> list[tuple[str, str]]:
    """Returns the pairs of parameters whose draws can be drawn: fitted ones whose draws differ."""
    draws = fit.natural(fit.cloud_SP)
    free = set(fit.law.free_params(fit.known_floor))
    shown = {name for name in free & set(draws) if len(fit.cloud_SP) > 1 and np.ptp(draws[name]) > 0}
    return [pair for pair in PAIRS if set(pair) <= shown][:2]


def cloud(fit: Fit) -> alt.ConcatChart:
    """Draws the bootstrap's draws of two parameters against each other, and the point. A ridge is a trade-off."""
    panels = [_cloud_of(fit, first, second) for first, second in cloud_pairs(fit)]
    stride = -(-len(fit.cloud_SP) // DRAWS_SHOWN)
    title = f"Bootstrap draws ({len(fit.cloud_SP):,}{f', every {_ordinal(stride)} shown' if stride > 1 else ''})"
    return alt.concat(*panels, columns=2, spacing=40).properties(title=title)


def _cloud_of(fit: Fit, first: str, second: str) -> Layers:
    draws, point = fit.natural(fit.cloud_SP), fit.natural(fit.theta_P[None])
    stride = -(-len(fit.cloud_SP) // DRAWS_SHOWN)

    def limits(name: str) -> tuple[float, float]:
        ends = np.quantile(draws[name], [(1 - CLOUD_SHARE) / 2, (1 + CLOUD_SHARE) / 2])
        low, high = min(ends[0], point[name][0]), max(ends[1], point[name][0])
        margin = 0.08 * (high - low) or 1e-12
        return low - margin, high + margin

    (left, right), (bottom, top) = limits(first), limits(second)
    x = parts.even_x("x", first, left, right, tickCount=5)
    y = parts.even_y("y", second, bottom, top, tickCount=5)
    rows = [{"x": a, "y": b} for a, b in zip(draws[first][::stride], draws[second][::stride], strict=True)]
    dots = alt.Chart(parts.data(rows)).mark_circle(size=9, opacity=1, color="#9aa4ae", clip=True).encode(x=x, y=y)
    at = alt.Chart(parts.data([{"x": point[first][0], "y": point[second][0]}]))
    cross = at.mark_point(shape="cross", size=130, filled=True, color=FIT, opacity=1).encode(x=x, y=y)
    return parts.panel(dots, cross)


def _ordinal(stride: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(stride, f"{stride}th")


def forms(of: Forms) -> Layers:
    """Draws the held-out error of every form against the share of the runs, the largest ones, that was held out."""
    rows = [
        {
            "form": row.law, "held": row.fraction_held, "error": row.rms_log_error, "mean": row.mean_log_error,
            "worst": row.worst_log_error, "factor": row.extrapolation_factor, "runs": row.runs_held,
        }
        for row in of.rows
        if row.refused is None
    ]  # fmt: skip
    names = list(dict.fromkeys(row["form"] for row in rows))
    held = sorted({row["held"] for row in rows})
    margin = 0.06 * (held[-1] - held[0]) or 0.05
    title, left = "share of the runs held out, the largest first", max(0.0, held[0] - margin)
    x = parts.even_x("held", title, left, held[-1] + margin, format=".0%", values=held)
    y = parts.log_y("rms error of held-out log response", [max(r["error"], 1e-12) for r in rows], "error")
    palette = ["#c2413a", "#2f7fc0", "#2e8b57", "#8a5a00", "#6f4aa1", "#7a8793", "#c2589b", "#5aa1a8"]
    scale = alt.Scale(domain=names, range=[palette[i % len(palette)] for i in range(len(names))])
    colour = alt.Color(
        "form:N", title="form", scale=scale, legend=alt.Legend(symbolType="circle", symbolSize=80, symbolOpacity=1)
    )
    width = alt.condition(alt.datum.form == of.best, alt.value(3.2), alt.value(1.5))
    base = alt.Chart(parts.data(rows))
    tooltip = [
        "form:N", alt.Tooltip("held:Q", title="held out", format=".0%"), alt.Tooltip("runs:Q", title="runs held out"),
        alt.Tooltip("factor:Q", title="extrapolation factor", format=".3g"),
        *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("error", "mean", "worst")),
    ]  # fmt: skip
    lines = base.mark_line().encode(x=x, y=y, color=colour, strokeWidth=width)
    dots = base.mark_circle(size=70, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    return parts.single(lines, dots, title="Held-out error by form")
