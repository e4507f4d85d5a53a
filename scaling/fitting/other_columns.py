"""Columns of the table that the law does not have, and that the residuals vary with: a third variable.

Letters: R rows, K directions.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from scaling.fitting.problem import Problem
from scaling.fitting.trend import along
from scaling.table.columns import numbered
from scaling.table.run_table import RunTable

SURE, LEAST_SHARE = 0.002, 0.2
"""A column moves the loss if its p-value is at most this and it explains this part of the residuals' variance. Many
columns are tested, so the p-value is small."""
MOST_GROUPS = 12
"""A column of texts with more values names runs and is no setting."""
OUTCOME = re.compile(
    "loss|objective|entropy|perplex|ppl|nats|bits|bpb|acc|error|score|recall|ndcg|auc|grad|time|second|hour|status|stderr",
    re.I,
)
"""Columns with such a name are results of a run and no settings."""
ANOTHER_LOSS = 0.98
"""A column with this correlation with the log response is another measure of the same loss."""


@dataclass(frozen=True)
class OtherColumn:
    """A column that the residuals vary with."""

    name: str
    p_value: float
    share: float
    """The part of the residuals' variance that goes along the column."""


def other_columns(table: RunTable, problem: Problem, theta_P: np.ndarray) -> tuple[OtherColumn, ...]:
    """Returns the settings among the table's other columns that the residuals vary with, the strongest first.

    A setting takes some values several times, or is a number that is no result of the run. Columns that N or D alone
    determines are left out.
    """
    fields = [field.name for field in dataclasses.fields(table.columns) if field.name != "n" or "n" in problem.points]
    used = {name for field in fields for name in _names(getattr(table.columns, field))}
    found = []
    for name in table.frame.columns:
        if name in used or OUTCOME.search(name):
            continue
        directions_RK = _directions(table.frame[name], np.log(problem.response))
        if directions_RK is None or _is_of_one_axis(numbered(table.frame[name].to_list()), problem):
            continue
        test = along(problem, theta_P, table.cluster, directions_RK)
        if test is not None and test.p_value <= SURE and test.share >= LEAST_SHARE:
            found.append(OtherColumn(name, test.p_value, test.share))
    return tuple(sorted(found, key=lambda column: -column.share))


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value or ()


def _directions(column: pl.Series, log_response_R: np.ndarray) -> np.ndarray | None:
    """Returns the column as directions [R, K]: groups of texts, or the rank of numbers and its square.

    Returns None for a column that is no setting.
    """
    values, count = column.n_unique(), len(column)
    if values < 2 or column.null_count():
        return None
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical):
        group_R = numbered(column.to_list())
        return None if values > min(MOST_GROUPS, count // 2) else np.eye(values)[group_R][:, 1:]
    if not column.dtype.is_numeric():
        return None
    rank_R = column.rank("dense").to_numpy().astype(float)
    rank_R = (rank_R - rank_R.mean()) / rank_R.std()
    if abs(np.corrcoef(rank_R, log_response_R)[0, 1]) > ANOTHER_LOSS:
        return None
    return np.stack([rank_R, rank_R**2], axis=1)[:, : values - 1]


def _is_of_one_axis(group_R: np.ndarray, problem: Problem) -> bool:
    """Returns True where each value of N, or each value of D, has one value of the column."""
    for x_R in problem.points.values():
        value_R = numbered(np.round(np.log(x_R), 6).tolist())
        pairs = len(np.unique(np.stack([value_R, group_R]), axis=1).T)
        if value_R.max() + 1 < len(value_R) and pairs == value_R.max() + 1:
            return True
    return False
