"""The compute-optimal frontier: closed form against search, bands, draws without an optimum, the cost of a wrong N."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted import BUDGETS, CENTRE, HOFFMANN, planted, table_of, with_cloud

from scaling.compute.frontier import frontier, waste
from scaling.compute.optima import CLOSED_FORM, numeric_optima, optima
from scaling.errors import InputError
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import Problem

SHAPES = {"gamma": {"gamma": 0.5}, "repeated": {"R_D": 15.0, "R_N": 5.0}}


@pytest.mark.parametrize("law", CLOSED_FORM)
@pytest.mark.parametrize("exponents", [(0.34, 0.28), (0.2, 0.7), (1.1, 0.4)])
def test_closed_form_is_the_minimum_that_a_search_finds(law, exponents):
    alpha, beta = exponents
    beta = alpha if law == "tied" else beta
    sizes = {"A": 0.8 * CENTRE["n"] ** alpha, "B": 0.6 * CENTRE["d"] ** beta}
    fitted = planted(law, alpha=alpha, **sizes, **({} if law == "tied" else {"beta": beta}), **SHAPES.get(law, {}))
    best = optima(fitted, BUDGETS)
    for i, c in enumerate(BUDGETS):
        log_n_S, loss_S = numeric_optima(fitted, c, fitted.theta_P[None])
        assert log_n_S[0] == pytest.approx(best.log_n_SB[0, i], abs=1e-8)
        assert loss_S[0] == pytest.approx(best.loss_SB[0, i], rel=1e-10)


def test_exponent_is_beta_over_alpha_plus_beta():
    for law in ("chinchilla", "gamma"):
        path = frontier(planted(law, **SHAPES.get(law, {})), BUDGETS)
        assert path.n_exponent.value == pytest.approx(0.28 / 0.62, abs=1e-12)
        assert path.d_exponent.value == pytest.approx(0.34 / 0.62, abs=1e-12)
    assert frontier(planted("tied"), [1e18]).n_exponent.value == pytest.approx(0.5, abs=1e-12)


def test_n_and_d_spend_the_budget_and_no_other_n_is_better():
    fitted = planted("gamma", gamma=0.6)
    path = frontier(fitted, BUDGETS)
    np.testing.assert_allclose(6 * path.n.value_B * path.d.value_B, BUDGETS, rtol=1e-12)
    for factor in (0.99, 1.01):
        n = path.n.value_B * factor
        assert np.all(fitted.loss_at({"n": n, "d": BUDGETS / (6 * n)})[0] > path.loss.value_B)


def test_units_of_n_and_d_change_no_exponent_and_no_optimum():
    plain = planted()
    thousands = dict(HOFFMANN, A=HOFFMANN["A"] * 1e3**-0.34, B=HOFFMANN["B"] * 1e6**-0.28)
    scaled = planted(**thousands)
    units = {"n": 1e3, "d": 1e6, "c": 1.0}
    scaled = dataclasses.replace(
        scaled,
        flops_per_nd=6e9,
        ranges={axis: tuple(x / unit for x in plain.ranges[axis]) for axis, unit in units.items()},
    )
    one, other = frontier(plain, BUDGETS), frontier(scaled, BUDGETS)
    assert one.n_exponent.value == pytest.approx(other.n_exponent.value, abs=1e-12)
    np.testing.assert_allclose(one.n.value_B, 1e3 * other.n.value_B, rtol=1e-9)
    np.testing.assert_allclose(one.loss.value_B, other.loss.value_B, rtol=1e-12)
    np.testing.assert_allclose(one.extrapolation_B, other.extrapolation_B, rtol=1e-12)
    log_n_S, _ = numeric_optima(scaled, 1e18, scaled.theta_P[None])
    assert np.exp(log_n_S[0]) == pytest.approx(optima_n(plain, 1e18) / 1e3, rel=1e-8)


def optima_n(fitted, c):
    return float(np.exp(optima(fitted, [c]).log_n_SB[0, 0]))


def test_bands_are_percentiles_of_the_draws():
    alphas = np.linspace(0.3, 0.4, 201)
    fitted = with_cloud(planted(), [planted(alpha=x) for x in alphas])
    path = frontier(fitted, [1e18])
    a = np.sort(0.28 / (alphas + 0.28))
    assert path.n_exponent.low == pytest.approx(np.percentile(a, 2.5), abs=1e-3)
    assert path.n_exponent.high == pytest.approx(np.percentile(a, 97.5), abs=1e-3)
    assert path.d_exponent.low == pytest.approx(1 - path.n_exponent.high, abs=1e-12)
    n_S = np.exp(optima(fitted, [1e18], fitted.cloud_SP).log_n_SB[:, 0])
    assert path.n.low_B[0] == pytest.approx(np.percentile(n_S, 2.5), rel=0.02)
    assert path.n.high_B[0] * path.d.low_B[0] * 6 == pytest.approx(1e18, rel=1e-12)
    assert path.open_reason is None


@pytest.mark.parametrize(
    ("vanished", "open_end", "closed_end"),
    [({"A": 1e-30}, "low_B", "high_B"), ({"alpha": 7.0}, "low_B", "high_B"), ({"B": 1e-30}, "high_B", "low_B")],
)
def test_draws_without_an_optimum_open_the_band_on_their_side_only(vanished, open_end, closed_end):
    spread = [planted(A=400 + i) for i in range(96)]
    few = frontier(with_cloud(planted(), [*spread, planted(**vanished)]), BUDGETS)
    assert few.open_reason is None
    assert np.all(np.isfinite([few.n.low_B, few.n.high_B, few.loss.low_B, few.loss.high_B]))
    many = frontier(with_cloud(planted(), [*spread, *[planted(**vanished)] * 4]), BUDGETS)
    assert np.all(np.isnan(getattr(many.n, open_end)))
    assert np.all(np.isfinite(getattr(many.n, closed_end)))
    assert np.all(np.isnan(getattr(many.d, closed_end)))
    assert many.n_exponent.low is many.n_exponent.high is None
    assert "4.0% of 100 bootstrap draws" in many.open_reason
    assert "add runs of" in many.open_reason


@pytest.mark.parametrize(("vanished", "end"), [({"A": 1e-30}, -np.inf), ({"B": 1e-30}, np.inf)])
def test_a_law_without_an_optimum_has_none_by_either_way(vanished, end):
    fitted = planted(**vanished)
    assert optima(fitted, [1e18]).log_n_SB[0, 0] == end
    assert numeric_optima(fitted, 1e18, fitted.theta_P[None])[0][0] == end
    path = frontier(fitted, [1e18])
    assert np.isnan(path.n.value_B[0])
    assert path.n_exponent.value is None
    assert "no optimum" in path.open_reason
    assert waste(fitted, 1e18, 2.0).loss is None
    assert "no optimum" in waste(fitted, 1e18, 2.0).reason


def test_without_draws_there_are_values_and_no_bands():
    path = frontier(planted(), BUDGETS)
    assert np.all(np.isfinite(path.n.value_B))
    assert np.all(np.isnan(path.n.low_B))
    assert path.n_exponent.low is None
    assert "bootstrap=1000" in path.open_reason


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 2.0, 7.0])
def test_waste_is_what_the_exponents_say(factor):
    lost = waste(planted(), 1e19, factor)
    alpha, beta = 0.34, 0.28
    excess = (beta * factor**-alpha + alpha * factor**beta) / (alpha + beta)  # over the best one's
    assert (lost.loss - 1.69) / (lost.best_loss - 1.69) == pytest.approx(excess, rel=1e-9)
    assert lost.compute_ratio == pytest.approx(excess ** -(1 / alpha + 1 / beta), rel=1e-6)
    assert lost.n * lost.d * 6 == pytest.approx(1e19, rel=1e-12)
    assert lost.reason is None


def test_a_loss_that_no_budget_has_as_its_best_costs_no_number():
    lost = waste(planted(alpha=0.02, beta=0.02), 1e19, 1e40)
    assert lost.compute_ratio is None
    assert "no budget" in lost.reason


def test_repeated_data_favour_the_smaller_data_and_agree_with_the_plain_law_without_repetition():
    fitted, plain = planted("repeated", **SHAPES["repeated"]), planted()
    n = [optima_n_of_repeated(fitted, unique) for unique in (1e8, 1e9, 1e13)]
    # with data to spare D never repeats, and past the plain law's N size is in excess: a kink, so to the fine step
    assert n[2] == pytest.approx(optima_n(plain, 1e18), rel=0.03)
    assert n[0] != pytest.approx(n[2], rel=0.05)
    path = frontier(fitted, [1e17, 1e18], unique=1e8)
    assert np.all(path.loss.value_B > frontier(plain, [1e17, 1e18]).loss.value_B)
    assert 0 < path.n_exponent.value < 1


def optima_n_of_repeated(fitted, unique):
    return float(frontier(fitted, [1e18], unique=unique).n.value_B[0])


def test_search_finds_the_lowest_of_a_law_with_kinks():
    fitted = planted("repeated", **SHAPES["repeated"])
    for c in BUDGETS:
        log_n_S, loss_S = numeric_optima(fitted, c, fitted.theta_P[None], unique=1e8)
        n = np.exp(log_n_S[0] + np.linspace(-3, 3, 20001))
        dense = fitted.loss_at({"n": n, "d": c / (6 * n), "u": np.full(len(n), 1e8)})[0]
        assert loss_S[0] == pytest.approx(dense.min(), rel=1e-8)


def test_bands_contain_the_truth():
    truth, objective = planted(), Objective("ls")
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 6)))
    loss = truth.loss_at({"n": n, "d": d})[0]
    far, inside = 1e22, {"a": 0, "n": 0, "loss": 0}
    best = optima(truth, [far])
    for seed in range(40):
        noisy = table_of(n, d, loss * np.exp(0.003 * np.random.default_rng(seed).normal(size=len(loss))))
        problem = Problem.of(noisy, truth.law, None, truth.centre)
        minima = problem.minimize(objective, truth.theta_P[None])
        cloud_SP = problem.bootstrap(objective, minima, noisy.cluster, draws=200, seed=seed, stream=0)
        path = frontier(dataclasses.replace(truth, theta_P=minima.theta_SP[0], cloud_SP=cloud_SP), [far])
        inside["a"] += path.n_exponent.low <= 0.28 / 0.62 <= path.n_exponent.high
        inside["n"] += path.n.low_B[0] <= np.exp(best.log_n_SB[0, 0]) <= path.n.high_B[0]
        inside["loss"] += path.loss.low_B[0] <= best.loss_SB[0, 0] <= path.loss.high_B[0]
    assert path.extrapolation_B[0] == pytest.approx(far / (6 * 1e9 * 2e10))
    assert min(inside.values()) >= 34


@pytest.mark.parametrize(
    ("law", "budgets", "unique", "message"),
    [
        ("power", [1e18], None, "has no N: a budget leaves nothing to choose"),
        ("chinchilla", [1e18, -1.0], None, "finite FLOPs above 0"),
        ("chinchilla", [np.inf], None, "finite FLOPs above 0"),
        ("chinchilla", [], None, "finite FLOPs above 0"),
        ("chinchilla", [1e18], 1e9, "does not know unique data"),
        ("repeated", [1e18], None, "give `unique`"),
        ("repeated", [1e18], 0.0, "unique data are 0.0"),
    ],
)
def test_wrong_requests(law, budgets, unique, message):
    with pytest.raises(InputError, match=message):
        frontier(planted(law, **SHAPES.get(law, {})), budgets, unique)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_a_wrong_factor(factor):
    with pytest.raises(InputError, match="the factor on N"):
        waste(planted(), 1e18, factor)
