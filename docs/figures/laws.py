"""The two laws on data whose truth is known: excess over the exact floor against sessions, and against body size."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

import scaling
from scaling.report.figures import parts

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
FLOOR = "rank_floor_nats_per_exposure"
DATA = scaling.Columns(
    d="sessions_unique",
    loss="rank_paired_nats_per_exposure",
    floor_column=FLOOR,
    baseline="rank_baseline_nats_per_exposure",
    select_by="validation_objective",
    select_within=("sessions_unique", "seed"),
)
BODY = scaling.Columns(d="params_body", loss="rank_exact_nats_per_exposure", floor_column=FLOOR)
HALF = 0.5
"""The process's alpha in both tables."""


def chart() -> alt.HConcatChart:
    data = pl.read_csv(RESULTS / "known_truth_data_axis.csv").filter(pl.col("log_alpha") == HALF)
    body = pl.read_csv(RESULTS / "known_truth_body_fresh.csv").filter(
        alpha=HALF, labels="expected", sequence_encoder="transformer"
    )
    panels = (
        _panel(data, DATA, HALF / (1 + HALF), "Loss against data", "training sessions"),
        _panel(body, BODY, HALF, "Loss against body size", "parameters of the body"),
    )
    return alt.hconcat(*panels, spacing=50)


def _panel(runs: pl.DataFrame, columns: scaling.Columns, exponent: float, title: str, axis: str) -> parts.Layers:
    """Draws the runs, the law through them with its 95 % band, and the theory's slope through their centre."""
    fit = scaling.fit(runs, columns=columns, law="power_floor")
    d_R, excess_R = fit.table.need("d"), fit.table.need("loss") - fit.floor
    x = parts.log_x("d", axis, d_R, label=parts.COUNT)
    y = parts.log_y("nats above the exact floor", excess_R)
    ends = np.array([d_R.min(), d_R.max()])
    height = np.exp(np.log(excess_R).mean() - exponent * (np.log(ends) - np.log(d_R).mean()))
    theory = [{"d": d, "response": r} for d, r in zip(ends, height, strict=True)]
    low, high = fit.interval95["beta"] or (np.nan, np.nan)
    words = {
        parts.FIT: f"fitted exponent {fit.params['beta']:.3f} [{low:.3f}, {high:.3f}]",
        parts.THEORY: f"theory {exponent:.3f}",
    }
    layers = [
        *parts.law_over_data(fit, x, y, fit.floor),
        parts.line(theory, x, y, parts.Stroke(parts.THEORY, (6, 4))),
        alt.Chart(parts.data([{"d": d, "response": r} for d, r in zip(d_R, excess_R, strict=True)]))
        .mark_point(filled=True, size=60, color=parts.INK, opacity=0.85)
        .encode(x=x, y=y),
        *(_text(text, colour, 18 * line) for line, (colour, text) in enumerate(words.items())),
    ]
    return parts.panel(*layers, width=330, title=title)


def _text(text: str, colour: str, down: int) -> alt.Chart:
    """Writes a line of text into the upper right corner."""
    mark = {"align": "right", "baseline": "top", "fontSize": 13, "fontWeight": 600, "color": colour}
    return alt.Chart(parts.data([{}])).mark_text(text=text, x=326, y=4 + down, **mark)
