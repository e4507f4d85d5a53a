"""Do 95 % intervals cover? Simulated tables of planted laws, many for each design and noise; and what widens intervals.

Run the simulation with -m slow -s; it takes three minutes. It prints `coverage/width` of every quantity: percent of the
tables, and the median width over that of an ideal interval, 3.92 standard deviations of the estimates over the tables.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import intervals, sizes_at_centre, widened, widening
from scaling.fitting.minimize import Objective, Solution
from scaling.fitting.problem import Problem, centre_of
from scaling.fitting.profile import profile
from scaling.laws.registry import LAWS, Law, from_natural
from scaling.table.run_table import Columns, RunTable, from_frame

TABLES, DRAWS = 200, 400
PLANTED = {
    "chinchilla": {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29},
    "power_floor": {"A": 30.0, "E": 0.37, "beta": 0.37},
}
FARTHER = 10.0
"""The factor past the largest run at which a prediction is checked, in N D, or in D on the data axis."""


@dataclass(frozen=True)
class Design:
    law: Law
    points: dict[str, np.ndarray]
    cluster: np.ndarray


def grid() -> Design:
    """Returns seven N by six D, with three seeds at the corners."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e7, 1e10, 6)))
    corner = np.isin(n, [n[0], n[-1]]) & np.isin(d, [d[0], d[-1]])
    n, d = (np.repeat(x, np.where(corner, 3, 1)) for x in (n, d))
    return Design(LAWS["chinchilla"], {"n": n, "d": d}, np.arange(len(n)))


def isoflop() -> Design:
    """Returns six budgets, with seven sizes around the best of each."""
    A, B, alpha, beta = (PLANTED["chinchilla"][name] for name in ("A", "B", "alpha", "beta"))
    nd = np.geomspace(1e14, 1e19, 6)
    best = (alpha * A / (beta * B) * nd**beta) ** (1 / (alpha + beta))
    n = (best[:, None] * np.geomspace(1 / 6, 6, 7)).ravel()
    return Design(LAWS["chinchilla"], {"n": n, "d": np.repeat(nd, 7) / n}, np.arange(len(n)))


def data_axis() -> Design:
    """Returns seven D with three seeds."""
    d = np.repeat(np.geomspace(3e4, 3e7, 7), 3)
    return Design(LAWS["power_floor"], {"d": d}, np.arange(len(d)))


def checkpoints() -> Design:
    """Returns seven N by six D, and two earlier checkpoints of each run, which share its noise."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e7, 1e10, 6)))
    points = {"n": np.tile(n, 3), "d": np.concatenate([d, d / 1.6, d / 2.5])}
    return Design(LAWS["chinchilla"], points, np.tile(np.arange(len(n)), 3))


NOISES = {
    "Gaussian .3 %": lambda random, size: 0.003 * random.normal(size=size),
    "Gaussian 1 %": lambda random, size: 0.01 * random.normal(size=size),
    "Student t, 3 dof": lambda random, size: 0.003 * random.standard_t(3, size=size),
}


def growing(random: np.random.Generator, size: int) -> np.ndarray:
    """Returns noise from .3 % for the first run to 1.5 % for the last."""
    return 0.01 * (0.3 + 1.2 * (np.arange(size) / size) ** 3) * random.normal(size=size)


@dataclass(frozen=True)
class Estimate:
    """One table's estimate of one quantity."""

    estimate: float
    bootstrap: tuple[float | None, float | None]
    profile: tuple[float | None, float | None] | None


class FromTruth(Problem):
    """Starts only at the planted law: it finds the minimum of many starts, in a fifth of the time."""

    def minima(self, objective: Objective, **_) -> Solution:
        start_P = from_natural(self.law, PLANTED[self.law.name], self.centre, None)
        return self._distinct(self.minimize(objective, start_P[None]))


def table_of(design: Design, noise, random: np.random.Generator) -> RunTable:
    """Makes one table of the planted law with log-normal noise; rows of one cluster share two thirds of theirs."""
    runs = int(design.cluster.max()) + 1
    noise_R = noise(random, runs)[design.cluster]
    if runs < len(noise_R):
        noise_R = noise_R + noise(random, len(noise_R)) / 3
    loss = planted(design).loss_at(design.points)[0] * np.exp(noise_R)
    columns = Columns(loss="loss", cluster="cluster", **{axis: axis for axis in design.points})
    return from_frame(pl.DataFrame({"loss": loss, "cluster": design.cluster} | design.points), columns)


