"""Measures how often a law is called a misfit: where the runs follow it, and where they do not.

    python benchmarks/misfit.py [--tables 200] [--seed 0]

It makes tables of runs and judges a law by them, without intervals. It prints a line for each kind of table and each
noise. The thresholds of `scaling.fitting.misfit` come from it: of the tables that follow their law at most 5 % should
be called misfits, and of those of another law at least 90 %. Each table draws its own parameters. Expect half a second
for a table on one core, so about an hour for all; --tables 20 takes five minutes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from _bench import report, significant

from scaling.errors import Refusal
from scaling.fitting.forms import Forms, compare_forms
from scaling.fitting.heldout import predict_heldout
from scaling.fitting.isoflop_gap import isoflop_gap
from scaling.fitting.misfit import UNSURE, Misfit, judge
from scaling.fitting.noise import lack_of_fit, seed_noise
from scaling.fitting.problem import Problem
from scaling.fitting.trend import shift, trend
from scaling.laws.registry import LAWS
from scaling.table import checks
from scaling.table.run_table import Columns, from_frame

Points = dict[str, np.ndarray]
Noise = Callable[[np.random.Generator, int], np.ndarray]


def gaussian(sigma: float) -> Noise:
    return lambda random, size: sigma * random.normal(size=size)


def growing(random: np.random.Generator, size: int) -> np.ndarray:
    """Returns noise from .3 % for the first run to 1.5 % for the last."""
    return 0.01 * (0.3 + 1.2 * (np.arange(size) / size) ** 3) * random.normal(size=size)


def falling(random: np.random.Generator, size: int) -> np.ndarray:
    """Returns noise from 1 % for the first run to .1 % for the last."""
    return 0.01 * 10 ** -(np.arange(size) / size) * random.normal(size=size)


NULL_NOISES: dict[str, Noise] = {
    ".3 %": gaussian(0.003),
    "1 %": gaussian(0.01),
    ".3 % of Student's t, 3 dof": lambda random, size: 0.003 * random.standard_t(3, size=size),
    "growing": growing,
    "falling": falling,
}
"""The noise of the log loss. No threshold may depend on its law, nor on the same size everywhere."""
NOISES: dict[str, Noise] = {f"{sigma:.1%}": gaussian(sigma) for sigma in (0.001, 0.003, 0.01, 0.02, 0.03)}


@dataclass(frozen=True)
class Kind:
    """A way to make tables."""

    law: str
    """The law that is fitted."""
    points: Callable[[], Points]
    loss: Callable[[Points, np.random.Generator], np.ndarray]


def grid() -> Points:
    """Returns seven N by six D."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e7, 1e10, 6)))
    return {"n": n, "d": d}


def isoflop() -> Points:
    """Returns six budgets, with seven sizes around N = 0.1 (N D)^0.46."""
    nd = np.geomspace(1e14, 1e19, 6)
    n = (0.1 * nd[:, None] ** 0.46 * 10 * np.geomspace(1 / 6, 6, 7)).ravel()
    return {"n": n, "d": np.repeat(nd, 7) / n}


def line() -> Points:
    """Returns 24 D over five decades."""
    return {"d": np.geomspace(1e4, 1e9, 24)}


def repeated_line() -> Points:
    """Returns seven D with three seeds."""
    return {"d": np.repeat(np.geomspace(3e4, 3e7, 7), 3)}


def repeated_end() -> Points:
    """Returns 14 D, the three largest with four seeds."""
    return {"d": np.sort(np.append(d := np.geomspace(1e4, 1e8, 14), np.repeat(d[-3:], 3)))}


