"""The noise of a single run, from runs that were repeated with another seed, and the law's misfit compared with it.

Letters: R rows of the table, U runs (each the mean of its rows at a point), G distinct points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.fitting.problem import Problem
from scaling.fitting.trend import Trend, together
from scaling.laws.registry import Law
from scaling.table.columns import numbered
from scaling.table.run_table import RunTable

EXACT = 1e-12
"""Repeats with a smaller spread of log loss are copies of a number, or have no noise."""
LEAST_REPEATS = 8
"""Fewer runs beyond the first of each point have too few patterns of signs for a p-value below .5 %."""


@dataclass(frozen=True)
class SeedNoise:
    """The pooled spread of runs that differ only in their seed."""

    sigma: float
    """Standard deviation of the log response of one run."""
    degrees_of_freedom: int
    groups: int
    """Points with two runs or more."""


def seed_noise(table: RunTable, law: Law) -> SeedNoise | None:
    """Returns the spread of log response among runs at equal points, or None where no point was run twice.

    Points are equal if they agree in all axes of the law, and in N, D and distinct data where the table has them. Rows
    of the same seed (of the same cluster, in a table without seeds) are one run: several rows of it at a point count
    once, by their mean. Anything else that differs between the runs of a point counts as noise.

    Raises InputError where the law needs a column that is not named.
    """
    repeats = _Repeats.of(np.log(table.response(law)), table, law)
    if not repeats.degrees_of_freedom:
        return None
    return SeedNoise(float(np.sqrt(repeats.variance)), repeats.degrees_of_freedom, int((repeats.runs_G > 1).sum()))


def lack_of_fit(problem: Problem, theta_P: np.ndarray, table: RunTable) -> Trend | None:
    """Tests if a fit misses the repeated points by more than their repeats differ.

    Repeats that are all on one side of the law are evidence against it. Random signs of the runs give the distribution
    where the law holds, so the noise may differ between points, and points without repeats are not judged by it. The F
    test of misfit against pure error (Draper and Smith 1998, 2.1) takes one noise for all points, and calls laws that
    hold misfits where only the largest runs are repeated and the noise falls with the data (LOG.md).

    Args:
      problem: the law with the table's R rows.
      theta_P: the fit.
      table: the table that the law was fitted to.

    Returns:
      None where there are fewer than LEAST_REPEATS, or repeats without any spread.

    Raises InputError where the law needs a column that is not named.
    """
    repeats = _Repeats.of(problem.residual(theta_P), table, problem.law)
    if repeats.degrees_of_freedom < LEAST_REPEATS or repeats.variance < EXACT**2:
        return None
    groups_RK = repeats.group_R[:, None] == np.flatnonzero(repeats.runs_G > 1)
    run_R = repeats.run_R if table.columns.cluster is None else table.cluster
    return together(problem, theta_P, run_R, groups_RK)


@dataclass(frozen=True)
class _Repeats:
    """The values of runs, grouped by equal points."""

    group_R: np.ndarray
    """[R] the number of each row's point."""
    run_R: np.ndarray
    """[R] the number of each row's run."""
    runs_G: np.ndarray
    sum_of_squares: float
    """The sum over runs of (value - mean of its group)^2."""
    degrees_of_freedom: int

    @property
    def variance(self) -> float:
        return self.sum_of_squares / self.degrees_of_freedom

    @classmethod
    def of(cls, value_R: np.ndarray, table: RunTable, law: Law) -> _Repeats:
        axes = [*table.points(law).values(), *(x for x in (table.n, table.d, table.unique) if x is not None)]
        _, group_R = np.unique(np.stack(axes, axis=1), axis=0, return_inverse=True)
        pair_U, run_R = np.unique(np.stack([group_R, _seed(table)], axis=1), axis=0, return_inverse=True)
        value_U = np.bincount(run_R, value_R) / np.bincount(run_R)
        group_U = pair_U[:, 0]
        runs_G = np.bincount(group_U)
        mean_G = np.bincount(group_U, value_U) / runs_G
        squares = float(np.sum((value_U - mean_G[group_U]) ** 2))
        return cls(group_R, run_R, runs_G, squares, len(value_U) - len(runs_G))


def _seed(table: RunTable) -> np.ndarray:
    """Returns [R] integers, equal for rows of one seed, or of one cluster where the seed is not known."""
    name = table.columns.seed_column
    seeds = [None] * len(table) if name is None else table.frame[name].to_list()
    return numbered(
        ("cluster", str(cluster)) if seed is None else ("seed", repr(seed))
        for seed, cluster in zip(seeds, table.cluster, strict=True)
    )
