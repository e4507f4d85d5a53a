"""How long does a Chinchilla fit take against the usual one, a grid of L-BFGS-B starts in scipy, and which is lower?

    python benchmarks/fit.py

Both minimise the same sum of Huber losses (delta 1e-3) of log residuals on 240 planted runs with 1 % of noise. The
grid is that of Hoffmann et al. 2203.15556, 4,500 starts; scipy gets the exact gradient. A random part of the grid is
run and its time scaled up to all of it. Neither side includes a bootstrap. Above 1 `scaling.fit` is faster.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import polars as pl
import scipy.optimize
from _bench import in_turns, ratio, report, significant

import scaling
from scaling.minimize import Objective

PLANTED = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
DELTA = 1e-3
GRID = list(
    itertools.product(
        np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5),
        np.arange(0, 2.5, 0.5),
    )
)  # fmt: skip
STARTS = 90
RUNS = 3


def main() -> None:
    table = planted_table()
    log_n, log_d, log_loss = np.log(table.n), np.log(table.d), np.log(table.loss)
    starts = [GRID[i] for i in np.random.default_rng(0).permutation(len(GRID))[:STARTS]]
    minimize = partial(
        scipy.optimize.minimize, huber_of_logs, args=(log_n, log_d, log_loss), jac=True, method="L-BFGS-B"
    )
    found: dict[str, list[float]] = {}

    def ours() -> None:
        fit = scaling.fit(table, "chinchilla", delta=DELTA, bootstrap=0, heldout=False)
        found["fit"] = [huber_total(np.log(fit.predict(table.n, table.d)[0]) - log_loss)]

    def grid() -> None:
        found["grid"] = [float(minimize(start).fun) for start in starts]

    fit_seconds, part_seconds = in_turns(RUNS, ours, grid, warm_up=False)
    grid_seconds = [seconds * len(GRID) / STARTS for seconds in part_seconds]
    best, lowest = min(found["grid"]), found["fit"][0]
    report(
        "Chinchilla fit against scipy's L-BFGS-B from a grid of starts",
        "seconds of 4,500 scipy starts (scaled up from starts_run) / seconds of scaling.fit",
        **ratio(grid_seconds, fit_seconds),
        fit_seconds=significant(float(np.median(fit_seconds))),
        grid_seconds_scaled=significant(float(np.median(grid_seconds))),
        starts=len(GRID),
        starts_run=STARTS,
        objective_fit=lowest,
        objective_best_start=best,
        starts_within_1e_6_of_fit=sum(value <= lowest * (1 + 1e-6) for value in found["grid"]),
        rows=len(table),
        runs=RUNS,
        scipy_version=scipy.__version__,
    )


def planted_table() -> scaling.RunTable:
    rng = np.random.default_rng(1)
    n, d = (np.exp(rng.uniform(*np.log(ends), 240)) for ends in ((5e7, 1.5e10), (5e8, 3e11)))
    loss = PLANTED["E"] + PLANTED["A"] * n ** -PLANTED["alpha"] + PLANTED["B"] * d ** -PLANTED["beta"]
    frame = pl.DataFrame({"n": n, "d": d, "loss": loss * np.exp(0.01 * rng.standard_normal(240))})
    return scaling.table.from_frame(frame, scaling.Columns(n="n", d="d", loss="loss"), source="planted")


def huber_total(residual_R: np.ndarray) -> float:
    return float(Objective("huber", DELTA).rho(residual_R)[0].sum())


def huber_of_logs(
    theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray
) -> tuple[float, np.ndarray]:
    """Objective and gradient in (a, b, e, alpha, beta): log loss = logsumexp(a - alpha log N, b - beta log D, e)."""
    a, b, e, alpha, beta = theta
    terms_3R = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top_R = terms_3R.max(axis=0)
    exp_3R = np.exp(terms_3R - top_R)
    sum_R = exp_3R.sum(axis=0)
    rho_R, slope_R, _ = Objective("huber", DELTA).rho(top_R + np.log(sum_R) - log_loss)
    pull_3R = exp_3R / sum_R * slope_R
    to_a, to_b, to_e = pull_3R.sum(axis=1)
    return float(rho_R.sum()), np.array([to_a, to_b, to_e, -(pull_3R[0] @ log_n), -(pull_3R[1] @ log_d)])


if __name__ == "__main__":
    main()
