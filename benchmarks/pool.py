"""Predicts the largest runs from a few per cent of a pool's cost, with chosen and with random runs.

    python benchmarks/pool.py FARSEER_TRAIN.parquet FARSEER_TEST.parquet

The pool has columns N, D and loss, as ScaleBench's table of the Farseer runs (arXiv 2604.22753, CC BY 4.0) has. In
each of five seeds a random fifth of the pool is taken away, a set of runs is bought for 1, 5 and 10 % of the pool's
FLOPs, and the law (gamma, the one whose form holds there) is fitted to it. R2 is that of the loss of the test runs.
Sets are chosen before any loss is known, by typical parameters. One JSON line for each way and share: R2 of each
seed, null where the fit was refused. It takes minutes.
"""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

import numpy as np
import polars as pl

import scaling
from scaling.design.assumption import SIGMA_TYPICAL, Assumption, assume
from scaling.design.pool import MISFIT, Criterion, Kind, choose
from scaling.errors import Refusal
from scaling.laws import registry

LAW, COLUMNS = "gamma", scaling.Columns(n="N", d="D", loss="loss")
SHARES, SEEDS, KEPT = (0.01, 0.05, 0.10), 5, 0.8


class Way(NamedTuple):
    kind: Kind
    at_targets: bool
    misfit: float


WAYS = {
    "random": None,
    "d": Way("d", False, MISFIT),
    "v": Way("v", False, MISFIT),
    "v at the targets": Way("v", True, MISFIT),
    "v at the targets, the law taken for exact": Way("v", True, 0.0),
    "v at the targets, half the misfit": Way("v", True, MISFIT / 2),
}
USAGE_ERROR = 2


def points_of(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    return {"n": frame["N"].to_numpy(), "d": frame["D"].to_numpy()}


def flops_of(frame: pl.DataFrame) -> np.ndarray:
    return 6 * frame["N"].to_numpy() * frame["D"].to_numpy()


def random_rows(frame: pl.DataFrame, budget: float, rng: np.random.Generator) -> list[int]:
    """Takes runs in random order, each that the rest of the budget pays."""
    flops, left, rows = flops_of(frame), budget, []
    for m in rng.permutation(len(frame)):
        if flops[m] <= left:
            left -= flops[m]
            rows.append(int(m))
    return rows


def chosen_rows(frame: pl.DataFrame, budget: float, way: Way, test: pl.DataFrame) -> list[int]:
    """Chooses by typical parameters: nothing of the losses is known."""
    pool = points_of(frame)
    typical = Assumption(assume(registry.by_name(LAW), None, pool), SIGMA_TYPICAL, "typical")
    criterion = Criterion(way.kind, targets=points_of(test) if way.at_targets else None)
    return list(choose(typical, pool, budget, criterion, misfit=way.misfit).rows)


def fit(frame: pl.DataFrame) -> scaling.Fit:
    return scaling.fit(frame, law=LAW, columns=COLUMNS, bootstrap=0, full=False)


def r2(frame: pl.DataFrame, test: pl.DataFrame) -> float | None:
    try:
        predicted = fit(frame).loss_at(points_of(test))[0]
    except Refusal:
        return None
    seen = test["loss"].to_numpy()
    return float(1 - ((predicted - seen) ** 2).sum() / ((seen - seen.mean()) ** 2).sum())


def main(paths: list[str]) -> int:
    if len(paths) != 2:
        print(__doc__, file=sys.stderr)
        return USAGE_ERROR
    whole, test = (pl.read_parquet(path) for path in paths)
    print(json.dumps({"way": "the whole pool", "share": 1.0, "r2": [r2(whole, test)], "runs": [len(whole)]}))
    for share in SHARES:
        budget = share * flops_of(whole).sum()
        for name, way in WAYS.items():
            scores, counts = [], []
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, 0])
                frame = whole[np.sort(rng.permutation(len(whole))[: int(KEPT * len(whole))])]
                rows = random_rows(frame, budget, rng) if way is None else chosen_rows(frame, budget, way, test)
                scores.append(r2(frame[rows], test))
                counts.append(len(rows))
            print(json.dumps({"way": name, "share": share, "r2": scores, "runs": counts}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
