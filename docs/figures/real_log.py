"""Loss against unique sessions of a real log, for next-session and next-exposure prediction."""

from __future__ import annotations

import altair as alt
import polars as pl

import scaling
from docs.figures._differences import RESULTS
from scaling.report.figures import parts

ARMS = {"nspp": ("next session (NSPP)", parts.FIT), "nipp_plus": ("next exposure (NIPP+)", parts.THEORY)}
COLUMNS = scaling.Columns(
    loss="loss_nats_per_item",
    baseline="loss_baseline_nats_per_item",
    d="sessions_unique",
    select_by="validation_objective",
    select_within=("sessions_unique", "seed"),
)


def chart() -> alt.LayerChart:
    runs = pl.read_csv(RESULTS / "kuairand_pure_data_axis.csv")
    fits = {arm: scaling.fit(runs.filter(paradigm=arm), columns=COLUMNS, law="power") for arm in ARMS}
    d = [value for fit in fits.values() for value in fit.table.need("d")]
    loss = [value for fit in fits.values() for value in fit.table.need("loss")]
    x = parts.log_x("d", "training sessions that differ", pl.Series(d).to_numpy(), label=parts.COUNT)
    y = parts.log_y("nats a clicked item", loss)
    layers = []
    for line, (arm, fit) in enumerate(fits.items()):
        name, colour = ARMS[arm]
        low, high = fit.interval95["beta"] or (float("nan"), float("nan"))
        rows = [{"d": a, "response": b} for a, b in zip(fit.table.need("d"), fit.table.need("loss"), strict=True)]
        curves = parts.law_over_data(fit, x, y, 0.0)
        layers += [curve.encode(color=alt.value(colour)) for curve in curves]
        layers.append(alt.Chart(parts.data(rows)).mark_point(filled=True, size=50, color=colour).encode(x=x, y=y))
        text = f"{name}: exponent {fit.params['beta']:.3f} [{low:.3f}, {high:.3f}]"
        mark = {"align": "right", "fontSize": 13, "fontWeight": 600, "color": colour}
        layers.append(alt.Chart(parts.data([{}])).mark_text(text=text, x=parts.WIDTH - 6, y=14 + 20 * line, **mark))
    return parts.single(*layers, title="KuaiRand-Pure: loss against data")
