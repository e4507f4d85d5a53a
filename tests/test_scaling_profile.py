"""Tests profiles: textbook intervals where they exist, open ends where the data give no bound, sensible widths."""

import numpy as np
import pytest
from grid import mostly_slow
from planted_laws import exact, line, noise, planted, points, problem_of, table

import scaling
from scaling.errors import Refusal
from scaling.fitting.intervals import intervals
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import Problem
from scaling.fitting.profile import LikelihoodProfile, Profiles, noise_scale, profile
from scaling.laws import registry
from scaling.table.run_table import RunTable

LEAST_SQUARES, HUBER, SMALL_DELTA, LAD = (
    Objective("ls"),
    Objective("huber", 0.0134),
    Objective("huber", 1e-3),
    Objective("lad"),
)
SIXTY = dict(
    zip("nd", (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 10), np.geomspace(1e7, 1e10, 6))), strict=True)
)
"""Returns sixty runs over three decades of N and of D."""


def walked(runs: RunTable, law: str, objective: Objective) -> tuple[Problem, np.ndarray, Profiles]:
    """Returns the problem, its lowest minimum [P] and the profiles around it."""
    problem = problem_of(runs, law)
    theta_P = problem.minima(objective).theta_SP[0]
    return problem, theta_P, profile(problem, objective, theta_P, runs.cluster)


def as_theta(problem: Problem, theta_P: np.ndarray, name: str, ends: tuple[float, float]) -> list[float]:
    """Returns the ends of an interval in the units of theta."""
    if name in problem.law.sizes:
        return [float(np.log(end)) for end in ends]  # of a size the profile is at the centre
    values = registry.natural(problem.law, theta_P[None], problem.centre, None)
    point = {key: float(value[0]) for key, value in values.items()}
    p = problem.free.index(name)
    return [float(registry.from_natural(problem.law, point | {name: end}, problem.centre, None)[p]) for end in ends]


def widths(problem: Problem, theta_P: np.ndarray, profiles: dict[str, LikelihoodProfile]) -> np.ndarray:
    """[P], in theta's units."""
    return np.array([np.ptp(as_theta(problem, theta_P, name, profiles[name].interval95)) for name in problem.free])


def test_of_a_straight_line_it_is_the_textbooks_t_interval():
    from scipy.stats import t

    runs = planted("power", 0.05, seed=7)
    problem, theta_P, found = walked(runs, "power", LEAST_SQUARES)
    R, u = len(runs), np.log(runs.d) - np.log(runs.d).mean()
    spread = np.sqrt((problem.residual(theta_P) ** 2).sum() / (R - 2)) * t.ppf(0.975, R - 2)
    slope_interval = theta_P[1] + np.array([-1, 1]) * spread / np.sqrt((u**2).sum())
    level_interval = theta_P[0] + np.array([-1, 1]) * spread / np.sqrt(R)
    np.testing.assert_allclose(found.by_name["beta"].interval95, slope_interval, rtol=1e-9)
    np.testing.assert_allclose(np.log(found.by_name["A"].interval95), level_interval, rtol=1e-3)


LAWS_WALKED = ["power_floor", "chinchilla", "gamma", "broken", "metric_sigmoid"]


@pytest.mark.parametrize("objective", [LEAST_SQUARES, HUBER], ids=["ls", "huber"])
@pytest.mark.parametrize("law", mostly_slow(LAWS_WALKED, quick=["power_floor", "chinchilla", "metric_sigmoid"]))
def test_an_interval_ends_where_the_refitted_objective_has_risen_to_the_threshold(law, objective):
    from scipy.special import stdtrit

    runs = planted(law, 0.01, seed=1)
    problem, theta_P, found = walked(runs, law, objective)
    P, best = len(theta_P), problem.minimize(objective, theta_P[None]).objective_S[0]
    unit = noise_scale(objective, problem.residual(theta_P), runs.cluster, P) * stdtrit(len(runs) - P, 0.975) ** 2 / 2
    for p, name in enumerate(problem.free):
        of_name = found.by_name[name]
        assert np.all(np.diff(of_name.value_G) > 0)
        for theta in as_theta(problem, theta_P, name, of_name.interval95):
            begin_1P = np.where(np.arange(P) == p, theta, theta_P)[None]
            refit = problem.minimize(objective, begin_1P, fixed_SP=np.arange(P)[None] == p)
            assert (refit.objective_S[0] - best) / unit == pytest.approx(1, rel=0.03), name
            assert refit.theta_SP[0, p] == begin_1P[0, p]


