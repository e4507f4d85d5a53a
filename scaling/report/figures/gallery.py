"""The figures of a report: one Altair chart each, from a table of runs and what was made of it.

`all_figures` gives those that the table and the fit allow; `SECTIONS` orders and captions them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.figures import compute, residuals, runs, trust
from scaling.report.figures.parts import themed
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    import altair as alt

    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import IsoFlop

SECTIONS = {
    "fit": {
        "loss_against_data": "Both axes are logarithmic. The band is the 95 % bootstrap band of the law; a single "
        "run's noise comes on top. Triangles are predicted, in the check below, by a refit that does not see them.",
        "excess_against_data": "Loss less the floor: a power of D alone is a straight line of slope -beta here. A "
        "theory's slope is drawn through the centre of the data; only its steepness is a prediction.",
        "loss_against_size": "Where the points of one colour lie level, size is no bottleneck at that D.",
        "metric_against_loss": "The metric of each run over its loss, with the law and its 95 % bootstrap band.",
    },
    "residuals": {
        "residuals": "A trend or a fan means that the law, or the assumption of equal noise, is wrong.",
        "residuals_against_size": "The same over N: a trend of one colour means that N and D act together otherwise "
        "than the law says.",
        "residuals_against_loss": "The same over the upstream loss.",
        "residuals_against_predicted": "A bend at the low end means that the floor, or the form near it, is wrong.",
        "residuals_quantiles": "On the dashed line the residuals are Gaussian. Points beyond it at the ends are "
        "outliers, for which Huber's objective is meant.",
    },
    "trust": {
        "profile": "Each parameter is held fixed and all others fitted again. The 95 % interval, between the vertical "
        "lines, is where the curve stays below the dashed line at 1.92. A curve that does not reach it leaves its end "
        "open: the runs do not bound the parameter on that side.",
        "cloud": "Each dot is the fit of one bootstrap resampling, the cross is the fit itself. A narrow ridge means "
        "that the two parameters trade off. 99 % of the draws are in view.",
        "forms": "Every form is fitted without the largest runs and predicts them. Lower is better; the bold line is "
        "the form that does best over all shares.",
    },
    "compute": {
        "isoflop": "Runs of equal compute, one colour each, with the fitted law (solid) and a parabola through them "
        "(dashed). The large "
        "marks are where each method puts the best N; a hollow one, at the lowest run, is refused: see the reason "
        "above.",
        "frontier": "The best N and D at each amount of compute, with 95 % bootstrap bands. The grey field is the "
        "compute of the runs, the dots; beyond it the line is dashed: the law is extrapolated there.",
    },
}
CAPTIONS = {name: caption for section in SECTIONS.values() for name, caption in section.items()}


def all_figures(
    table: RunTable,
    fit: Fit | None,
    theory: Theory | None = None,
    isoflop: IsoFlop | None = None,
    frontier: Frontier | None = None,
) -> dict[str, alt.TopLevelMixin]:
    """{stem: chart}; those that the table, or something missing, does not allow are absent. The table has rows."""
    charts = _of_runs(table, fit, theory)
    if fit is not None:
        charts |= residuals.all_of(fit)
        if fit.profile:
            charts["profile"] = trust.profile(fit)
        if trust.cloud_pairs(fit):
            charts["cloud"] = trust.cloud(fit)
        if fit.forms is not None and any(row.refused is None for row in fit.forms.rows):
            charts["forms"] = trust.forms(fit)
    if isoflop is not None:
        charts["isoflop"] = compute.isoflop(table, isoflop, fit)
    if frontier is not None and np.isfinite(frontier.n.value_B).any():
        charts["frontier"] = compute.frontier(table, frontier)
    return {name: themed(charts[name]) for name in CAPTIONS if name in charts}


def _of_runs(table: RunTable, fit: Fit | None, theory: Theory | None) -> dict[str, alt.LayerChart]:
    charts = {}
    of_metric = fit is not None and fit.law.response == "metric"
    if table.metric is not None and table.loss is not None:
        charts["metric_against_loss"] = runs.metric_against_loss(table, fit if of_metric else None)
    if table.d is not None and (fit is None or "d" in fit.law.axes):
        charts["loss_against_data"] = runs.loss_against_data(table, fit)
        floor = runs.reference_floor(fit, theory, table)
        if not of_metric and table.loss is not None and floor > 0 and (table.loss > floor).any():
            charts["excess_against_data"] = runs.excess_against_data(table, fit, theory, floor)
    if table.n is not None and len(np.unique(table.n)) > 1:
        charts["loss_against_size"] = runs.loss_against_size(table)
    return charts
