"""Tables of runs over rates and batches whose best settings follow planted laws."""

from __future__ import annotations

import numpy as np
import polars as pl

RATE = {"factor": 0.6, "n": -0.65, "d": 0.3}
BATCH = {"factor": 0.01, "n": 0.0, "d": 0.45}
SIZES = tuple(np.geomspace(3e7, 1e9, 4))
RATES = tuple(2.0 ** np.arange(-13, -5))
BATCHES = tuple(2.0 ** np.arange(4, 11))
STEEPER = 0.75
"""The third derivative over the second, in the log of the rate."""
DATA = tuple(np.geomspace(2e9, 5e10, 4))


def best(law: dict[str, float], n, d):
    """Returns the planted best setting."""
    return law["factor"] * np.asarray(n, float) ** law["n"] * np.asarray(d, float) ** law["d"]


def table(
    *,
    sizes=SIZES,
    data=DATA,
    rates=RATES,
    batches=BATCHES,
    noise: float = 2e-3,
    scatter: float = 0.05,
    seeds: int = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """Returns runs of every size, amount of data, rate and batch.

    Args:
      sizes: values of N.
      data: values of D.
      rates: the learning rates that are tried in every cell.
      batches: the batches that are tried in every cell; none leaves the batch out of the loss and the table.
      noise: standard deviation of a run's log loss.
      scatter: standard deviation of a cell's best settings around the law, in logs.
      seeds: runs of each.
      seed: seed of the noise.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        for d in data:
            floor = 1.7 + 400 / n**0.34 + 400 / d**0.28
            centre = np.log([best(RATE, n, d), best(BATCH, n, d)]) + scatter * generator.normal(size=2)
            for rate in rates:
                for batch in batches or (None,):
                    x = np.log(rate) - centre[0]
                    y = 0.0 if batch is None else np.log(batch) - centre[1]
                    # like Step Law's grids: a bowl along rate ~ batch, steeper at high rates (there twice as much)
                    bowl = 0.024 * (np.exp(STEEPER * x) - 1 - STEEPER * x) / STEEPER**2
                    bowl += 0.012 * (y**2 - x * y)
                    for each in range(seeds):
                        loss = floor * np.exp(bowl + noise * generator.normal())
                        row = {"params": n, "tokens": d, "lr": rate, "loss": loss, "seed": each}
                        rows.append(row if batch is None else row | {"rows": batch})
    return pl.DataFrame(rows)
