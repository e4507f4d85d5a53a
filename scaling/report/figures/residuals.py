"""Figures of what the law leaves over: residuals of the log response against each axis, the prediction, a Gaussian."""

from __future__ import annotations

import altair as alt
import numpy as np

from scaling.fitting.fit import Fit
from scaling.report.figures import parts
from scaling.report.figures.parts import REFERENCE

NO_NOISE = 1e-12
"""Robust standard deviation of residuals, in nats, below which they are rounding: nothing to hold to a Gaussian."""
STEMS = {"d": "residuals", "n": "residuals_against_size", "l": "residuals_against_loss"}
TITLES = {"d": "Residuals against data", "n": "Residuals against size", "l": "Residuals against upstream loss"}


def all_of(fit: Fit) -> dict[str, alt.LayerChart]:
    """{stem: chart}: one for each axis of the law, one against the prediction, one of quantiles."""
    charts = {STEMS[axis]: against_axis(fit, axis) for axis in fit.law.axes if axis in STEMS}
    charts["residuals_against_predicted"] = against_predicted(fit)
    if fit.residual_sigma > NO_NOISE:
        charts["residuals_quantiles"] = quantiles(fit)
    return charts


def against_axis(fit: Fit, axis: str) -> alt.LayerChart:
    """Residuals over "d", "n" or "l": no trend and no fan, if the law holds."""
    values = fit.table.points(fit.law)[axis]
    x = parts.log_x(axis, getattr(parts.labels(fit.table, fit.law), axis), values)
    return _against(fit, x, {axis: values}, TITLES[axis])


def against_predicted(fit: Fit) -> alt.LayerChart:
    """Residuals over the law's own value: a bend is a wrong form or a wrong floor."""
    predicted = fit.loss_at(fit.table.points(fit.law))[0]
    title = f"predicted {parts.labels(fit.table, fit.law).response}"
    x = parts.log_x("predicted", title, predicted)
    return _against(fit, x, {"predicted": predicted}, "Residuals against prediction")


def quantiles(fit: Fit) -> alt.LayerChart:
    """Sorted residuals in robust standard deviations against a Gaussian's quantiles, with the line of equality."""
    from scipy.special import ndtri

    standard = fit.residual() / fit.residual_sigma
    R = len(standard)
    expected = np.empty(R)
    expected[np.argsort(standard, kind="stable")] = ndtri((np.arange(R) + 0.5) / R)
    reach = 1.12 * max(np.abs(standard).max(), np.abs(expected).max())
    x = parts.even_axis(alt.X, "expected", "quantile of a Gaussian (standard deviations)", *_around_0(expected))
    y = parts.even_axis(alt.Y, "standard", "residual (robust standard deviations)", -reach, reach)
    ends = [{"expected": end, "standard": end} for end in (-reach, reach)]
    equal = parts.line(ends, x, y, REFERENCE, [4, 3])
    fields = {"expected": expected, "standard": standard, "residual": fit.residual()}
    return parts.single(equal, parts.points(fit.table, fit, x, y, fields, _colour(fit)), title="Residual quantiles")


def _around_0(values: np.ndarray) -> tuple[float, float]:
    reach = 1.12 * float(np.abs(values).max())
    return -reach, reach


def _against(fit: Fit, x: alt.X, fields: dict[str, np.ndarray], title: str) -> alt.LayerChart:
    residual = fit.residual()
    low, high = min(float(residual.min()), -1e-9), max(float(residual.max()), 1e-9)
    margin = 0.08 * (high - low)
    y = parts.even_axis(alt.Y, "residual", "log response - log law (nats)", low - margin, high + margin, tickCount=7)
    zero = alt.Chart(parts.data([{"residual": 0}])).mark_rule(color=REFERENCE, strokeDash=[4, 3]).encode(y=y)
    runs = parts.points(fit.table, fit, x, y, fields | {"residual": residual}, _colour(fit))
    return parts.single(zero, runs, title=title)


def _colour(fit: Fit) -> tuple[np.ndarray, str] | None:
    return None if fit.table.n is None else (fit.table.n, parts.labels(fit.table).n)
