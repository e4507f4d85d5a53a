"""How well is the largest run predicted from a few per cent of a pool's cost, with chosen and with random runs?

    python benchmarks/pool.py FARSEER_TRAIN.parquet FARSEER_TEST.parquet

The pool has columns N, D and loss, as ScaleBench's table of the Farseer runs (arXiv 2604.22753, CC BY 4.0) has. In each
of five seeds a random fifth of the pool is taken away, a set of runs is bought for 1, 5 and 10 % of the pool's FLOPs, and
the law (gamma, the one whose form holds there) is fitted to it. R2 is that of the loss of the test runs. Chosen sets spend
a quarter of the budget on typical parameters (D-optimal) and the rest on the law that these runs gave. One JSON line for
each way and share: R2 of each seed, null where the fit was refused. It takes minutes.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl

import scaling
from scaling.design.assumption import SIGMA_TYPICAL, Assumption, assume
from scaling.design.pool import Criterion, choose
from scaling.errors import InputError, Refusal
from scaling.laws import registry

LAW, COLUMNS = "gamma", scaling.Columns(n="N", d="D", loss="loss")
SHARES, SEEDS, KEPT, FIRST = (0.01, 0.05, 0.10), 5, 0.8, 0.25
WAYS = ("random", "d", "v", "v at the targets")
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


def chosen_rows(frame: pl.DataFrame, budget: float, way: str, test: pl.DataFrame) -> list[int]:
    """Chooses in two rounds: by typical parameters, then by the law that the first runs gave."""
    pool = points_of(frame)
    typical = Assumption(assume(registry.by_name(LAW), None, pool), SIGMA_TYPICAL, "typical")
    first = list(choose(typical, pool, FIRST * budget, Criterion("d")).rows)
    try:
        assumed = Assumption(fit(frame[first]), SIGMA_TYPICAL, "the first runs")
    except Refusal:
        assumed = typical
    left = budget - flops_of(frame)[first].sum()
    rest = np.setdiff1d(np.arange(len(frame)), first)
    criterion = Criterion("d" if way == "d" else "v", targets=points_of(test) if way == "v at the targets" else None)
    made, candidates = ({axis: x[at] for axis, x in pool.items()} for at in (first, rest))
    try:
        second = choose(assumed, candidates, left, criterion, made=made).rows
    except InputError:  # the first runs left less than the cheapest run costs
        return first
    return first + rest[list(second)].tolist()


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
        for way in WAYS:
            scores, counts = [], []
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, 0])
                frame = whole[np.sort(rng.permutation(len(whole))[: int(KEPT * len(whole))])]
                rows = random_rows(frame, budget, rng) if way == "random" else chosen_rows(frame, budget, way, test)
                scores.append(r2(frame[rows], test))
                counts.append(len(rows))
            print(json.dumps({"way": way, "share": share, "r2": scores, "runs": counts}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