@pytest.mark.parametrize("objective", [LEAST_SQUARES, HUBER, LAD], ids=["ls", "huber", "lad"])
def test_it_holds_the_point_and_grows_with_the_noise(objective):
    x = points("power_floor")
    factor = noise(len(x["d"]), 4e-3, seed=2)
    width = []
    for power in (1, 2):
        runs = table(exact("power_floor", x) * factor**power, **x)
        problem, theta_P, found = walked(runs, "power_floor", Objective(objective.name, objective.delta * power))
        for p, name in enumerate(problem.free):
            low, high = as_theta(problem, theta_P, name, found.by_name[name].interval95)
            assert low < theta_P[p] < high
        width.append(widths(problem, theta_P, found.by_name))
    np.testing.assert_allclose(width[1] / width[0], 2, rtol=0.15 if objective.name != "lad" else 0.25)


def test_other_units_change_only_what_they_must():
    runs = planted("chinchilla", 0.01, seed=3)
    other = table(2 * runs.loss, d=50 * runs.d, n=runs.n / 10)
    _, _, plain = walked(runs, "chinchilla", HUBER)
    _, _, scaled = walked(other, "chinchilla", HUBER)
    for name, factor in {"A": 2, "B": 2, "E": 2, "alpha": 1, "beta": 1}.items():
        ends = np.array(plain.by_name[name].interval95) * factor
        np.testing.assert_allclose(scaled.by_name[name].interval95, ends, rtol=1e-6)


@pytest.mark.parametrize("objective", [LEAST_SQUARES, HUBER, SMALL_DELTA, LAD], ids=["ls", "huber", "small", "lad"])
def test_on_a_good_design_it_is_about_as_wide_as_the_bootstrap(objective):
    runs = planted("chinchilla", 0.01, seed=2, x=SIXTY)
    problem = problem_of(runs, "chinchilla")
    minima = problem.minima(objective)
    theta_P = minima.theta_SP[0]
    found = profile(problem, objective, theta_P, runs.cluster)
    draws = 100 if objective.name == "lad" else 400
    cloud_SP = problem.bootstrap(objective, minima, runs.cluster, draws=draws, seed=0, stream=0)
    # four standard deviations where there are too few draws for percentiles
    spread = 3.92 * cloud_SP.std(axis=0)
    np.testing.assert_allclose(widths(problem, theta_P, found.by_name) / spread, 1, atol=0.35)


def test_rows_that_share_a_cluster_count_as_their_cluster():
    """Three rows a run share most of their noise: the profile is as wide as the cluster bootstrap."""
    rng = np.random.default_rng(5)
    x = {axis: np.repeat(values, 3) for axis, values in SIXTY.items()}
    cluster = np.repeat(np.arange(60), 3)
    loss = exact("chinchilla", x) * np.exp(0.01 * rng.normal(size=60)[cluster] + 0.003 * rng.normal(size=180))
    clustered, bare = table(loss, **x, cluster=cluster), table(loss, **x)
    problem, theta_P, found = walked(clustered, "chinchilla", LEAST_SQUARES)
    _, _, naive = walked(bare, "chinchilla", LEAST_SQUARES)
    minima = problem.minima(LEAST_SQUARES)
    cloud_SP = problem.bootstrap(LEAST_SQUARES, minima, clustered.cluster, draws=300, seed=0, stream=0)
    width = widths(problem, theta_P, found.by_name)
    np.testing.assert_allclose(width / (3.92 * cloud_SP.std(axis=0)), 1, atol=0.35)
    np.testing.assert_allclose(width / widths(problem, theta_P, naive.by_name), np.sqrt(3), rtol=0.15)


@pytest.mark.parametrize("law", ["power_floor", "chinchilla"])
def test_a_floor_of_zero_is_bounded_above_only(law):
    runs = planted(law, 0.01, seed=3, E=0.0)
    for objective in (LEAST_SQUARES, HUBER):
        _, _, found = walked(runs, law, objective)
        assert None in found.by_name["E"].interval95
        low, high = found.by_name["E"].interval95
        assert low is None
        assert 0 < high < 0.1 * runs.loss.min()


