"""The figures of a report: one Altair chart each, from a table of runs and the results from it.

`all_figures` draws those that the table and the fit allow; `SECTIONS` gives their order and captions.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from scaling.laws.theory import Theory
from scaling.report.figures import compute, residuals, runs, trust
from scaling.report.figures.parts import Subject, colour_by_size, themed

if TYPE_CHECKING:
    import altair as alt

    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import IsoFlop

SECTIONS = {
    "fit": {
        "loss_against_data": "Both axes are logarithmic. The band is the 95 % bootstrap band of the law; a single "
        "run's noise comes on top. Triangles are runs that the held-out check below predicts without seeing them.",
        "excess_against_data": "Loss minus the floor; both axes are logarithmic, so that a power of D alone is a "
        "straight line.",
        "loss_against_size": "If the points of one colour are level, size is not the bottleneck at that D.",
        "metric_against_loss": "The metric of each run over its loss, with the law and its 95 % bootstrap band.",
    },
    "residuals": {
        "residuals": "A trend or a fan means that the law, or the assumption of equal noise, is wrong.",
        "residuals_against_size": "The same over N. A trend of one colour means that N and D act together in another "
        "way than the law says.",
        "residuals_against_loss": "The same over the upstream loss.",
        "residuals_against_predicted": "A bend at the low end means that the floor, or the form near it, is wrong.",
        "residuals_quantiles": "If the residuals are Gaussian, they are on the dashed line. Points off it at the ends "
        "are outliers, which Huber's objective is made for.",
    },
    "trust": {
        "profile": "Each parameter is held fixed while all others are fitted again. Between the vertical lines, in the "
        "95 % interval, the curve stays below the dashed line at 1.92. If the curve does not reach that line on one "
        "side, the interval is open there: the runs do not bound the parameter.",
        "cloud": "Each dot is the fit of one bootstrap resampling; the cross is the fit itself. In a narrow ridge the "
        "two parameters trade off. 99 % of the draws are in view.",
        "forms": "Every form is fitted without the largest runs and predicts them. Lower is better; the bold line is "
        "the form that does best over all shares.",
    },
    "compute": {
        "isoflop": "Runs of equal compute, one colour each, with the fitted law (solid) and a parabola through them "
        "(dashed). The large marks are the best N by each method. A hollow mark, at the lowest run, is refused; the "
        "reason is above.",
        "frontier": "The best N and D at each amount of compute, with 95 % bootstrap bands. Dots are the runs, and the "
        "grey field is their compute. Beyond it the law is extrapolated, and the line is dashed.",
    },
}
OF_THEORY = " Theory's slope is drawn through the centre of the data: only its steepness is a prediction."
LEADS = ("metric_against_loss", "excess_against_data", "loss_against_data", "loss_against_size")
"""The figures that can carry the answer; the first one that is drawn does, at the top of the page."""
FALLING = ("excess_against_data", "loss_against_data")
CAPTIONS = {name: caption for section in SECTIONS.values() for name, caption in section.items()}


def all_figures(
    subject: Subject,
    theory: Theory | None = None,
    isoflop: IsoFlop | None = None,
    frontier: Frontier | None = None,
) -> dict[str, alt.TopLevelMixin]:
    """Returns {stem: chart} in the order of CAPTIONS, for a table with rows.

    A figure that the table does not allow, or whose input is missing, is left out.
    """
    fit = subject.fit
    charts = _of_runs(subject, theory)
    if fit is not None:
        charts |= residuals.all_of(fit, subject.tooltip)
        if fit.profile:
            charts["profile"] = trust.profile(fit)
        if trust.cloud_pairs(fit):
            charts["cloud"] = trust.cloud(fit)
        if fit.forms is not None and len({row.fraction_held for row in fit.forms.rows if row.refused is None}) > 1:
            charts["forms"] = trust.forms(fit.forms)
    if isoflop is not None:
        charts["isoflop"] = compute.isoflop(subject, isoflop)
    if frontier is not None and np.isfinite(frontier.n.value_B).any():
        charts["frontier"] = compute.frontier(subject.table, frontier)
    is_one_line = colour_by_size(subject.table) is None
    return {
        name: themed(charts[name], legend_inside=is_one_line and name in FALLING) for name in CAPTIONS if name in charts
    }


def _of_runs(subject: Subject, theory: Theory | None) -> dict[str, alt.TopLevelMixin]:
    charts: dict[str, alt.TopLevelMixin] = {}
    table, fit = subject.table, subject.fit
    if len(table) < 2:
        return charts  # a single point shows nothing
    is_of_metric = fit is not None and fit.law.response == "metric"
    if table.metric is not None and table.loss is not None:
        shown = subject if is_of_metric else dataclasses.replace(subject, fit=None)
        charts["metric_against_loss"] = runs.metric_against_loss(shown)
    if table.d is not None and len(np.unique(table.d)) > 1 and (fit is None or "d" in fit.law.axes):
        charts["loss_against_data"] = runs.loss_against_data(subject)
        floor = runs.reference_floor(subject, theory)
        if not is_of_metric and table.loss is not None and floor > 0 and (table.loss > floor).any():
            charts["excess_against_data"] = runs.excess_against_data(subject, theory, floor)
    if table.n is not None and len(np.unique(table.n)) > 1:
        charts["loss_against_size"] = runs.loss_against_size(subject)
    return charts
