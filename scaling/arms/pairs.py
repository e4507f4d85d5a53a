"""Which runs of different arms belong together, and the bootstrap that draws them together.

Runs of two arms with the same seed at the same point have had the same data in the same order, so much of their noise
is the same. Drawn together, it leaves the difference between the arms.

Letters: S draws, R rows of all arms.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.arms.joint import Arm
from scaling.table.columns import numbered


@dataclass(frozen=True)
class Pairs:
    """The clusters that the bootstrap draws whole."""

    cluster_R: np.ndarray
    """[R] integers. Rows of several arms with one number are drawn together."""
    stratum_R: np.ndarray
    """[R] integers, one for each set of arms that a cluster has rows of. Each set is resampled within itself, so that
    no draw is without an arm."""
    paired: int
    """The number of clusters with rows of every arm."""
    clusters: int

    def __str__(self) -> str:
        if not self.paired:
            return "no runs are paired: no seed of a run at one point is known in several arms"
        return f"{self.paired} of {self.clusters} groups have a run of every arm with the same seed at the same point"


def pairs(arms: Sequence[Arm]) -> Pairs:
    """Pairs the runs of the arms by their seed and their point on the axes of the law.

    Rows without a seed, and all rows of a table whose runs have several rows (--cluster), stay in the clusters that
    their own table has.
    """
    keys = [key for arm in arms for key in _keys(arm)]
    cluster_R = numbered(keys)
    arm_R = np.repeat(np.arange(len(arms)), [len(arm.table) for arm in arms])
    members: dict[int, set[int]] = {}
    for cluster, arm in zip(cluster_R.tolist(), arm_R.tolist(), strict=True):
        members.setdefault(cluster, set()).add(arm)
    stratum_R = numbered(tuple(sorted(members[cluster])) for cluster in cluster_R.tolist())
    return Pairs(cluster_R, stratum_R, sum(len(found) == len(arms) for found in members.values()), len(members))


def _keys(arm: Arm) -> list[Hashable]:
    table = arm.table
    alone: list[Hashable] = [(arm.name, cluster) for cluster in table.cluster.tolist()]
    if table.columns.cluster is not None or table.columns.seed_column is None:
        return alone
    points = np.stack([*arm.problem.points.values()], axis=1).tolist()
    seeds = table.frame[table.columns.seed_column].to_list()
    return [
        own if seed is None else ("pair", repr(seed), tuple(point))
        for own, seed, point in zip(alone, seeds, points, strict=True)
    ]


def draw(found: Pairs, draws: int, seed: int) -> np.ndarray:
    """Returns [S, R] weights: the number of times that each row's cluster was drawn, with replacement."""
    generator = np.random.default_rng(seed)
    weight_SR = np.zeros((draws, len(found.cluster_R)), np.uint16)
    for stratum in np.unique(found.stratum_R):
        rows = np.flatnonzero(found.stratum_R == stratum)
        _, member = np.unique(found.cluster_R[rows], return_inverse=True)
        clusters = int(member.max()) + 1
        chosen_SC = generator.integers(clusters, size=(draws, clusters))
        for s in range(draws):
            weight_SR[s, rows] = np.bincount(chosen_SC[s], minlength=clusters)[member]
    return weight_SR