def planted(design: Design) -> FittedLaw:
    centre = centre_of(design.points)
    theta_P = from_natural(design.law, PLANTED[design.law.name], centre, None)
    return FittedLaw(design.law, theta_P, np.empty((0, len(theta_P))), centre, None, 6.0, {}, ())


def quantities(fitted: FittedLaw) -> dict[str, float]:
    """Returns the parameters as the formula writes them, and the terms of N and D at the centre."""
    at_centre = dict(zip(fitted.free, np.exp(fitted.theta_P), strict=True))
    sizes = {f"{name} at centre": float(at_centre[name]) for name in fitted.law.sizes if name != "E"}
    return {name: float(value[0]) for name, value in fitted.natural().items()} | sizes


def ahead(design: Design) -> dict[str, dict[str, np.ndarray]]:
    """Returns {name: the largest run, and one FARTHER from it}."""
    at = int(np.argmax(np.prod(list(design.points.values()), axis=0)))
    factor = FARTHER ** (1 / len(design.points))
    largest = {axis: x[at : at + 1] for axis, x in design.points.items()}
    return {"largest run": largest, f"{FARTHER:g} times": {axis: x * factor for axis, x in largest.items()}}


def estimates_of(design: Design, table: RunTable, seed: int) -> dict[str, Estimate]:
    """Returns {quantity: this table's estimate}, by the library's own steps."""
    problem = FromTruth.of(table, design.law, None)
    objective, _ = problem.adaptive()
    minima = problem.minima(objective)
    theta_P = minima.theta_SP[0]
    draws_SP = problem.bootstrap(objective, minima, table.cluster, draws=DRAWS, seed=seed, stream=0)
    cloud_SP = widened(problem, theta_P, draws_SP, len(np.unique(table.cluster)))
    walked = profile(problem, objective, theta_P, table.cluster).by_name
    _, interval95, bounds = intervals(problem, theta_P, cloud_SP, walked)
    _, centre95 = sizes_at_centre(problem, theta_P, cloud_SP)
    fitted = dataclasses.replace(planted(design), theta_P=theta_P, cloud_SP=cloud_SP)
    seen = {}
    for name, estimate in quantities(fitted).items():
        bare = name.removesuffix(" at centre")
        if bare == name:
            of_profile = None if name in design.law.sizes and name != "E" else walked[name].interval95
            seen[name] = Estimate(estimate, bounds.get(name) or interval95[name], of_profile)
        else:
            seen[name] = Estimate(estimate, centre95[bare], walked[bare].interval95)
    for name, points in ahead(design).items():
        estimate, low, high = (float(x[0]) for x in fitted.band(points))
        seen[name] = Estimate(estimate, (low, high), None)
    return seen


def simulate(design: Design, noise, stream: int) -> tuple[dict[str, float], dict[str, list[Estimate]]]:
    """Returns ({quantity: its true value}, {quantity: the estimate of each table})."""
    truth = quantities(planted(design))
    truth |= {name: float(planted(design).loss_at(points)[0, 0]) for name, points in ahead(design).items()}
    seen: dict[str, list[Estimate]] = {name: [] for name in truth}
    for seed in range(TABLES):
        random = np.random.default_rng(np.random.SeedSequence([seed, stream]))
        for name, one in estimates_of(design, table_of(design, noise, random), seed).items():
            seen[name].append(one)
    return truth, seen


def coverage(truth: float, intervals95: list[tuple[float | None, float | None]]) -> float:
    """Returns the share of intervals that hold the truth; an end of `None` is open."""
    return float(
        np.mean([(low is None or low <= truth) and (high is None or truth <= high) for low, high in intervals95])
    )


