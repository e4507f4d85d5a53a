"""Tests fits: order and units do not matter, known floors are kept, intervals hold the truth, variants are
separate fits.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from grid import mostly_slow
from planted_laws import PLANTED, exact, line, noise, planted, points, problem_of, table

import scaling
from scaling.errors import InputError
from scaling.fitting import intervals as intervals_module
from scaling.fitting import problem as problem_module
from scaling.fitting import progress
from scaling.fitting.minimize import FIRST_DAMPING, Objective
from scaling.fitting.problem import Problem, resamplings
from scaling.fitting.starts import starts
from scaling.laws import registry
from scaling.table import checks

OBJECTIVES = [Objective("huber", 1e-2), Objective("huber", 1e-3), Objective("ls"), Objective("lad")]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.name}-{o.delta:g}")
UNIFORM = points("chinchilla")
QUICK = {"bootstrap": 0, "full": False}


def lowest(problem: Problem, objective: Objective) -> tuple[np.ndarray, float]:
    minima = problem.minima(objective)
    return minima.theta_SP[0], minima.objective_S[0]


@every_objective
@pytest.mark.parametrize("law", ["power_floor", "chinchilla_no_floor", "gamma", "tied"])
def test_scaling_the_objective_changes_nothing(law, objective):
    runs = planted(law, 0.01, seed=1)
    problem = problem_of(runs, law)
    begin = starts(problem.law, problem.points, problem.centre, known_floor=None, response_R=problem.response)[::29]
    best = {}
    for scale in (1.0, 1e-6, 1e6):
        found = problem.minimize(objective, begin, weight_SR=np.full((1, len(runs)), scale))
        assert found.converged_S.any()
        at = np.argmin(np.where(found.converged_S, found.objective_S, np.inf))
        best[scale] = found.theta_SP[at]
    for scale in (1e-6, 1e6):
        np.testing.assert_allclose(best[scale], best[1.0], atol=1e-9)


@every_objective
@pytest.mark.parametrize("law", ["power_floor", "chinchilla"])
def test_a_row_twice_is_weight_two(law, objective):
    runs = planted(law, 0.01, seed=2)
    twice = np.r_[np.arange(len(runs)), 0, 0, 3]
    problem = problem_of(runs, law)
    begin, _ = lowest(problem, objective)
    weight_1R = np.bincount(twice).astype(float)[None]
    weighted = problem.minimize(objective, begin[None], weight_SR=weight_1R)
    doubled = table(runs.loss[twice], **{axis: values[twice] for axis, values in problem.points.items()})
    # around the same centre, so that theta means the same
    copied = Problem.of(doubled, problem.law, None, problem.centre).minimize(objective, begin[None])
    assert weighted.converged_S[0]
    np.testing.assert_allclose(weighted.theta_SP, copied.theta_SP, atol=1e-9)
    assert weighted.objective_S == pytest.approx(copied.objective_S, rel=1e-12)


def test_a_resampling_is_a_fit_of_the_rows_that_it_drew():
    runs = line(sigma=0.01)
    problem, objective = problem_of(runs, "power_floor"), Objective("huber", 0.01)
    minima = problem.minima(objective)
    cloud_SP = problem.bootstrap(objective, minima, runs.cluster, draws=5, seed=3, stream=0)
    for theta_P, weight_R in zip(cloud_SP, resamplings(runs.cluster, 5, seed=3), strict=True):
        drawn = np.repeat(np.arange(len(runs)), weight_R.astype(int))
        assert len(drawn) == len(runs)
        again = Problem.of(table(runs.loss[drawn], d=runs.d[drawn]), problem.law, None, problem.centre)
        np.testing.assert_allclose(theta_P, lowest(again, objective)[0], atol=1e-7)


def test_many_rows_have_the_intervals_of_the_slow_way(monkeypatch):
    """A screen on few rows and warm starts change no minimum: each draw ends where every start on all rows ends."""
    rng = np.random.default_rng(6)
    x = {axis: np.exp(rng.uniform(*np.log([values.min(), values.max()]), 300)) for axis, values in UNIFORM.items()}
    runs = planted("chinchilla", 0.02, seed=6, x=x)
    fast = scaling.fit(runs, delta=0.01, bootstrap=60, full=False)
    monkeypatch.setattr(problem_module, "FEW_ROWS", len(runs))
    monkeypatch.setattr(problem_module, "CLOSE_DAMPING", FIRST_DAMPING)
    monkeypatch.setattr(intervals_module, "CLOSE_DAMPING", FIRST_DAMPING)
    slow = scaling.fit(runs, delta=0.01, bootstrap=60, full=False)
    assert fast.objective_value == pytest.approx(slow.objective_value, rel=1e-12)
    for name, interval in slow.interval95.items():
        np.testing.assert_allclose(fast.interval95[name], interval, rtol=1e-6)
    problem = problem_of(runs.in_order(), "chinchilla")
    weight_SR = resamplings(runs.in_order().cluster, 60, seed=0)
    for s in (0, 31, 59):
        drawn = np.repeat(np.arange(300), weight_SR[s])
        drawn_x = {axis: values[drawn] for axis, values in problem.points.items()}
        again = Problem.of(table(problem.response[drawn], **drawn_x), problem.law, None, problem.centre)
        np.testing.assert_allclose(fast.draws_SP[s], lowest(again, Objective("huber", 0.01))[0], atol=1e-6)


def test_a_listener_hears_every_step_and_only_inside_its_block(monkeypatch):
    monkeypatch.setattr(problem_module, "MOST_NUMBERS", 18 * 10)  # 10 draws of 18 rows
    said = []
    with progress.shown_by(said.append):
        scaling.fit(line(sigma=0.01), "power_floor", bootstrap=40, full=False)
    draws = [text for text in said if "draws" in text]
    # the tasks of several threads begin in any order
    assert sorted(draws) == [f"power_floor: {begun} of 40 bootstrap draws" for begun in (0, 10, 20, 30)]
    assert "power_floor: the minima of huber on 18 runs" in said
    heard = len(said)
    scaling.fit(line(sigma=0.01), "power_floor", **QUICK)
    assert len(said) == heard


def test_a_cluster_is_drawn_whole():
    weight_SR = resamplings(np.array([7, 7, 3, 7, 5, 5]), 50, seed=0)
    assert np.all(weight_SR[:, [0, 0, 4]] == weight_SR[:, [1, 3, 5]])
    assert np.all(weight_SR[:, [0, 2, 4]].sum(axis=1) == 3)
    assert np.any(weight_SR != resamplings(np.array([7, 7, 3, 7, 5, 5]), 50, seed=0, stream=1))


@pytest.mark.parametrize("objective", ["huber", "ls", "lad"])
@pytest.mark.parametrize("law", ["power_floor", "gamma"])
def test_permuting_rows_changes_nothing(law, objective):
    runs = planted(law, 0.01, seed=4)
    order = np.random.default_rng(1).permutation(len(runs))
    a, b = (scaling.fit(t, law, objective=objective, **QUICK) for t in (runs, permuted(runs, order)))
    assert a.table.data_hash() == b.table.data_hash()
    np.testing.assert_allclose(list(a.params.values()), list(b.params.values()), rtol=1e-9)
    assert a.objective.delta == pytest.approx(b.objective.delta, rel=1e-9)
    np.testing.assert_allclose(a.residual()[order], b.residual(), atol=1e-12)


def permuted(runs, order):
    return table(runs.loss[order], d=runs.d[order], n=None if runs.n is None else runs.n[order])


def test_the_order_of_the_rows_changes_no_digit():
    """Clusters of one and of several rows, two clusters with the same numbers, and a row that is there twice."""
    d = np.repeat(np.geomspace(3e4, 1e7, 6), 3)
    rows = {"d": d, "loss": exact("power_floor", {"d": d}) * noise(18, 0.01, seed=9), "run": np.arange(18) // 2}
    rows = {name: np.r_[values, values[:2], values[3:5]] for name, values in rows.items()}
    rows["run"][-4:] = [40, 41, 42, 42]
    whole = pl.DataFrame(rows | {"run_id": [f"row {i}" for i in range(22)]})
    found = []
    for order in (np.arange(22), np.random.default_rng(0).permutation(22)):
        fit = scaling.fit(whole[order], "power_floor", d="d", loss="loss", cluster="run", bootstrap=40)
        found.append(fit.to_dict())
        assert fit.table.row_id == tuple(whole["run_id"][order])
    assert found[0] == found[1]


UNIT = {"n": 0.1, "d": 50.0, "u": 50.0, "s": 1.0, "l": 4.0, "response": 0.5}
"""The number of new units in one old unit."""


def in_new_units(law: str, p: dict[str, float]) -> dict[str, float]:
    """Returns the expected value of each parameter."""
    n, d, upstream, response = UNIT["n"], UNIT["d"], UNIT["l"], UNIT["response"]
    by_size, by_data = n ** p.get("alpha", 0.0), d ** p.get("beta", p.get("alpha", 0.0))
    factor = dict.fromkeys(("E", "M_max", "M_0", "M_1"), response)
    factor |= {"D_b": d, "D_0": d, "k": 1 / upstream, "L_0": upstream, "B": response * by_data}
    factor["A"] = response * (by_data if registry.LAWS[law].axes == ("d",) else by_size)
    factor["A_s"] = factor["A"]
    if law == "data_exponent":
        factor |= {"B": response * n ** p["kappa"], "beta": n ** -p["delta"]}
    if law == "metric_chance":  # the skill is a part of what chance leaves
        factor["S"] = response * (1 - p["M_0"]) / (1 - response * p["M_0"])
    return {name: value * factor.get(name, 1.0) for name, value in p.items()}


LONG = ("kaplan", "repeated", "data_exponent")
"""Laws whose fits take longest."""


@pytest.mark.parametrize("law", mostly_slow(registry.LAWS, quick=registry.LAWS.keys() - LONG))
def test_other_units_change_only_what_they_must(law):
    x = points(law)
    runs = planted(law, 3e-3, seed=5)
    kept = {"d"} if law == "data_exponent" else set()  # its form depends on the unit of D, as its assumptions say
    other = {axis: values * (1 if axis in kept else UNIT[axis]) for axis, values in x.items()}
    response = problem_of(runs, law).response * UNIT["response"]
    changed = table(other["l"], metric=response) if "l" in other else table(response, **other)
    fits = []
    for t in (runs, changed):
        problem = problem_of(t, law)
        theta_P, objective = lowest(problem, Objective("huber", 4e-3))
        values = registry.natural(problem.law, theta_P[None], problem.centre, None)
        fits.append(({name: float(value[0]) for name, value in values.items()}, objective))
    (plain, plain_objective), (got, objective) = fits
    assert objective == pytest.approx(plain_objective, rel=1e-9)
    for name, value in in_new_units(law, plain).items():
        assert got[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("seed", range(4))
def test_least_absolute_deviation_is_the_linear_programs_answer(seed):
    from scipy.optimize import linprog

    runs = planted("power", 0.05, seed, {"d": np.geomspace(1e4, 1e9, 25)})
    R, eye = len(runs), np.eye(len(runs))
    exact = linprog(
        np.r_[0, 0, np.ones(2 * R)],
        A_eq=np.hstack([np.stack([np.ones(R), -np.log(runs.d)], axis=1), eye, -eye]),
        b_eq=np.log(runs.loss),
        bounds=[(None, None)] * 2 + [(0, None)] * (2 * R),
    )
    fit = scaling.fit(runs, "power", objective="lad", **QUICK)
    assert fit.objective_value == pytest.approx(exact.fun, rel=1e-7)
    assert np.log(fit.params["A"]) == pytest.approx(exact.x[0], rel=1e-6)
    assert fit.params["beta"] == pytest.approx(exact.x[1], rel=1e-6)


def test_least_squares_of_a_straight_line_is_the_textbooks():
    runs = planted("power", 0.05, seed=7)
    slope, intercept = np.polyfit(np.log(runs.d), np.log(runs.loss), 1)
    fit = scaling.fit(runs, "power", objective="ls", **QUICK)
    assert fit.params["beta"] == pytest.approx(-slope, rel=1e-10)
    assert np.log(fit.params["A"]) == pytest.approx(intercept, rel=1e-10)


def test_adaptive_delta_is_the_fixed_point_of_its_own_residuals_and_outliers_hardly_move_it():
    clean = planted("power_floor", 0.01, seed=8)
    hit = clean.loss * np.where(np.arange(len(clean)) % 8 == 0, 1.5, 1.0)
    a, b = (scaling.fit(t, "power_floor", **QUICK) for t in (clean, table(hit, d=clean.d)))
    for fit in (a, b):
        assert fit.objective.delta == pytest.approx(1.345 * 1.4826 * np.median(np.abs(fit.residual())), rel=1e-6)
    squares = scaling.fit(table(hit, d=clean.d), "power_floor", objective="ls", **QUICK)
    assert abs(b.params["beta"] - a.params["beta"]) < abs(squares.params["beta"] - a.params["beta"]) / 3


def test_planted_line_comes_back_within_its_intervals():
    fit = scaling.fit(line(sigma=3e-4), "power_floor", bootstrap=400)
    for name, value in PLANTED["power_floor"].items():
        low, high = fit.interval95[name]
        assert low < value < high
    value, low, high = fit.predict(D=[1e5, 1e8])
    assert np.all((low < value) & (value < high))
    assert high[1] / low[1] > high[0] / low[0]
    assert [run.extrapolation_factor for run in fit.heldout] == pytest.approx([3.2] * 3 + [10.2] * 3, rel=0.02)
    assert all(abs(run.relative_error) < 2e-3 for run in fit.heldout)


def test_known_floor_is_not_fitted_and_the_free_one_is_compared():
    fit = scaling.fit(line(sigma=3e-4), "power_floor", floor=0.37, bootstrap=200)
    assert fit.params["E"] == fit.floor == 0.37
    assert fit.interval95["E"] is None
    assert fit.free_floor.agrees
    assert all(abs(run.excess_relative_error) < 0.05 for run in fit.heldout)
    free = scaling.fit(line(sigma=3e-4), "power_floor", bootstrap=200, full=False)
    assert np.ptp(fit.interval95["beta"]) < np.ptp(free.interval95["beta"])
    wrong = scaling.fit(line(sigma=3e-4), "power_floor", floor=0.3, bootstrap=200, full=False)
    assert wrong.free_floor.agrees is False


@pytest.mark.parametrize(("sigma", "seed"), [(0.0, 0), (3e-3, 1), (3e-2, 2)])
def test_a_floor_at_zero_has_no_value_but_a_bound(sigma, seed):
    fit = scaling.fit(line(0.0, sigma, seed), "power_floor", bootstrap=200, full=False)
    assert fit.params["E"] is None
    assert fit.interval95["E"] is None
    assert fit.open_intervals == ("E",)
    assert fit.bounds["E"][0] is None
    assert fit.params["beta"] == pytest.approx(0.37, abs=0.05)


def test_rows_of_a_cluster_are_not_independent():
    runs = line(sigma=3e-3)
    copies = np.repeat(np.arange(len(runs)), 8)
    more = table(runs.loss[copies], d=runs.d[copies])
    clustered = table(runs.loss[copies], d=runs.d[copies], cluster=copies)
    width = {}
    for name, t in (("once", runs), ("copied", more), ("clustered", clustered)):
        width[name] = np.ptp(scaling.fit(t, "power", bootstrap=300, full=False).interval95["beta"])
    assert width["clustered"] == pytest.approx(width["once"], rel=0.25)
    assert width["copied"] < 0.6 * width["once"]


def test_the_bootstrap_is_its_seeds_alone_and_no_two_streams_share_draws():
    runs = line(sigma=3e-3)
    one, same, other = (scaling.fit(runs, "power", bootstrap=40, seed=s, full=False).cloud_SP for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.isin(one, other).any()


def test_variants_are_the_fits_that_one_would_have_made():
    x = {"d": line().d}
    loss = line(sigma=0.01, seed=9).loss * np.where(np.arange(18) < 2, 1.3, 1.0)
    runs = table(loss, **x, drop_worst=2)
    fit = scaling.fit(runs, "power_floor", delta=5e-3, bootstrap=0)
    separate = {
        "huber auto": scaling.fit(runs, "power_floor", **QUICK),
        "huber 0.001": scaling.fit(runs, "power_floor", delta=1e-3, **QUICK),
        "lad": scaling.fit(runs, "power_floor", objective="lad", **QUICK),
        "ls": scaling.fit(runs, "power_floor", objective="ls", **QUICK),
        "dropped back": scaling.fit(table(loss, **x), "power_floor", delta=5e-3, **QUICK),
    }
    assert [variant.name for variant in fit.variants] == list(separate)
    for variant in fit.variants:
        other = separate[variant.name]
        assert variant.rows == len(other.table)
        assert variant.delta == (other.objective.delta if other.objective.name == "huber" else None)
        assert variant.objective == pytest.approx(other.objective_value, rel=1e-9)
        for name, value in variant.params.items():
            assert value == pytest.approx(other.params[name], rel=1e-6)


def test_competing_minima_are_ordered_and_different():
    fit = scaling.fit(planted("broken", 0.05, seed=0), "broken", delta=0.01, **QUICK)
    objectives = [minimum.objective for minimum in fit.minima]
    assert len(objectives) > 1
    assert objectives == sorted(objectives)
    assert objectives[0] == fit.objective_value
    assert fit.minima[0].gap == 0
    assert fit.minima[1].gap == pytest.approx(objectives[1] / objectives[0] - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "chinchila"}, "did you mean 'chinchilla'"),
        ({"law": "power", "objective": "mse"}, "unknown objective"),
        ({"law": "power", "delta": 0.0}, "wanted 'auto'"),
        ({"law": "power", "delta": float("nan")}, "wanted 'auto'"),
        ({"law": "power", "bootstrap": -1}, "wanted 40 draws or more"),
        ({"law": "power", "bootstrap": 39}, "wanted 40 draws or more"),
    ],
)
def test_wrong_requests(options, message):
    with pytest.raises(InputError, match=message):
        scaling.fit(line(), **options)


def test_a_path_or_a_frame_is_read_with_the_names_of_its_columns(tmp_path):
    with pytest.raises(InputError, match="name the loss column with --loss"):
        scaling.fit(line().frame.rename({"loss": "y"}))
    with pytest.raises(InputError, match="loss came with a table whose columns are named already"):
        scaling.fit(line(), loss="loss")
    line().frame.write_csv(tmp_path / "runs.csv")
    known = scaling.fit(line(), "power_floor", **QUICK).params
    columns = scaling.Columns(loss="loss", d="d")
    assert scaling.fit(tmp_path / "runs.csv", "power_floor", columns=columns, **QUICK).params == known
    assert scaling.fit(line().frame, "power_floor", loss="loss", d="d", **QUICK).params == known


def test_warnings_are_kept():
    runs = line()
    fit = scaling.fit(table(runs.loss[::2], d=runs.d[::2]), "power_floor", **QUICK)
    assert any("below 12" in warning for warning in fit.warnings)
    assert "below 12" in fit.summary()
    assert checks.refuse(runs, registry.LAWS["power"], None) == ()


def test_a_summary_names_every_parameter_and_separates_known_from_open():
    summary = scaling.fit(line(0.0, 3e-3, 1), "power_floor", bootstrap=100, full=False).summary()
    assert "E      open: below" in summary
    assert "beta   0.3" in summary
    known = scaling.fit(line(), "power_floor", floor=0.37, **QUICK)
    assert known.describe("E") == "0.37  (known)"


BLOCKED = ("jax", "jaxlib", "flax", "optax", "grain", "tensorflow", "sessionrec_jax")


def test_importing_scaling_brings_nothing_heavy():
    code = f"import scaling, sys; print([name for name in {(*BLOCKED, 'altair', 'scipy')} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_whole_fit_works_where_none_of_them_can_be_imported(tmp_path):
    line(sigma=1e-3).frame.write_csv(tmp_path / "runs.csv")
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Blocked())
import scaling
fit = scaling.fit("runs.csv", "power_floor", columns=scaling.Columns(loss="loss", d="d"), bootstrap=40)
fit.to_json("fit.json")
print(scaling.load("fit.json").predict(D=1e8)[0] == fit.predict(D=1e8)[0])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
