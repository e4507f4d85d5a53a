"""Makes tables of planted runs for the tests of the report."""

import functools
import json

import numpy as np
import polars as pl

import scaling
from scaling.laws.theory import Theory
from scaling.table.run_table import Columns, RunTable, from_frame

THEORY = Theory(exponent=1 / 3, floor=0.37, curve=((1e3, 0.1), (1e5, 0.02)), note="planted <1/3>")
COLUMNS = Columns(loss="loss", d="d", n="n", baseline="base", floor_column="floor")
OF_BOTH = Columns(loss="loss", d="d", n="n")
OF_RUNS = {"loss_against_data", "excess_against_data", "loss_against_size", "residuals", "residuals_against_size"} | {
    "residuals_against_predicted", "residuals_quantiles",
}  # fmt: skip
"""Lists the figures of a law of N and D that show runs."""


def runs(count: int = 18) -> pl.DataFrame:
    """Returns runs at six D by three N with planted beta 1/3, and a failed run."""
    d, n = (x.ravel()[:count] for x in np.meshgrid(np.geomspace(1e3, 3e5, 6), [1e4, 3e4, 1e5]))
    loss = (0.37 + d ** (-1 / 3)) * np.exp(1e-3 * np.random.default_rng(0).normal(size=count))
    good = pl.DataFrame({"run_id": [f"run{i}" for i in range(count)], "d": d, "n": n, "loss": loss})
    good = good.with_columns(status=pl.lit("done"), base=pl.lit(0.6), floor=pl.lit(0.37))
    return pl.concat([good, good[:1].with_columns(run_id=pl.lit("dead"), status=pl.lit("failed"), loss=None)])


def surface(n: np.ndarray, d: np.ndarray) -> pl.DataFrame:
    loss = (1.8 + 40 / n**0.34 + 200 / d**0.36) * np.exp(2e-3 * np.random.default_rng(1).normal(size=len(n)))
    return pl.DataFrame({"run_id": [f"run{i}" for i in range(len(n))], "n": n, "d": d, "loss": loss})


def isoflop_runs() -> pl.DataFrame:
    """Returns four budgets of five sizes; all sizes of the largest budget are above the best."""
    n, d = [], []
    for c in np.geomspace(1e14, 1e17, 4):
        sizes = 0.12 * (c / 6) ** 0.5 * np.exp([0.7, 1.2, 1.7, 2.2, 2.7] if c > 5e16 else [-1.6, -0.8, 0, 0.8, 1.6])
        n, d = [*n, *sizes], [*d, *(c / 6 / sizes)]
    return surface(np.array(n), np.array(d))


def layers_of(chart: dict) -> list[tuple[dict, list[dict]]]:
    """Yields (mark, rows) of every layer in every panel of a chart."""

    def walk(spec: dict, data: dict | None) -> list[tuple[dict, list[dict]]]:
        data = spec.get("data", data)
        if "mark" in spec:
            return [(spec["mark"], json.loads(chart["datasets"][data["name"]]))]
        parts = [part for key in ("layer", "concat", "hconcat") for part in spec.get(key, [])]
        return [layer for part in parts for layer in walk(part, data)]

    return walk(chart, None)


def rows_of(chart: dict) -> list[dict]:
    return [row for _, rows in layers_of(chart) for row in rows]


@functools.cache
def without_floor() -> tuple[RunTable, scaling.Fit]:
    """Returns runs of a power law without a floor, and a fit whose floor is open."""
    table = from_frame(runs().with_columns(loss=pl.col("d") ** -0.3), Columns(loss="loss", d="d"))
    return table, scaling.fit(table, "power_floor", bootstrap=100)