def small_grid() -> Points:
    """Returns six N by six D."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 3e8, 6), np.geomspace(2e7, 2e10, 6)))
    return {"n": n, "d": d}


def chinchilla(x: Points, random: np.random.Generator) -> np.ndarray:
    alpha, beta = random.uniform(0.25, 0.45, 2)
    return 1.7 + 400 * 1e6**-0.34 * (x["n"] / 1e6) ** -alpha + 900 * 1e7**-0.29 * (x["d"] / 1e7) ** -beta


def power_floor(x: Points, random: np.random.Generator) -> np.ndarray:
    return random.uniform(0.2, 1) + (x["d"] / 3e4) ** -random.uniform(0.2, 0.6)


def exponential(x: Points, random: np.random.Generator) -> np.ndarray:
    return 1 + 2 * np.exp(-x["d"] / 10 ** random.uniform(7, 8))


def sigmoid(x: Points, random: np.random.Generator) -> np.ndarray:
    middle, steepness = 10 ** random.uniform(6, 7), random.uniform(1, 2)
    return 1 + 2 / (1 + (x["d"] / middle) ** steepness)


def broken(x: Points, random: np.random.Generator) -> np.ndarray:
    at, more = 10 ** random.uniform(6, 7), random.uniform(0.3, 0.6)
    return 0.5 + 6 * x["d"] ** -0.08 * (1 + (x["d"] / at) ** 2.0) ** (-more / 2)


def gamma(x: Points, random: np.random.Generator) -> np.ndarray:
    g = random.uniform(0.35, 0.45)
    parts = (400 / x["n"] ** 0.34) ** (1 / g) + (900 / x["d"] ** 0.3) ** (1 / g)
    return 1.7 + parts**g


FOLLOW = {
    "grid": (Kind("chinchilla", grid, chinchilla), NULL_NOISES),
    "IsoFLOP": (Kind("chinchilla", isoflop, chinchilla), NULL_NOISES),
    "D with seeds": (Kind("power_floor", repeated_line, power_floor), NULL_NOISES),
    "D with seeds at the end": (Kind("power_floor", repeated_end, power_floor), NULL_NOISES),
}
MISFIT = {
    "exponential": (Kind("power_floor", line, exponential), NOISES),
    "sigmoid": (Kind("power_floor", line, sigmoid), NOISES),
    "broken": (Kind("power_floor", line, broken), NOISES),
    "gamma of about .4": (Kind("chinchilla", small_grid, gamma), NOISES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200, help="the number of tables in each row")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all tables")
    options = parser.parse_args()
    random, begin = np.random.default_rng(options.seed), time.perf_counter()
    for expected, kinds in (("follows", FOLLOW), ("misfits", MISFIT)):
        for name, (kind, noises) in kinds.items():
            for noise_name, noise in noises.items():
                found = [one for _ in range(options.tables) if (one := judged(kind, noise, random)) is not None]
                verdicts = Counter(one.verdict for one in found)
                report(
                    f"{name}, noise {noise_name}: is {kind.law} called a misfit?",
                    "tables called misfits / tables",
                    ratio=significant(verdicts["misfits"] / len(found)),
                    wanted="at most .05" if expected == "follows" else "at least .9",
                    tables=len(found),
                    refused=options.tables - len(found),
                    by_check=dict(Counter(e.check for one in found for e in one.evidence if e.misfits)),
                    seconds=significant(time.perf_counter() - begin),
                )


def judged(kind: Kind, noise: Noise, random: np.random.Generator) -> Misfit | None:
    """Judges one table as `scaling.fit` does, without the parts of a fit that do not enter the verdict.

    The other forms, which take most of the time, are fitted only where they can change the verdict. Returns None where
    the table is refused.
    """
    points = kind.points()
    loss = kind.loss(points, random) * np.exp(noise(random, len(next(iter(points.values())))))
    columns = Columns(loss="loss", d="d", n="n" if "n" in points else None)
    table, law = from_frame(pl.DataFrame({"loss": loss} | points), columns), LAWS[kind.law]
    try:
        checks.refuse(table, law, None)
        problem = Problem.of(table, law, None)
        goal, _ = problem.adaptive()
        theta_P = problem.minima(goal).theta_SP[0]
    except Refusal:
        return None
    held = predict_heldout(table, law, goal, None, bootstrap=0, seed=0, warnings=[])
    trended = trend(problem, theta_P, table.cluster)
    shifted = shift(problem, theta_P, table.cluster, held.held_R) if held.runs else None
    gap = isoflop_gap(table, problem, theta_P)
    repeats = lack_of_fit(problem, theta_P, table)
    is_open = any(one is not None and one.p_value <= UNSURE for one in (trended, shifted))

    def verdict(forms: Forms | None) -> Misfit:
        return judge(
            law,
            trend=trended,
            repeats=repeats,
            noise=seed_noise(table, law),
            held=held.runs,
            shift=shifted,
            forms=forms,
            influences=(),
            others=(),
            isoflop=gap,
        )

    misfit = verdict(None)
    if misfit.verdict != "misfits" and is_open:
        misfit = verdict(compare_forms(table, law, goal, None))
    return misfit


if __name__ == "__main__":
    main()
