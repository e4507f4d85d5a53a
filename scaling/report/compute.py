"""The compute section of a report: the IsoFLOP minima, and the compute-optimal path of the fit that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.result import Fit
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import IsoFlop

BUDGETS = 41
REACH = 30.0
"""The path is drawn to this many times the largest compute of the runs."""


def isoflop_of(table: RunTable, fit: Fit | None) -> IsoFlop | Refusal | None:
    """Returns the IsoFLOP analysis or its refusal; None if the fit is not of N and D."""
    from scaling.compute.isoflop import isoflop

    if fit is None or not _is_of_both(fit):
        return None
    try:
        return isoflop(table, fit)
    except Refusal as refusal:
        return refusal


def frontier_of(table: RunTable, fit: Fit | None) -> Frontier | None:
    """Returns the path over the runs' compute and beyond; None if the fit is not of N and D or unique data vary."""
    from scaling.compute.frontier import frontier, with_open

    if fit is None or not _is_of_both(fit):
        return None
    unique = None
    if "u" in fit.law.axes:
        amounts = np.unique(table.need("unique"))
        if len(amounts) > 1:
            return None
        unique = float(amounts[0])
    flops = fit.flops_per_nd * table.need("n") * table.need("d")
    path = frontier(fit, np.geomspace(flops.min(), REACH * flops.max(), BUDGETS), unique)
    return with_open(path, fit.open_intervals)


def _is_of_both(fit: Fit) -> bool:
    return {"n", "d"} <= set(fit.law.axes) and "s" not in fit.law.axes
