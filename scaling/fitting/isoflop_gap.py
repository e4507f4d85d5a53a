"""Tests the best N at equal compute: the exponent of N* ~ C^a through the minima of budgets against that of the law.

Both come from the same parabolas through the same runs, so that the bias of a parabola is in both.

Letters: R rows, G distinct N of a budget, B budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.cells.budgets import FEWEST_RUNS, flops_of, split
from scaling.cells.vertex import Curve, parabola, sizes_of
from scaling.fitting.problem import Problem
from scaling.fitting.trend import Trend, towards
from scaling.table.run_table import RunTable

FEWEST_BUDGETS = 3
"""Two budgets give an exponent that nothing contradicts."""


@dataclass(frozen=True)
class IsoFlopGap:
    """The exponents of N* that the runs and the law give."""

    measured: float
    """a of N* ~ C^a through the minima of the budgets."""
    by_law: float
    """The same with the law's own loss at every run."""
    budgets: int
    """The budgets with a minimum inside, in the runs and in the law."""
    test: Trend
    """The test of the residuals in the direction that moves a."""


def isoflop_gap(table: RunTable, problem: Problem, theta_P: np.ndarray) -> IsoFlopGap | None:
    """Compares the exponents. Returns None where the law is not of N and D, or budgets or independent runs are few."""
    if not {"n", "d"} <= set(problem.law.axes):
        return None
    flops_R, n_R = flops_of(table), problem.points["n"]
    law_R = np.exp(problem.bound.log(theta_P[None])[0])
    found = []
    for rows in split(flops_R):
        if len(rows) < FEWEST_RUNS:
            continue
        runs, law = (
            parabola(Curve.from_rows(n_R[rows], x[rows], table.cluster[rows])) for x in (problem.response, law_R)
        )
        if runs.log_n is None or law.log_n is None or law.slope_G is None:
            continue
        size_R, share_R = sizes_of(n_R[rows], table.cluster[rows])
        found.append((np.log(flops_R[rows]).mean(), runs.log_n, law.log_n, rows, law.slope_G[size_R] * share_R))
    if len(found) < FEWEST_BUDGETS:
        return None
    log_flops_B, measured_B, by_law_B = np.array([one[:3] for one in found], float).T
    far_B = log_flops_B - log_flops_B.mean()
    weight_B = far_B / (far_B @ far_B)  # the least-squares slope of values over log C is their sum with these weights
    moves_R = np.zeros(len(n_R))
    for weight, (*_, rows, slope_R) in zip(weight_B, found, strict=True):
        moves_R[rows] = weight * slope_R
    test = towards(problem, theta_P, table.cluster, moves_R)
    if test is None:
        return None
    return IsoFlopGap(float(weight_B @ measured_B), float(weight_B @ by_law_B), len(found), test)
