"""Writes laws with known parameters as their papers do, and makes tables of runs from them.

Letters: R rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from scaling.fitting.problem import Problem, centre_of
from scaling.laws import registry
from scaling.table.run_table import Columns, RunTable, from_frame

Points = dict[str, np.ndarray]


def two_terms(x: Points, A, B, alpha, beta, E=0.0) -> np.ndarray:
    return E + A / x["n"] ** alpha + B / x["d"] ** beta


def repeated(x: Points, A, B, E, alpha, beta, R_N, R_D) -> np.ndarray:
    """2305.16264, eqs. 5 to 7, with G and the size that is best for U as in its appendix A."""
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    base = np.minimum(G * (x["u"] * G) ** (beta / alpha), x["n"])

    def worth(unique, seen, decay):
        return unique + unique * decay * (1 - np.exp(-(seen / unique - 1) / decay))

    return two_terms({"n": worth(base, x["n"], R_N), "d": worth(x["u"], x["d"], R_D)}, A, B, alpha, beta, E)


FORMULA: dict[str, Callable[..., np.ndarray]] = {
    "power": lambda x, A, beta: A / x["d"] ** beta,
    "power_floor": lambda x, A, beta, E: E + A / x["d"] ** beta,
    "broken": lambda x, A, beta, c, D_b, f, E: E + A * x["d"] ** -beta * (1 + (x["d"] / D_b) ** (1 / f)) ** (-c * f),
    "chinchilla": two_terms,
    "chinchilla_no_floor": two_terms,
    "tied": lambda x, A, B, alpha, E: two_terms(x, A, B, alpha, alpha, E),
    "gamma": lambda x, A, B, alpha, beta, gamma, E: (
        E + ((A / x["n"] ** alpha) ** (1 / gamma) + (B / x["d"] ** beta) ** (1 / gamma)) ** gamma
    ),
    # (2001.08361, eq. 1.5), with its N_c and D_c from A and B
    "kaplan": lambda x, A, B, alpha, beta: (
        ((A ** (1 / alpha) / x["n"]) ** (alpha / beta) + B ** (1 / beta) / x["d"]) ** beta
    ),
    "repeated": repeated,
    "metric_sigmoid": lambda x, M_max, k, L_0: M_max / (1 + np.exp(k * (x["l"] - L_0))),
    "metric_chance": lambda x, M_0, S, k, L_0: M_0 + (1 - M_0) * S / (1 + np.exp(k * (x["l"] - L_0))),
    "shifted": lambda x, A, beta, D_0, E: E + A / (x["d"] + D_0) ** beta,
    "data_exponent": lambda x, A, alpha, B, kappa, beta, delta, E: (
        E + A / x["n"] ** alpha + B / (x["n"] ** kappa * x["d"] ** (beta * x["n"] ** delta))
    ),
    "sparse": lambda x, A, A_s, B, E, alpha, rho, beta: (
        E + (A + A_s * x["s"] ** rho) / x["n"] ** alpha + B / x["d"] ** beta
    ),
    "metric_exponential": lambda x, M_0, M_1, k: M_0 + M_1 * np.exp(-k * x["l"]),
}
SURFACE = {"A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.29}
PLANTED: dict[str, dict[str, float]] = {
    "power": {"A": 30.0, "beta": 0.17},
    "power_floor": {"A": 30.0, "beta": 0.37, "E": 0.37},
    "broken": {"A": 12.0, "beta": 0.1, "c": 0.4, "D_b": 3e6, "f": 0.5, "E": 0.3},
    "chinchilla": SURFACE | {"E": 1.7},
    "chinchilla_no_floor": SURFACE,
    "tied": {"A": 300.0, "B": 900.0, "alpha": 0.31, "E": 1.7},
    "gamma": SURFACE | {"gamma": 0.6, "E": 1.7},
    "kaplan": {"A": 8.0, "B": 6.0, "alpha": 0.09, "beta": 0.11},
    "repeated": SURFACE | {"R_N": 4.0, "R_D": 12.0, "E": 1.7},
    "metric_sigmoid": {"M_max": 0.8, "k": 2.5, "L_0": 2.4},
    "metric_chance": {"M_0": 0.25, "S": 0.8, "k": 6.0, "L_0": 2.4},
    "shifted": {"A": 30.0, "beta": 0.37, "D_0": 2e5, "E": 0.37},
    "data_exponent": SURFACE | {"beta": 0.6, "kappa": 0.1, "delta": -0.04, "E": 1.7},
    "sparse": SURFACE | {"A_s": 300.0, "rho": 0.8, "E": 1.7},
    "metric_exponential": {"M_0": 0.05, "M_1": 4.0, "k": 1.3},
}
"""Maps each law to one point, with parameters as the formula writes them."""
FLOORED = tuple(name for name, law in registry.LAWS.items() if law.has_floor)


def points(law: str) -> Points:
    """Returns seven N by seven D over three decades each (with "u" five by five, new and repeated), or 24 of one
    axis.
    """
    axes = registry.LAWS[law].axes
    if axes == ("d",):
        return {"d": np.geomspace(1e4, 1e9, 24)}
    if axes == ("l",):
        return {"l": np.linspace(1.5, 3.5, 24)}
    third, steps = (np.array([1.0, 6.0, 30.0]), 5) if {"u", "s"} & set(axes) else (np.ones(1), 7)
    n, d, e = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, steps), np.geomspace(1e7, 1e10, steps), third))
    x = {"n": n, "d": d, "u": d / e, "s": 1 / e}
    return {axis: x[axis] for axis in axes}


def exact(law: str, x: Points | None = None, **changed: float) -> np.ndarray:
    """Returns the planted law's response at `x`, [R]."""
    return FORMULA[law](points(law) if x is None else x, **PLANTED[law] | changed)