def line(truth: dict[str, float], seen: dict[str, list[Estimate]], method: str) -> str:
    cells = []
    for name, tellings in seen.items():
        ends = [getattr(one, method) for one in tellings]
        if None in ends:
            continue
        width = np.median([np.inf if None in pair else pair[1] - pair[0] for pair in ends])
        ideal = 3.92 * np.std([one.estimate for one in tellings])
        cells.append(f"{name} {100 * coverage(truth[name], ends):.1f}/{width / ideal:.2f}")
    return f"  {method:9s} " + ", ".join(cells)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "noise"),
    [(design, noise) for design in (grid, isoflop, data_axis) for noise in NOISES] + [(checkpoints, "Gaussian .3 %")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_intervals_cover(design, noise):
    truth, seen = simulate(design(), NOISES[noise], list(NOISES).index(noise))
    print(f"\n{design.__name__}, {noise}:", line(truth, seen, "bootstrap"), line(truth, seen, "profile"), sep="\n")
    for name, tellings in seen.items():
        assert 0.90 <= coverage(truth[name], [one.bootstrap for one in tellings]) <= 0.99, name


@pytest.mark.slow
def test_intervals_cover_where_the_noise_grows_and_profiles_do_not():
    truth, seen = simulate(data_axis(), growing, len(NOISES))
    print("\ndata_axis, growing noise:", line(truth, seen, "bootstrap"), line(truth, seen, "profile"), sep="\n")
    for name, tellings in seen.items():
        assert 0.90 <= coverage(truth[name], [one.bootstrap for one in tellings]) <= 0.99, name
    assert coverage(truth["E"], [one.profile for one in seen["E"]]) < 0.90


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("design", [grid, isoflop, data_axis], ids=lambda design: design.__name__)
def test_the_truth_leads_to_the_minimum_of_many_starts(design, noise):
    table = table_of(design(), NOISES[noise], np.random.default_rng(0))
    objective, _ = Problem.of(table, design().law, None).adaptive()
    short, long = (kind.of(table, design().law, None).minima(objective) for kind in (FromTruth, Problem))
    np.testing.assert_allclose(short.theta_SP[0], long.theta_SP[0], rtol=1e-6)


def test_intervals_widen_for_few_runs_alone():
    assert widening(100_000, 5) == pytest.approx(1, abs=1e-4)
    assert widening(1_000, 0) == pytest.approx(1, abs=2e-3)
    factors = [widening(clusters, 5) for clusters in (6, 8, 12, 24, 48, 240)]
    assert sorted(factors, reverse=True) == factors
    # exact for least squares with Gaussian noise: t sqrt(RSS / (G - P)) over 1.96 sqrt(RSS / G)
    assert widening(10, 2) == pytest.approx(2.306004 / 1.959964 * np.sqrt(10 / 8), rel=1e-6)


def drawn(floor: float, copies: int = 1) -> tuple[Problem, np.ndarray, np.ndarray, RunTable]:
    """Returns the point and the bootstrap's draws of a line with 1 % noise and `copies` rows a run."""
    d = np.repeat(np.geomspace(3e4, 3e7, 7), 2)
    loss = (floor + 30 * d**-0.37) * np.exp(0.01 * np.random.default_rng(3).normal(size=len(d)))
    rows = {"d": np.tile(d, copies), "loss": np.tile(loss, copies), "run": np.tile(np.arange(len(d)), copies)}
    table = from_frame(pl.DataFrame(rows), Columns(loss="loss", d="d", cluster="run"))
    problem = Problem.of(table, LAWS["power_floor"], None)
    minima = problem.minima(Objective("ls"))
    draws_SP = problem.bootstrap(Objective("ls"), minima, table.cluster, draws=200, seed=0, stream=0)
    return problem, minima.theta_SP[0], draws_SP, table


@pytest.mark.parametrize("floor", [0.37, 0.0])
def test_widening_moves_curves_by_its_factor(floor):
    problem, theta_P, draws_SP, _ = drawn(floor)
    log_R, draws_SR, cloud_SR = (
        problem.bound.log(theta) for theta in (theta_P[None], draws_SP, widened(problem, theta_P, draws_SP, 14))
    )
    # where the floor cannot be lowered, the nearest law is not the moved curve itself
    miss_S = np.abs(cloud_SR - log_R - widening(14, 3) * (draws_SR - log_R)).max(axis=1)
    assert np.median(miss_S / np.abs(draws_SR - log_R).max(axis=1)) < 0.05


def test_widening_brings_no_floor_back():
    problem, theta_P, draws_SP, _ = drawn(0.0)
    assert problem.at_bound(theta_P[None])["E"][0]
    gone_S = problem.at_bound(draws_SP)["E"][0]
    assert 0.1 < gone_S.mean() < 0.9
    assert problem.at_bound(widened(problem, theta_P, draws_SP, 14))["E"][0][gone_S].mean() > 0.9


def test_no_draws_widen_to_none():
    problem, theta_P, draws_SP, _ = drawn(0.37)
    assert widened(problem, theta_P, draws_SP[:0], 14).shape == (0, 3)


def test_copies_of_a_run_in_its_cluster_change_no_interval():
    ends = []
    for copies in (1, 4):
        problem, theta_P, draws_SP, table = drawn(0.37, copies=copies)
        walked = profile(problem, Objective("ls"), theta_P, table.cluster)
        cloud_SP = widened(problem, theta_P, draws_SP, 14)
        _, interval95, _ = intervals(problem, theta_P, cloud_SP, walked.by_name)
        ends.append([*interval95.values(), *(one.interval95 for one in walked.by_name.values())])
    np.testing.assert_allclose(*ends, rtol=1e-5)
