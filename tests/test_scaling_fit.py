"""Fits: planted laws come back, invariances hold, published numbers are reproduced, bad designs are refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import scaling
from scaling import laws
from scaling.errors import InputError
from scaling.minimize import Objective, minimize, starts
from scaling.problem import Problem, geometric_centre
from scaling.table import Columns, RunTable, from_frame

CHINCHILLA_CSV = Path(__file__).parents[1].parent / "shared" / "data" / "scaling" / "chinchilla_figure4.csv"
PLANTED = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29}


def grid(noise: float = 0.0, seed: int = 0, **planted: float) -> RunTable:
    """Seven N by seven D, the planted law with log-normal noise."""
    p = PLANTED | planted
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e7, 1e10, 7)))
    loss = p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]
    return table(loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(n))), d, n)


def line(floor: float, noise: float = 0.0, seed: int = 0) -> RunTable:
    """Six D, three seeds each: L = floor + 30 D^-0.37."""
    d = np.repeat(np.geomspace(3e4, 1e7, 6), 3)
    return table((floor + 30 * d**-0.37) * np.exp(noise * np.random.default_rng(seed).normal(size=18)), d)


def table(loss, d, n=None, **more) -> RunTable:
    columns = {"loss": loss, "d": d, "seed": np.arange(len(loss))} | ({} if n is None else {"n": n}) | more
    names = Columns(loss="loss", d="d", n=None if n is None else "n", cluster="cluster" if "cluster" in more else None)
    return from_frame(pl.DataFrame(columns), names)


@pytest.mark.parametrize("objective", ["huber", "ls", "lad"])
def test_planted_surface_comes_back(objective):
    fit = scaling.fit(grid(), objective=objective, bootstrap=0)
    for name, value in PLANTED.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-6)
    for run in fit.heldout:
        assert abs(run.relative_error) < 1e-7
    assert fit.interval95 == dict.fromkeys(PLANTED)


def test_planted_line_comes_back_within_its_intervals():
    fit = scaling.fit(line(0.37, noise=3e-4), "power_floor", bootstrap=400)
    for name, value in {"A": 30, "beta": 0.37, "E": 0.37}.items():
        low, high = fit.interval95[name]
        assert low < value < high
    value, low, high = fit.predict(d=[1e5, 1e8])
    assert np.all((low < value) & (value < high))
    assert high[1] / low[1] > high[0] / low[0]
    assert [run.extrapolation_factor for run in fit.heldout] == pytest.approx([3.2] * 3 + [10.2] * 3, rel=0.02)


def test_known_floor_is_not_fitted_and_the_free_one_is_compared():
    fit = scaling.fit(line(0.37, noise=3e-4), "power_floor", floor=0.37, bootstrap=200)
    assert fit.params["E"] == 0.37
    assert fit.interval95["E"] is None
    assert fit.free_floor.agrees
    assert all(abs(run.excess_relative_error) < 0.05 for run in fit.heldout)
    assert scaling.fit(line(0.37, noise=3e-4), "power_floor", floor=0.3, bootstrap=200).free_floor.agrees is False


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (3e-3, 1), (3e-2, 2)])
def test_a_floor_at_zero_has_no_value_but_a_bound(noise, seed):
    fit = scaling.fit(line(0.0, noise, seed), "power_floor", bootstrap=200)
    assert fit.params["E"] is None
    assert fit.interval95["E"] is None
    assert fit.open_intervals == ("E",)
    assert fit.bounds["E"][0] is None
    assert fit.params["beta"] == pytest.approx(0.37, abs=0.05)


def problem_of(runs: RunTable, law: str = "chinchilla") -> Problem:
    return Problem.of(runs, laws.LAWS[law], geometric_centre(runs, laws.LAWS[law]), None)


@pytest.mark.parametrize("objective", [Objective("huber", 0.01), Objective("ls"), Objective("lad")])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scaling_the_objective_changes_nothing(objective, scale):
    runs = grid(0.01)
    problem = problem_of(runs)
    begin = starts(problem.design, runs.loss, 2)[::40]
    plain, scaled = (
        minimize(problem.design, np.log(runs.loss), objective, begin, np.full((1, len(runs)), weight))
        for weight in (1.0, scale)
    )
    assert plain.converged_S.any()
    best, scaled_best = (x.theta_SP[np.argmin(np.where(x.converged_S, x.objective_S, np.inf))] for x in (plain, scaled))
    np.testing.assert_allclose(best, scaled_best, atol=1e-6)


def test_permuting_rows_changes_nothing():
    runs = grid(0.01)
    order = np.random.default_rng(1).permutation(len(runs))
    permuted = table(runs.loss[order], runs.d[order], runs.n[order])
    a, b = (scaling.fit(t, bootstrap=0, heldout=False) for t in (runs, permuted))
    assert a.table.data_hash() == b.table.data_hash()
    np.testing.assert_allclose(list(a.params.values()), list(b.params.values()), rtol=1e-9)


def test_a_row_twice_is_weight_two():
    runs = grid(0.01)
    twice = np.r_[np.arange(len(runs)), 0, 0, 3]
    weight = np.bincount(twice).astype(float)[None]
    doubled = table(runs.loss[twice], runs.d[twice], runs.n[twice])
    problem, objective = problem_of(runs), Objective("huber", 0.01)
    begin = problem.minima(objective).theta_SP[:1]
    weighted = minimize(problem.design, np.log(runs.loss), objective, begin, weight)
    # around the same centre, so that theta means the same
    repeated = Problem.of(doubled, problem.law, geometric_centre(runs, problem.law), None)
    copied = minimize(repeated.design, np.log(doubled.loss), objective, begin)
    np.testing.assert_allclose(weighted.theta_SP, copied.theta_SP, atol=1e-9)
    assert weighted.objective_S == pytest.approx(copied.objective_S, rel=1e-12)


def test_rows_of_a_cluster_are_not_independent():
    runs = line(0.37, noise=3e-3)
    copies = np.repeat(np.arange(len(runs)), 8)
    more = table(runs.loss[copies], runs.d[copies])
    clustered = table(runs.loss[copies], runs.d[copies], cluster=copies)
    width = {}
    for name, t in (("once", runs), ("copied", more), ("clustered", clustered)):
        low, high = scaling.fit(t, "power", bootstrap=300, heldout=False).interval95["beta"]
        width[name] = high - low
    assert width["clustered"] == pytest.approx(width["once"], rel=0.25)
    assert width["copied"] < 0.6 * width["once"]


@pytest.mark.parametrize("law", laws.LAWS.values(), ids=lambda law: law.name)
def test_gradient_and_hessian_are_exact(law):
    from scaling.minimize import _Parts

    runs = grid(0.05)
    problem = problem_of(runs, law.name)
    theta = starts(problem.design, runs.loss, len(law.axes))[3:4]
    weight = np.ones((1, len(runs)))

    def at(theta):
        return _Parts.at(problem.design, np.log(runs.loss), Objective("huber", 0.3), theta, weight)

    for p, shift in enumerate(1e-6 * np.eye(theta.shape[1])):
        high, low = at(theta + shift), at(theta - shift)
        assert (high.value - low.value) / 2e-6 == pytest.approx(at(theta).gradient[:, p], rel=1e-5, abs=1e-6)
        np.testing.assert_allclose((high.gradient - low.gradient) / 2e-6, at(theta).hessian[:, p], rtol=1e-4, atol=1e-4)


needs_csv = pytest.mark.skipif(not CHINCHILLA_CSV.exists(), reason=f"{CHINCHILLA_CSV.name} is not beside the project")


@needs_csv
@pytest.mark.parametrize(
    ("drop_worst", "options", "A", "B", "E", "alpha", "beta", "objective"),
    [
        (5, {"delta": 1e-3}, 477.82587, 2143.4174, 1.817218, 0.3473105, 0.3671724, 0.0010182740178),
        (5, {"objective": "lad"}, 482.00605, 2085.4362, 1.81686, 0.34781, 0.36585, 1.1294946536),
        (5, {"delta": "auto"}, 498.387, 2540.613, 1.8273, 0.3498, 0.3752, None),
        (0, {"delta": 1e-3}, 495.726, 12845.613, 1.89134, 0.34931, 0.45305, 0.0018260105231),
    ],
)
def test_published_points(drop_worst, options, A, B, E, alpha, beta, objective):
    columns = Columns(loss="loss", n="Model Size", flops="Training FLOP")
    runs = scaling.read(CHINCHILLA_CSV, columns, drop_worst)
    fit = scaling.fit(runs, **options, bootstrap=0, heldout=False)
    rel = {"A": 1e-6, "B": 1e-6, "E": 2e-5, "alpha": 1e-4, "beta": 2e-4}
    for name, value in {"A": A, "B": B, "E": E, "alpha": alpha, "beta": beta}.items():
        assert fit.params[name] == pytest.approx(value, rel=rel[name])
    if objective is not None:
        assert fit.objective_value == pytest.approx(objective, rel=2e-9)


@needs_csv
def test_published_standard_errors():
    columns = Columns(loss="loss", n="Model Size", flops="Training FLOP")
    fit = scaling.fit(scaling.read(CHINCHILLA_CSV, columns, 5), delta=1e-3, bootstrap=1000, heldout=False)
    draws = laws.natural(fit.law, fit.cloud_SP, fit.centre, None)
    published = {"A": 124.494, "B": 1293.169, "E": 0.02566, "alpha": 0.01540, "beta": 0.02059}
    for name, error in published.items():
        assert draws[name].std() == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "chinchila"}, "did you mean 'chinchilla'"),
        ({"law": "power", "objective": "mse"}, "unknown objective"),
        ({"law": "power", "delta": 0.0}, "wanted 'auto'"),
    ],
)
def test_wrong_requests(options, message):
    with pytest.raises(InputError, match=message):
        scaling.fit(line(0.3), **options)


def test_warnings_are_kept():
    runs = line(0.3)
    fit = scaling.fit(table(runs.loss[::2], runs.d[::2]), "power_floor", bootstrap=0, heldout=False)
    assert any("below 12" in warning for warning in fit.warnings)


def test_json_is_contract_4_and_round_trips(tmp_path):
    fit = scaling.fit(line(0.0, 0.01), "power_floor", bootstrap=100)
    fit.to_json(tmp_path / "fit.json")
    got = json.loads((tmp_path / "fit.json").read_text())
    contract = "law objective_name delta objective n_rows excluded params interval95 open_intervals minima heldout"
    assert set(contract.split()) <= set(got)
    assert got["params"] == fit.params
    assert got["params"]["E"] is None
    assert got["open_intervals"] == ["E"]
    assert got["objective"] == fit.objective_value
    assert [path.name for path in tmp_path.iterdir()] == ["fit.json"]


def test_importing_scaling_brings_no_jax_and_no_altair():
    code = "import scaling, sys; print([m for m in ('jax', 'flax', 'altair', 'sessionrec_jax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