def noise(rows: int, sigma: float, seed: int) -> np.ndarray:
    """Returns log-normal factors [R]."""
    return np.exp(sigma * np.random.default_rng(seed).normal(size=rows))


def planted(law: str, sigma: float = 0.0, seed: int = 0, x: Points | None = None, **changed: float) -> RunTable:
    """Returns a table of the planted law with noise of `sigma` nats on its log response."""
    x = points(law) if x is None else x
    y = exact(law, x, **changed)
    y = y * noise(len(y), sigma, seed)
    if registry.LAWS[law].response == "metric":
        return table(x["l"], metric=y)
    return table(y, **x)


def table(
    loss: np.ndarray, *, d=None, n=None, u=None, s=None, metric=None, cluster=None, drop_worst: int = 0
) -> RunTable:
    """Returns a RunTable of arrays [R]; each row has a seed of its own."""
    given = {"loss": loss, "d": d, "n": n, "unique": u, "density": s, "metric": metric, "cluster": cluster}
    named = {name: name for name, values in given.items() if values is not None}
    frame = pl.DataFrame({name: given[name] for name in named} | {"seed": np.arange(len(loss))})
    return from_frame(frame, Columns(**named), drop_worst)


def line(floor: float = 0.37, sigma: float = 0.0, seed: int = 0, sizes: int = 6, repeats: int = 3) -> RunTable:
    """Returns runs of L = floor + 30 D^-0.37 over two and a half decades of D, each D with some seeds."""
    d = np.repeat(np.geomspace(3e4, 1e7, sizes), repeats)
    return planted("power_floor", sigma, seed, {"d": d}, E=floor)


def problem_of(runs: RunTable, law: str, known_floor: float | None = None) -> Problem:
    return Problem.of(runs, registry.LAWS[law], known_floor)


def truth(
    law: str, x: Points, known_floor: float | None = None, **changed: float
) -> tuple[dict[str, float], np.ndarray]:
    """Returns the centre of `x`, and the planted parameters as theta [P] around it."""
    values = PLANTED[law] | changed
    if known_floor is not None:
        values = {name: value for name, value in values.items() if name != "E"}
    centre = centre_of(x)
    return centre, registry.from_natural(registry.LAWS[law], values, centre, known_floor)
