"""The runs of a table in cells of one N and D: the settings that were tried, and the loss that each reached.

Letters: R runs of a cell, A settings that were tried (the rate, then the batch), C cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaling.errors import InputError, near_miss
from scaling.table.columns import numbers
from scaling.table.run_table import RunTable

SAME = 0.02
"""In logs. Values closer than this are the same: rates are rounded, and D differs by the last step."""

Setting = Literal["rate", "batch"]
SETTINGS: tuple[Setting, ...] = ("rate", "batch")


@dataclass(frozen=True)
class Cell:
    """The runs of one N and D."""

    n: float | None
    """None in a table without N."""
    d: float
    log_RA: np.ndarray
    """Logs of the settings of each run."""
    log_loss_R: np.ndarray

    @property
    def tried_A(self) -> list[int]:
        """The number of different values of each setting."""
        return [len(np.unique(same(column_R))) for column_R in self.log_RA.T]

    @property
    def place(self) -> str:
        """The cell in words: "N 3e+08, D 6e+09"."""
        return ("" if self.n is None else f"N {self.n:.4g}, ") + f"D {self.d:.4g}"


def same(log_R: np.ndarray) -> np.ndarray:
    """Returns an integer for each value, [R], in ascending order; values within SAME of a neighbour have one."""
    order = np.argsort(log_R, kind="stable")
    group_R = np.empty(len(log_R), int)
    group_R[order] = np.cumsum(np.diff(log_R[order], prepend=log_R[order[:1]]) > SAME)
    return group_R


def cells_of(table: RunTable, rate: str, batch: str | None) -> list[Cell]:
    """Returns the cells of a table by ascending N and D.

    Args:
      table: runs with D, and N where it varies.
      rate: the column of the learning rate.
      batch: the column of the batch size; None where it was not varied.

    Raises InputError for a column that is missing or has a value that is not a number above 0.
    """
    log_RA = np.stack([_logs(table, name, flag) for name, flag in ((rate, "rate"), (batch, "batch")) if name], axis=1)
    log_loss_R = np.log(table.need("loss", "a law of the best rate"))
    d_R = table.need("d", "a law of the best rate")
    n_R = np.ones_like(d_R) if table.n is None else table.n
    group_R2 = np.stack([same(np.log(n_R)), same(np.log(d_R))], axis=1)
    found = []
    for group in np.unique(group_R2, axis=0):
        rows = np.flatnonzero((group_R2 == group).all(axis=1))
        n, d = (float(np.exp(np.log(values[rows]).mean())) for values in (n_R, d_R))
        found.append(Cell(None if table.n is None else n, d, log_RA[rows], log_loss_R[rows]))
    return found


def _logs(table: RunTable, name: str, flag: str) -> np.ndarray:
    if name not in table.frame.columns:
        raise InputError(f"{table.source} has no column {name!r} (--{flag}); {near_miss(name, table.frame.columns)}")
    values = numbers(table.frame, name, table.row_id)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(f"column {name!r} (--{flag}) is {values[at]:g} in {table.row_id[at]}; wanted a number above 0")
    return np.log(values)


def repeated(cells: list[Cell]) -> tuple[float, int]:
    """Returns the sum of squares of log loss among runs of equal settings in one cell, and its degrees of freedom."""
    total, spare = 0.0, 0
    for cell in cells:
        groups = np.stack([same(column_R) for column_R in cell.log_RA.T], axis=1)
        _, point_R = np.unique(groups, axis=0, return_inverse=True)
        point_R = point_R.ravel()
        mean_G = np.bincount(point_R, cell.log_loss_R) / np.bincount(point_R)
        total += float(np.sum((cell.log_loss_R - mean_G[point_R]) ** 2))
        spare += len(cell.log_loss_R) - len(mean_G)
    return total, spare
