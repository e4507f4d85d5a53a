"""What a report tells of compute: the IsoFLOP minima and the compute-optimal path of the fit that it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.fit import Fit
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import IsoFlop

BUDGETS = 41
REACH = 30.0
"""The path is drawn to so many times the largest compute of the runs."""


def isoflop_of(table: RunTable, fit: Fit | None) -> IsoFlop | Refusal | None:
    """The IsoFLOP analysis, or why the table has none; None where the fit is not of N and D."""
    from scaling.compute.isoflop import isoflop

    if not _of_both(fit):
        return None
    try:
        return isoflop(table, fit)
    except Refusal as refusal:
        return refusal


def frontier_of(table: RunTable, fit: Fit | None) -> Frontier | None:
    """The path over the runs' compute and beyond; None where the fit is not of N and D, or its unique data vary."""
    from scaling.compute.frontier import frontier

    if not _of_both(fit):
        return None
    unique = None
    if "u" in fit.law.axes:
        if len(np.unique(table.unique)) > 1:
            return None
        unique = float(table.unique[0])
    flops = fit.flops_per_nd * table.n * table.d
    return frontier(fit, np.geomspace(flops.min(), REACH * flops.max(), BUDGETS), unique)


def _of_both(fit: Fit | None) -> bool:
    return fit is not None and {"n", "d"} <= set(fit.law.axes)
