"""Hoffmann et al. 2022, figure 4, as read by Besiroglu et al. 2024 (2404.10102): published numbers come back."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from planted_laws import problem_of

import scaling
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import FULL_TABLE
from scaling.laws import registry
from scaling.table.run_table import Columns, RunTable

CSV = Path(__file__).parents[1].parent / "shared" / "data" / "scaling" / "chinchilla_figure4.csv"
COLUMNS = Columns(loss="loss", n="Model Size", flops="Training FLOP")
HUBER = Objective("huber", 1e-3)
SORTED_ERRORS = {"A": "120.8", "B": "1490", "E": "0.0256", "alpha": "0.01516", "beta": "0.02105"}
NAMES = ("A", "B", "E", "alpha", "beta")
pytestmark = pytest.mark.skipif(not CSV.exists(), reason=f"{CSV.name} is not next to the project")


@pytest.fixture(scope="module")
def runs() -> RunTable:
    """Returns the 240 points that remain without the five of highest loss."""
    return scaling.read(CSV, COLUMNS, drop_worst=5)


@pytest.fixture(scope="module")
def fit(runs) -> scaling.Fit:
    return scaling.fit(runs, delta=1e-3, bootstrap=4000, seed=42, full=False)


def lowest(runs: RunTable, objective: Objective) -> tuple[float, dict[str, float]]:
    """Returns the objective at its lowest minimum, and the parameters there."""
    problem = problem_of(runs, "chinchilla")
    minima = problem.minima(objective)
    values = registry.natural(problem.law, minima.theta_SP[:1], problem.centre, None)
    return float(minima.objective_S[0]), {name: float(value[0]) for name, value in values.items()}


def assert_printed(got: dict[str, float], printed: dict[str, str]) -> None:
    """Asserts that `got` rounds to the printed number, give or take one of its last digit."""
    for name, text in printed.items():
        last = 10.0 ** -len(text.partition(".")[2])
        assert got[name] == pytest.approx(float(text), abs=last), name


def test_the_usual_objective_to_the_digit(fit):
    assert len(fit.table) == 240
    assert fit.objective_value == pytest.approx(0.0010182740178, rel=1e-10)
    printed = ("477.82587", "2143.4174", "1.817218", "0.3473105", "0.3671724")
    assert_printed(fit.params, dict(zip(NAMES, printed, strict=True)))
    for name, value in {"A": 477.82587, "B": 2143.4174}.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-7)


def test_the_gradient_there_is_zero(fit):
    """Checks with a derivative of the objective itself, independent of the minimiser."""
    problem = problem_of(fit.table, "chinchilla")

    def objective(theta_P):
        return HUBER.total(problem.residual(theta_P)[None], np.ones((1, 240)))[0]

    for p, step in enumerate(1e-5 * np.eye(5)):
        up, down = objective(fit.theta_P + step), objective(fit.theta_P - step)
        assert min(up, down) > fit.objective_value, NAMES[p]
        curvature = (up + down - 2 * fit.objective_value) / 1e-10
        assert abs(up - down) / 2e-5 < 1e-6 * curvature, NAMES[p]


def test_standard_errors_with_the_papers_own_draws(runs, fit):
    """The paper drew rows in the file's order; `scaling.fit` draws from sorted rows, whose order no file changes."""
    problem = problem_of(runs, "chinchilla")
    draws_SP = problem.bootstrap(HUBER, problem.minima(HUBER), runs.cluster, draws=4000, seed=42, stream=FULL_TABLE)
    errors = {name: values.std() for name, values in fit.natural(draws_SP).items()}
    assert len(draws_SP) == 4000
    for name, value in {"A": 124.58, "B": 1293.23}.items():
        assert errors[name] == pytest.approx(value, rel=0.01)
    assert {name: round(errors[name], 2) for name in ("E", "alpha", "beta")} == {"E": 0.03, "alpha": 0.02, "beta": 0.02}
    assert {name: f"{error:.4g}" for name, error in fit.standard_error().items()} == SORTED_ERRORS
    converged = {"A": 124.494, "B": 1293.169, "E": 0.02566, "alpha": 0.01540, "beta": 0.02059}
    for name, value in converged.items():
        assert errors[name] == pytest.approx(value, rel=1e-3)


def test_least_absolute_deviation_is_the_published_point(runs):
    objective, params = lowest(runs, Objective("lad"))
    assert objective == pytest.approx(1.1294946536, rel=2e-9)
    for name, value in {"A": 482.00605, "B": 2085.4362}.items():
        assert params[name] == pytest.approx(value, rel=1e-6)
    assert_printed(params, {"E": "1.81686", "alpha": "0.34781", "beta": "0.36585"})


def test_adaptive_huber(runs):
    objective, settled = problem_of(runs, "chinchilla").adaptive()
    assert settled
    assert objective.delta == pytest.approx(0.0065, abs=5e-5)
    printed = ("498.387", "2540.613", "1.8273", "0.3498", "0.3752")
    assert_printed(lowest(runs, objective)[1], dict(zip(NAMES, printed, strict=True)))


def test_all_245_points(fit):
    whole = scaling.read(CSV, COLUMNS)
    objective, params = lowest(whole, HUBER)
    assert len(whole) == 245
    assert objective == pytest.approx(0.0018260105231, rel=1e-10)
    assert_printed(params, dict(zip(NAMES, ("495.726", "12845.613", "1.89134", "0.34931", "0.45305"), strict=True)))
    back = fit.table.with_worst()
    assert back.data_hash() == whole.data_hash()


def test_the_default_start_of_curve_fit_is_returned_by_curve_fit_and_not_here(runs, fit):
    from scipy.optimize import curve_fit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        point, _ = curve_fit(
            lambda x, A, B, E, alpha, beta: E + A / x[0] ** alpha + B / x[1] ** beta, (runs.n, runs.d), runs.loss
        )
    np.testing.assert_array_equal(point, 1)
    ones = registry.from_natural(fit.law, dict.fromkeys(NAMES, 1.0), fit.centre, None)
    problem = problem_of(runs, "chinchilla")
    alone = problem.minimize(HUBER, ones[None])
    assert not alone.converged_S[0] or alone.objective_S[0] >= fit.objective_value * (1 - 1e-9)
    assert all(abs(fit.params[name] - 1) > 0.1 for name in NAMES)
