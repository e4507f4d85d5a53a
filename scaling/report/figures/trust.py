"""Figures of how far a fit can be trusted: profiles, the bootstrap's cloud, the held-out error of every form."""

from __future__ import annotations

import altair as alt
import numpy as np

from scaling.fitting.fit import Fit
from scaling.fitting.profile import Profile
from scaling.report.figures import parts
from scaling.report.figures.parts import FIT, INK, REFERENCE

THRESHOLD95 = 1.92
"""Rise of half chi-square at the ends of a 95 % interval of one parameter: 3.84 / 2."""
RISE_SHOWN = 5.0
PROFILE_COLUMNS = 3
DRAWS_SHOWN = 1000
CLOUD_SHARE = 0.99
"""Share of the draws, in each parameter, that sets a panel's extent; the rest may lie outside it."""
PAIRS = (("alpha", "beta"), ("E", "beta"), ("E", "alpha"))


def profile(fit: Fit) -> alt.ConcatChart:
    """For each parameter the rise of the objective as it is held fixed; the interval is where it stays below 1.92."""
    panels = [
        _profile_of(name, profile, is_first=i % PROFILE_COLUMNS == 0)
        for i, (name, profile) in enumerate(fit.profile.items())
    ]
    return alt.concat(*panels, columns=PROFILE_COLUMNS, spacing=28).properties(title="Profiles")


