"""The law of a table for which none is named, and which of several fits is the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.result import Fit
from scaling.table.run_table import RunTable

LEAST_SIZES, LEAST_RANGE = 3, 4.0
"""From this number of distinct N, and this ratio of the largest to the smallest, the default is a law of N and D."""


def default_law(table: RunTable) -> str:
    """Returns the law for a table if none is named: the simplest with a floor that can see what varies.

    It is metric_sigmoid for a metric and a loss, chinchilla if N varies at least fourfold, and else power_floor.
    """
    if table.metric is not None and table.loss is not None:
        return "metric_sigmoid"
    several = table.n is not None and len(np.unique(table.n)) >= LEAST_SIZES
    if table.n is None or not several or table.n.max() < LEAST_RANGE * table.n.min():
        return "power_floor"
    return "chinchilla"


def lead_first(fits: Sequence[tuple[str, Fit | Refusal]]) -> list[tuple[str, Fit | Refusal]]:
    """Returns the fits with the one first that is the answer, the others in their order.

    It is the law with the lowest pooled error on the held-out runs, else the first that was not refused.
    """
    done = [(name, fit) for name, fit in fits if isinstance(fit, Fit)]
    if not done:
        return list(fits)
    error: dict[str, float] = {}
    for _, fit in done:
        error = (fit.forms.pooled if fit.forms is not None else {}) | error
    lead = min(done, key=lambda one: error.get(one[1].law.name, np.inf))  # the first of equal ones
    return [lead, *(one for one in fits if one[1] is not lead[1])]
