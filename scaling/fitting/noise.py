"""The noise of a single run, from runs that were repeated with another seed, and the law's misfit compared with it.

Letters: R rows of the table, U runs (each the mean of its rows at a point), G distinct points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.registry import Law
from scaling.table.columns import numbered
from scaling.table.run_table import RunTable

EXACT = 1e-12
"""Repeats with a smaller spread of log loss are copies of a number, or have no noise."""


@dataclass(frozen=True)
class SeedNoise:
    """The pooled spread of runs that differ only in their seed."""

    sigma: float
    """Standard deviation of the log response of one run."""
    degrees_of_freedom: int
    groups: int
    """Points with two runs or more."""


@dataclass(frozen=True)
class LackOfFit:
    """The distance between a law and the means of the points, in units of the seed noise."""

    f: float
    """Mean square of the misfit over mean square of the seed noise. It is near 1 for a law that holds."""
    p_value: float
    """Chance of a larger f if the law holds and the noise is Gaussian."""
    degrees_of_freedom_misfit: int
    degrees_of_freedom_noise: int

    @property
    def misfits(self) -> bool:
        """True if the law misses by more than seed noise, at the 5 % level."""
        return self.p_value < 0.05


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


def lack_of_fit(
    residual_R: np.ndarray, table: RunTable, law: Law, known_floor: float | None = None
) -> LackOfFit | None:
    """Does the F test of a fit's misfit against pure error (Draper and Smith, Applied Regression Analysis, 1998, 2.1).

    It is exact for least squares and a law that is linear in its parameters, and close for the other ones here.

    Args:
      residual_R: log response - log law, of the table's R rows.
      table: the table that the law was fitted to.
      law: the law.
      known_floor: the floor, if it was not fitted.

    Returns:
      None where there are no repeats, no more points than parameters, or repeats without any spread.

    Raises InputError where the law needs a column that is not named.
    """
    from scipy.special import fdtrc

    repeats = _Repeats.of(np.asarray(residual_R, float), table, law)
    noise = repeats.degrees_of_freedom
    misfit = len(repeats.runs_G) - len(law.free_params(known_floor))
    if not noise or misfit < 1 or repeats.variance < EXACT**2:
        return None
    # the law is the same for all of a group, so the group's mean residual is its misfit
    f = float(np.sum(repeats.runs_G * repeats.mean_G**2)) / misfit / repeats.variance
    return LackOfFit(f, float(fdtrc(misfit, noise, f)), misfit, noise)


@dataclass(frozen=True)
class _Repeats:
    """The values of runs, grouped by equal points."""

    runs_G: np.ndarray
    mean_G: np.ndarray
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
        return cls(runs_G, mean_G, float(np.sum((value_U - mean_G[group_U]) ** 2)), len(value_U) - len(runs_G))


def _seed(table: RunTable) -> np.ndarray:
    """Returns [R] integers, equal for rows of one seed, or of one cluster where the seed is not known."""
    name = table.columns.seed_column
    seeds = [None] * len(table) if name is None else table.frame[name].to_list()
    return numbered(
        ("cluster", str(cluster)) if seed is None else ("seed", repr(seed))
        for seed, cluster in zip(seeds, table.cluster, strict=True)
    )
