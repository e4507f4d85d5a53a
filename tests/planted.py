"""Makes laws with known parameters and tables from them, for the tests of budgets: C = 6 N D."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from scaling.fitting.fitted import FittedLaw
from scaling.laws import registry
from scaling.table.run_table import Columns, RunTable, from_frame

CENTRE = {"n": 1e8, "d": 2e9, "u": 2e9}
RANGES = {"n": (1e7, 1e9), "d": (2e8, 2e10), "u": (2e8, 2e10), "c": (6 * 1e7 * 2e8, 6 * 1e9 * 2e10)}
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
BUDGETS = np.geomspace(1e17, 1e20, 5)


def planted(law: str = "chinchilla", **natural: float) -> FittedLaw:
    """Returns a fit of a law with parameters as its formula writes them (HOFFMANN by default), without a cloud of
    draws.
    """
    form = registry.by_name(law)
    values = {name: HOFFMANN.get(name, 1.0) for name in form.params} | natural
    centre = {axis: CENTRE[axis] for axis in form.axes}
    theta_P = registry.from_natural(form, values, centre, None)
    return FittedLaw(form, theta_P, np.empty((0, len(theta_P))), centre, None, 6.0, RANGES, ())


def with_cloud(law: FittedLaw, draws: list[FittedLaw]) -> FittedLaw:
    return dataclasses.replace(law, cloud_SP=np.stack([draw.theta_P for draw in draws]))


def table_of(n, d, loss, **columns) -> RunTable:
    frame = pl.DataFrame({"n": n, "d": d, "loss": loss, **columns})
    return from_frame(frame, Columns(loss="loss", n="n", d="d", cluster="cluster" if "cluster" in columns else None))


def isoflop_grid(
    law: FittedLaw, budgets=BUDGETS, half_width: float = 1.5, sizes: int = 7, off_centre=0.0, noise: float = 0.0
) -> RunTable:
    """Returns sizes around the best N of each budget: `off_centre` (one, or one a budget) and `half_width` are in
    log N.
    """
    from scaling.compute.optima import optima

    rng = np.random.default_rng(0)
    log_n_B = optima(law, budgets).log_n_SB[0] + off_centre
    n = np.exp(log_n_B[:, None] + np.linspace(-half_width, half_width, sizes)).ravel()
    d = np.repeat(budgets, sizes) / (6 * n)
    loss = law.loss_at({"n": n, "d": d})[0] * np.exp(noise * rng.normal(size=len(n)))
    return table_of(n, d, loss)