def test_an_open_parameter_has_a_bound_for_a_value():
    fit = scaling.fit(line(0.0, 0.01, seed=1), "power_floor", objective="ls", bootstrap=0)
    assert fit.open_intervals == ("E",)
    assert fit.params["E"] is None
    assert fit.interval95["E"] is None
    low, high = fit.bounds["E"]
    assert low is None
    assert high == fit.profile["E"].interval95[1]
    assert fit.describe("E") == f"open: below {high:.4g} (95 %)"
    assert fit.params["beta"] == pytest.approx(0.37, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_data_that_do_not_matter_have_no_exponent(seed):
    runs = planted("chinchilla", 0.01, seed=seed, B=0.0)
    problem, theta_P, found = walked(runs, "chinchilla", LEAST_SQUARES)
    params, _, bounds = intervals(problem, theta_P, np.empty((0, 5)), found.by_name)
    assert params["beta"] is params["B"] is None
    assert {"beta", "B"} <= set(bounds)
    assert params["alpha"] == pytest.approx(0.34, abs=0.02)


def test_where_not_even_a_minimum_is_left_the_law_is_refused():
    """With this noise a power of D near 0 takes the place of the floor, the better the nearer it comes."""
    with pytest.raises(Refusal, match=r"do not determine it\. Fit a law with fewer parameters"):
        problem_of(planted("chinchilla", 0.01, seed=2, B=0.0), "chinchilla").minima(LEAST_SQUARES)


@pytest.mark.slow  # the two tests above are of parameters that are open
def test_without_corner_runs_gamma_is_open():
    """Runs near D = 20 N only do not show where size or data alone binds, and gamma trades with both exponents."""
    n = np.repeat(np.geomspace(1e6, 1e9, 8), 3)
    x = {"n": n, "d": 20 * n * np.tile([0.5, 1.0, 2.0], 8)}
    _, _, found = walked(planted("gamma", 0.01, 1, x), "gamma", LEAST_SQUARES)
    assert None in found.by_name["gamma"].interval95
    _, _, wide = walked(planted("gamma", 0.01, 1), "gamma", LEAST_SQUARES)
    low, high = wide.by_name["gamma"].interval95
    assert low < 0.6 < high


def test_a_profile_that_finds_a_lower_minimum_reports_it():
    runs = planted("broken", 0.05, seed=0)
    problem = problem_of(runs, "broken")
    minima = problem.minima(HUBER)
    assert len(minima.objective_S) > 1
    found = profile(problem, HUBER, minima.theta_SP[1], runs.cluster)
    assert found.lower_P is not None
    lower = problem.minimize(HUBER, found.lower_P[None]).objective_S[0]
    assert lower < minima.objective_S[1]


@pytest.mark.parametrize("objective", [LEAST_SQUARES, HUBER, LAD], ids=["ls", "huber", "lad"])
@pytest.mark.parametrize("law", ["chinchilla", "power_floor"])
def test_what_counts_as_a_minimum_has_no_slope_also_where_a_floor_has_run_to_zero(law, objective):
    """The floor's curvature vanishes with it, and must not drown that of the other parameters."""
    problem = problem_of(planted(law, 0.01, seed=2, E=0.0), law)
    minima = problem.minima(objective)
    best_P, floor = minima.theta_SP[0], problem.free.index("E")

    def rise(shift_P: np.ndarray) -> float:
        return objective.total(problem.residual(best_P + shift_P)[None], np.ones((1, len(problem.response))))[0]

    for p, step in enumerate(1e-4 * np.eye(len(best_P))):
        if p != floor:
            assert rise(step) >= minima.objective_S[0] * (1 - 1e-6), problem.free[p]
            assert rise(-step) >= minima.objective_S[0] * (1 - 1e-6), problem.free[p]
    assert np.exp(best_P[floor]) < 0.1


def test_a_line_without_noise_has_intervals_of_no_width():
    problem, theta_P, found = walked(line(), "power_floor", LEAST_SQUARES)
    assert np.all(widths(problem, theta_P, found.by_name) < 1e-6)
    assert set(found.by_name) == set(registry.LAWS["power_floor"].params)
