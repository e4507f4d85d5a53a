"""Figures of the residuals of the log response: against each axis, against the prediction, against a Gaussian."""

from __future__ import annotations

import altair as alt
import numpy as np

from scaling.fitting.result import Fit
from scaling.report.figures import parts
from scaling.report.figures.parts import REFERENCE, Layers, Stroke, Subject

NO_NOISE = 1e-12
"""Residuals with a robust standard deviation below this, in nats, are rounding. They are not compared to a Gaussian."""
STEMS = {"d": "residuals", "n": "residuals_against_size", "l": "residuals_against_loss"}
TITLES = {"d": "Residuals against data", "n": "Residuals against size", "l": "Residuals against upstream loss"}


def all_of(fit: Fit, tooltip: tuple[str, ...]) -> dict[str, Layers]:
    """Returns {stem: chart}: one for each axis of the law, one against the prediction, one of quantiles."""
    subject, text = Subject(fit.table, fit, tooltip), parts.labels(fit.table, fit.law)
    charts = {}
    for axis, values in fit.table.points(fit.law).items():
        if axis in STEMS:
            x = parts.log_x(axis, getattr(text, axis), values, parts.VALUE if axis == "l" else parts.COUNT)
            charts[STEMS[axis]] = _against(subject, fit, x, fields={axis: values}, title=TITLES[axis])
    predicted = fit.loss_at(fit.table.points(fit.law))[0]
    x = parts.log_x("predicted", f"predicted {text.response}", predicted, parts.VALUE)
    fields, title = {"predicted": predicted}, "Residuals against prediction"
    charts["residuals_against_predicted"] = _against(subject, fit, x, fields=fields, title=title)
    if fit.residual_sigma > NO_NOISE:
        charts["residuals_quantiles"] = _quantiles(subject, fit)
    return charts


def _quantiles(subject: Subject, fit: Fit) -> Layers:
    """Draws sorted residuals, in robust standard deviations, against a Gaussian's quantiles."""
    from scipy.special import ndtri

    standard = fit.residual() / fit.residual_sigma
    R = len(standard)
    expected = np.empty(R)
    expected[np.argsort(standard, kind="stable")] = ndtri((np.arange(R) + 0.5) / R)
    reach = 1.12 * max(np.abs(standard).max(), np.abs(expected).max())
    reach_x = 1.12 * float(np.abs(expected).max())
    x = parts.even_x("expected", "quantile of a Gaussian (standard deviations)", -reach_x, reach_x)
    y = parts.even_y("standard", "residual (robust standard deviations)", -reach, reach)
    ends = [{"expected": end, "standard": end} for end in (-reach, reach)]
    equal = parts.line(ends, x, y, Stroke(REFERENCE, (4, 3)))
    fields = {"expected": expected, "standard": standard, "residual": fit.residual()}
    runs = parts.points(subject, x, y, fields=fields, colour=parts.colour_by_size(fit.table))
    return parts.single(equal, runs, title="Residual quantiles")


def _against(subject: Subject, fit: Fit, x: alt.X, *, fields: dict[str, np.ndarray], title: str) -> Layers:
    residual = fit.residual()
    low, high = min(float(residual.min()), -1e-9), max(float(residual.max()), 1e-9)
    margin = 0.08 * (high - low)
    y = parts.even_y("residual", "log of response over law", low - margin, high + margin, tickCount=7)
    zero = alt.Chart(parts.data([{"residual": 0}])).mark_rule(color=REFERENCE, strokeDash=[4, 3]).encode(y=y)
    fields = fields | {"residual": residual}
    runs = parts.points(subject, x, y, fields=fields, colour=parts.colour_by_size(fit.table))
    return parts.single(zero, runs, title=title)
