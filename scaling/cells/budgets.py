"""Budgets: the sets of a table's runs that have nearly the same training FLOPs C.

Letters: R rows.
"""

from __future__ import annotations

import numpy as np

from scaling.errors import InputError
from scaling.table.run_table import RunTable

TOLERANCE = 0.1
"""The highest C of a budget is at most (1 + this) / (1 - this) times its lowest."""
FEWEST_RUNS = 3
"""Fewer runs at one compute are not a budget."""


def flops_of(table: RunTable) -> np.ndarray:
    """Returns C of each row: the column's value where there is one, else flops_per_nd * N * D."""
    computed_R = table.flops_per_nd * table.need("n") * table.need("d")
    if table.columns.flops is None:
        return computed_R
    column_R = table.frame[table.columns.flops].cast(float).fill_null(np.nan).to_numpy()
    return np.where(column_R > 0, column_R, computed_R)


def split(flops_R: np.ndarray, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """Splits the rows into sets no wider in C than the tolerance either way, at the largest gap first.

    Raises InputError for a tolerance that is not between 0 and 1.
    """
    if not (np.isfinite(tolerance) and 0 < tolerance < 1):
        raise InputError(f"the tolerance is {tolerance!r}; wanted a part of C between 0 and 1, such as 0.1")
    widest = np.log((1 + tolerance) / (1 - tolerance))
    todo, done = [np.argsort(flops_R, kind="stable")], []
    while todo:
        rows = todo.pop()
        log_flops = np.log(flops_R[rows])
        if log_flops[-1] - log_flops[0] <= widest:
            done.append(rows)
        else:
            at = int(np.argmax(np.diff(log_flops))) + 1
            todo += [rows[:at], rows[at:]]
    return done