def _profile_of(name: str, of: Profile, is_first: bool) -> alt.LayerChart:
    value, rise = of.value_G, of.rise_G
    inside = rise <= RISE_SHOWN
    first, last = (np.flatnonzero(inside)[i] for i in (0, -1)) if inside.any() else (0, len(value) - 1)
    low, high = value[max(first - 1, 0)], value[min(last + 1, len(value) - 1)]
    if low > 0 and high / low > 30:
        x = parts.log_x("value", "", np.array([low, high]))
        x["axis"]["values"] = parts.ticks(low, high)[:: max(1, len(parts.ticks(low, high)) // 4)]
    else:
        x = parts.even_axis(alt.X, "value", "", low, high, tickCount=3)
    y = parts.even_axis(alt.Y, "rise", "rise (half chi-square)" if is_first else "", 0, RISE_SHOWN, tickCount=5)
    rows = [{"value": v, "rise": r} for v, r in zip(value, rise, strict=True)]
    layers = [parts.line(rows, x, y, FIT)]
    threshold = alt.Chart(parts.data([{"rise": THRESHOLD95}]))
    layers.append(threshold.mark_rule(color=REFERENCE, strokeDash=[4, 3]).encode(y=y))
    ends = [{"value": end} for end in of.interval95 if end is not None]
    if ends:
        layers.append(alt.Chart(parts.data(ends)).mark_rule(color=INK, strokeWidth=1).encode(x=x))
    for side, end in zip(("left", "right"), of.interval95, strict=True):
        if end is None:
            at = {"value": low if side == "left" else high, "rise": THRESHOLD95}
            text = "\u2190 open" if side == "left" else "open \u2192"
            mark = alt.Chart(parts.data([at])).mark_text(
                align=side, dx=4 if side == "left" else -4, dy=-9, color=FIT, fontSize=12, fontWeight=600, text=text
            )
            layers.append(mark.encode(x=x, y=y))
    return parts.panel(*layers, width=185, height=150, title=alt.TitleParams(name, fontSize=13, offset=6))


def cloud_pairs(fit: Fit) -> list[tuple[str, str]]:
    """The pairs of parameters whose draws can be drawn against each other: fitted, and not all the same."""
    draws = fit.natural(fit.cloud_SP)
    free = set(fit.law.free_params(fit.known_floor))
    shown = {name for name in free & set(draws) if len(fit.cloud_SP) > 1 and np.ptp(draws[name]) > 0}
    return [pair for pair in PAIRS if set(pair) <= shown][:2]


def cloud(fit: Fit) -> alt.HConcatChart:
    """The bootstrap's draws of two parameters against each other, and the point: a ridge is a trade-off."""
    panels = [_cloud_of(fit, *pair) for pair in cloud_pairs(fit)]
    stride = -(-len(fit.cloud_SP) // DRAWS_SHOWN)
    title = f"Bootstrap draws ({len(fit.cloud_SP):,}{f', every {_ordinal(stride)} shown' if stride > 1 else ''})"
    return alt.hconcat(*panels, spacing=40).properties(title=title)


def _cloud_of(fit: Fit, first: str, second: str) -> alt.LayerChart:
    draws, point = fit.natural(fit.cloud_SP), fit.natural(fit.theta_P[None])
    stride = -(-len(fit.cloud_SP) // DRAWS_SHOWN)
    axes = []
    for channel, field, name in ((alt.X, "x", first), (alt.Y, "y", second)):
        ends = np.quantile(draws[name], [(1 - CLOUD_SHARE) / 2, (1 + CLOUD_SHARE) / 2])
        low, high = min(ends[0], point[name][0]), max(ends[1], point[name][0])
        margin = 0.08 * (high - low) or 1e-12
        axes.append(parts.even_axis(channel, field, name, low - margin, high + margin, tickCount=5))
    rows = [{"x": a, "y": b} for a, b in zip(draws[first][::stride], draws[second][::stride], strict=True)]
    x, y = axes
    dots = alt.Chart(parts.data(rows)).mark_circle(size=9, opacity=1, color="#9aa4ae", clip=True).encode(x=x, y=y)
    at = alt.Chart(parts.data([{"x": point[first][0], "y": point[second][0]}]))
    cross = at.mark_point(shape="cross", size=130, filled=True, color=FIT, opacity=1).encode(x=x, y=y)
    return parts.panel(dots, cross)


def _ordinal(stride: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(stride, f"{stride}th")


def forms(fit: Fit) -> alt.LayerChart:
    """Held-out error of every form against the share of the runs, the largest, that was held out."""
    rows = [
        {
            "form": row.law, "held": row.fraction_held, "error": row.rms_log_error, "mean": row.mean_log_error,
            "worst": row.worst_log_error, "factor": row.extrapolation_factor, "runs": row.runs_held,
        }
        for row in fit.forms.rows
        if row.refused is None
    ]  # fmt: skip
    names = list(dict.fromkeys(row["form"] for row in rows))
    held = sorted({row["held"] for row in rows})
    margin = 0.06 * (held[-1] - held[0]) or 0.05
    x = parts.even_axis(
        alt.X, "held", "share of the runs held out, the largest first", max(0.0, held[0] - margin),
        held[-1] + margin, format=".0%", values=held,
    )  # fmt: skip
    y = parts.log_y("rms error of held-out log response", [max(r["error"], 1e-12) for r in rows], "error")
    palette = ["#b3342d", "#1b6ca8", "#2e8b57", "#8a5a00", "#6f4aa1", "#444c56", "#c2589b", "#5aa1a8"]
    scale = alt.Scale(domain=names, range=[palette[i % len(palette)] for i in range(len(names))])
    colour = alt.Color("form:N", title="form", scale=scale, legend=alt.Legend(symbolType="circle", symbolSize=80))
    width = alt.condition(alt.datum.form == fit.forms.chosen, alt.value(3.2), alt.value(1.5))
    base = alt.Chart(parts.data(rows))
    tooltip = [
        "form:N", alt.Tooltip("held:Q", title="held out", format=".0%"), alt.Tooltip("runs:Q", title="runs held out"),
        alt.Tooltip("factor:Q", title="extrapolation factor", format=".3g"),
        *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("error", "mean", "worst")),
    ]  # fmt: skip
    lines = base.mark_line().encode(x=x, y=y, color=colour, strokeWidth=width)
    dots = base.mark_circle(size=70, opacity=1).encode(x=x, y=y, color=colour, tooltip=tooltip)
    return parts.single(lines, dots, title="Held-out error by form")
