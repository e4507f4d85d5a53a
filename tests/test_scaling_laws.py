"""The laws are their papers' formulas, their derivatives are exact, their limits hold, and planted ones come back."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from few_forms import few_forms
from grid import mostly_slow
from planted_laws import FLOORED, FORMULA, PLANTED, exact, planted, points, problem_of, truth
from toy_law import LOG_LAW

import scaling
from scaling.errors import InputError
from scaling.fitting.minimize import Objective
from scaling.laws.registry import LAWS, bind, by_name, from_natural, natural
from scaling.laws.repeats import log_gain
from scaling.laws.terms import Power, SoftSum

LAW_AND_FLOOR = [(name, False) for name in LAWS] + [(name, True) for name in FLOORED]
FLOOR = {False: None, True: 1.1}
every_law = pytest.mark.parametrize(("law", "floor_known"), LAW_AND_FLOOR)
LONG = ("kaplan", "repeated", "data_exponent", "sparse")
fits_of_every_law = pytest.mark.parametrize(
    ("law", "floor_known"),
    mostly_slow(LAW_AND_FLOOR, quick=[pair for pair in LAW_AND_FLOOR if pair[0] not in LONG], several=True),
)
"""Quick: without the laws whose fits take longest."""


def jittered(law: str, known_floor: float | None) -> tuple[dict[str, float], np.ndarray]:
    """Returns the centre, and three theta [3, P] within a tenth of the planted one."""
    centre, theta_P = truth(law, points(law), known_floor)
    return centre, theta_P * (1 + 0.1 * np.random.default_rng(0).uniform(-1, 1, size=(3, len(theta_P))))


@every_law
def test_a_law_is_its_formula(law, floor_known):
    floor = FLOOR[floor_known]
    changed = {"E": floor} if floor_known else {}
    x = points(law)
    centre, theta_P = truth(law, x, floor, **changed)
    got = np.exp(bind(LAWS[law], x, centre, floor).log(theta_P[None])[0])
    np.testing.assert_allclose(got, exact(law, **changed), rtol=1e-13)


@every_law
def test_shares_add_up_to_one(law, floor_known):
    centre, theta_SP = jittered(law, FLOOR[floor_known])
    bound = bind(LAWS[law], points(law), centre, FLOOR[floor_known])
    around = bound.expand(theta_SP)
    np.testing.assert_allclose(sum(around.share_T), 1, rtol=1e-13)
    for term_SR, share_SR in zip(bound.log_terms(theta_SP), around.share_T, strict=True):
        expected_SR = np.broadcast_to(np.exp(term_SR - around.log_SR), share_SR.shape)
        np.testing.assert_allclose(expected_SR, share_SR, rtol=1e-12)


@every_law
def test_gradient_and_hessian_are_exact(law, floor_known):
    floor = FLOOR[floor_known]
    centre, theta_SP = jittered(law, floor)
    bound = bind(LAWS[law], points(law), centre, floor)
    around = bound.expand(theta_SP)
    jacobian_SPR = around.jacobian()
    np.testing.assert_array_equal(around.log_SR, bound.log(theta_SP))
    weight_SR = np.random.default_rng(1).normal(size=around.log_SR.shape)
    outer_SPP = np.einsum("SR,SPR,SQR->SPQ", weight_SR, jacobian_SPR, jacobian_SPR)
    curvature_SPP = around.hessian(None, weight_SR) - outer_SPP
    step = 1e-6
    for p, shift_P in enumerate(step * np.eye(theta_SP.shape[1])):
        high, low = (bound.expand(theta_SP + sign * shift_P) for sign in (1, -1))
        slope_SR = (high.log_SR - low.log_SR) / (2 * step)
        np.testing.assert_allclose(jacobian_SPR[:, p], slope_SR, rtol=1e-6, atol=1e-8)
        bend_SP = np.einsum("SR,SPR->SP", weight_SR, (high.jacobian() - low.jacobian()) / (2 * step))
        np.testing.assert_allclose(curvature_SPP[:, p], bend_SP, rtol=1e-5, atol=1e-5)


@every_law
def test_from_natural_is_the_inverse_of_natural(law, floor_known):
    floor = FLOOR[floor_known]
    centre, theta_SP = jittered(law, floor)
    values = natural(LAWS[law], theta_SP, centre, floor)
    assert tuple(values) == LAWS[law].params
    if floor_known:
        np.testing.assert_array_equal(values.pop("E"), floor)
    for s, theta_P in enumerate(theta_SP):
        back_P = from_natural(LAWS[law], {name: value[s] for name, value in values.items()}, centre, floor)
        np.testing.assert_allclose(back_P, theta_P, rtol=1e-12, atol=1e-12)


@every_law
def test_a_row_is_a_function_of_its_own_point(law, floor_known):
    centre, theta_SP = jittered(law, FLOOR[floor_known])
    x = points(law)
    keep = np.arange(len(next(iter(x.values())))) % 3 == 0
    whole = bind(LAWS[law], x, centre, FLOOR[floor_known])
    part = bind(LAWS[law], {axis: values[keep] for axis, values in x.items()}, centre, FLOOR[floor_known])
    np.testing.assert_array_equal(whole.log(theta_SP)[:, keep], part.log(theta_SP))


@fits_of_every_law
def test_planted_truth_comes_back(law, floor_known):
    floor = PLANTED[law]["E"] if floor_known else None
    problem = problem_of(planted(law), law, floor)
    best = problem.minima(Objective("ls"))
    assert best.objective_S[0] < 1e-20  # a sum of squares: the residuals are those of rounding
    for name, values in natural(LAWS[law], best.theta_SP[:1], problem.centre, floor).items():
        assert values[0] == pytest.approx(PLANTED[law][name], rel=1e-10), name


@fits_of_every_law
def test_with_noise_no_fit_is_worse_than_the_truth(law, floor_known):
    sigma = 1e-2
    floor = PLANTED[law]["E"] if floor_known else None
    _, theta_P = truth(law, points(law), floor)
    problem = problem_of(planted(law, sigma, seed=1), law, floor)
    residual_1R = problem.residual(theta_P)[None]
    goal = Objective("huber", 1.345 * sigma)
    best = problem.minima(goal)
    assert best.objective_S[0] <= goal.total(residual_1R, np.ones_like(residual_1R))[0]
    assert best.converged_S[0]


@pytest.mark.parametrize("law", ["power_floor", "tied", "gamma", "broken", "metric_sigmoid"])
def test_no_fit_by_absolute_deviation_is_worse_than_the_truth(law):
    _, theta_P = truth(law, points(law))
    problem = problem_of(planted(law, 1e-2, seed=2), law)
    assert problem.minima(Objective("lad")).objective_S[0] <= np.abs(problem.residual(theta_P)).sum()


def surface(law: str, **changed: float) -> np.ndarray:
    """Returns the planted chinchilla's parameters under another law of N and D."""
    x = points("repeated")
    x = {axis: x[axis] for axis in LAWS[law].axes}
    values = PLANTED["chinchilla"] | changed
    values = {name: values[name] for name in LAWS[law].params}
    centre = {"n": 3e7, "d": 3e8, "u": 1e8}
    return np.exp(bind(LAWS[law], x, centre, None).log(from_natural(LAWS[law], values, centre, None)[None])[0])


def test_gamma_of_one_is_the_sum_and_small_gamma_the_larger():
    np.testing.assert_allclose(surface("gamma", gamma=1.0), surface("chinchilla"), rtol=1e-13)
    x, p = points("repeated"), PLANTED["chinchilla"]
    larger = np.maximum(p["A"] / x["n"] ** p["alpha"], p["B"] / x["d"] ** p["beta"])
    for gamma in (0.01, 0.1, 0.5):  # at most two equal terms, 2^gamma
        excess = surface("gamma", gamma=gamma) - p["E"]
        assert np.all((excess >= larger * (1 - 1e-9)) & (excess <= larger * 2**gamma * (1 + 1e-9)))


def test_a_soft_sum_keeps_its_digits_where_its_terms_are_far_apart():
    term = SoftSum(Power("A", "alpha", "n"), Power("B", "beta", "d"), "gamma")
    at = term.covariates({"n": np.array([1e2, 1e30]), "d": np.array([1e30, 1e2])}, {"n": 1e10, "d": 1e10})
    theta_Sk = np.array([[0.0, 0.5, 0.0, 0.5, 0.02]])
    np.testing.assert_allclose(term.log(theta_Sk, at)[0], 0.5 * np.log(1e8), rtol=1e-13)
    parts = term.derivatives(theta_Sk, at)
    assert all(np.isfinite(slope).all() for slope in parts.slope_k)
    assert all(np.isfinite(bend).all() for bend in parts.curvature.values())


def test_equal_exponents_are_the_tied_law_and_no_floor_is_a_floor_of_nothing():
    np.testing.assert_allclose(surface("tied"), surface("chinchilla", beta=PLANTED["chinchilla"]["alpha"]), rtol=1e-13)
    np.testing.assert_allclose(surface("chinchilla_no_floor"), surface("chinchilla", E=1e-300), rtol=1e-13)
    no_floor = {"gamma": PLANTED["chinchilla"]["beta"], "E": 1e-300}
    np.testing.assert_allclose(surface("kaplan"), surface("gamma", **no_floor), rtol=1e-13)


def test_kaplans_law_goes_as_one_over_d():
    """Tests the last requirement of its authors: it is analytic in 1 / D, so the first correction is linear in 1 /
    D.
    """
    values, centre = PLANTED["kaplan"], {"n": 1e8, "d": 1e20}
    x = {"n": np.full(3, 1e8), "d": np.array([1e20, 1e13, 0.5e13])}
    log_R = bind(LAWS["kaplan"], x, centre, None).log(from_natural(LAWS["kaplan"], values, centre, None)[None])[0]
    assert (log_R[2] - log_R[0]) / (log_R[1] - log_R[0]) == pytest.approx(2, rel=1e-3)


def test_without_a_turn_the_broken_law_is_straight_and_with_one_it_turns():
    values = PLANTED["broken"]
    d = np.geomspace(1e-6, 1e18, 25)
    straight = FORMULA["power_floor"]({"d": d}, A=values["A"], beta=values["beta"], E=values["E"])
    centre = {"d": 1e6}
    bound = bind(LAWS["broken"], {"d": d}, centre, None)

    def law(**changed):
        return np.exp(bound.log(from_natural(LAWS["broken"], values | changed, centre, None)[None])[0])

    np.testing.assert_allclose(law(c=0.0), straight, rtol=1e-12)
    fall = -np.diff(np.log(law(E=1e-300))) / np.diff(np.log(d))
    assert fall[0] == pytest.approx(values["beta"], rel=1e-9)
    assert fall[-1] == pytest.approx(values["beta"] + values["c"], rel=1e-9)


def test_what_is_new_counts_whole_and_what_is_seen_again_less_and_less():
    d = np.geomspace(1e7, 1e10, 6)
    once = {"n": np.full(6, 1e5), "d": d, "u": d}  # far below the size that is best for so much data
    values = PLANTED["repeated"]
    centre = {"n": 1e5, "d": 1e8, "u": 1e8}
    theta_1P = from_natural(LAWS["repeated"], values, centre, None)[None]
    plain = {name: values[name] for name in LAWS["chinchilla"].params}
    got = np.exp(bind(LAWS["repeated"], once, centre, None).log(theta_1P)[0])
    np.testing.assert_allclose(got, FORMULA["chinchilla"](once, **plain), rtol=1e-12)
    repeats = np.array([1e-6, 1.0, 10.0, 1e3, 1e6])
    worth = np.exp(log_gain(repeats, np.log(values["R_D"])))
    assert worth[0] == pytest.approx(1 + 1e-6, rel=1e-9)
    assert np.all(np.diff(worth) >= 0)
    assert np.all(np.diff(worth) <= np.diff(repeats))
    assert worth[-1] == pytest.approx(1 + values["R_D"], rel=1e-12)
    np.testing.assert_allclose(np.exp(log_gain(repeats[:3], np.log(1e9))), 1 + repeats[:3], rtol=1e-7)


def test_size_past_what_is_best_meets_the_law_smoothly():
    """At the size that is best for the unique data the value and the slope in N agree from both sides."""
    p = PLANTED["repeated"]
    u = 1e8
    best = (p["alpha"] * p["A"] / (p["beta"] * p["B"]) * u ** p["beta"]) ** (1 / p["alpha"])
    n = best * np.exp(np.array([-2e-4, -1e-4, 0.0, 1e-4, 2e-4]))
    x = {"n": n, "d": np.full(5, u), "u": np.full(5, u)}
    centre = {"n": 1e6, "d": 1e8, "u": 1e8}
    log_R = bind(LAWS["repeated"], x, centre, None).log(from_natural(LAWS["repeated"], p, centre, None)[None])[0]
    slope = np.diff(log_R) / 1e-4
    np.testing.assert_allclose(slope, slope.mean(), rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "known_floor", "message"),
    [
        ({"A": 400.0}, None, "needs B; A came"),
        ({}, None, "needs A; nothing came"),
        (PLANTED["chinchilla"] | {"gama": 1.0}, None, "no free parameter 'gama'"),
        (PLANTED["chinchilla"] | {"E": 0.0}, None, "E is 0.0; chinchilla wants it above 0"),
        (PLANTED["chinchilla"] | {"A": float("nan")}, None, "A is nan; chinchilla wants it above 0"),
        (PLANTED["chinchilla"], 1.7, "no free parameter 'E'"),
    ],
)
def test_parameters_that_make_no_law(values, known_floor, message):
    with pytest.raises(InputError, match=message):
        from_natural(LAWS["chinchilla"], values, {"n": 1e8, "d": 1e9}, known_floor)


def test_the_error_for_an_unknown_law_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        by_name("chinchila")


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_every_law_says_where_it_comes_from_and_what_it_takes_for_granted(law):
    assert law.source
    assert law.assumptions
    assert law.formula.startswith("M = " if law.response == "metric" else "L = ")
    assert law.has_floor == ("E" in law.params)
    assert set(law.sizes) | set(law.limits) <= set(law.params)
    assert law.free_params(1.0) == tuple(name for name in law.params if name != "E")
    assert all(name in law.formula for name in law.params)


def test_unique_data_beyond_those_seen_count_no_more_than_them():
    law = LAWS["repeated"]
    seen = {"n": np.geomspace(1e6, 1e10, 9), "d": np.full(9, 1e9), "u": np.full(9, 1e9)}
    values = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29, "R_N": 5.0, "R_D": 15.0}
    centre = {"n": 1e8, "d": 1e9, "u": 1e9}
    theta_P = from_natural(law, values, centre, None)
    at, beyond = (bind(law, seen | {"u": u}, centre, None).log(theta_P[None]) for u in (seen["u"], 7 * seen["u"]))
    np.testing.assert_array_equal(at, beyond)


@pytest.fixture
def log_law():
    scaling.register_law(LOG_LAW)
    yield LOG_LAW.name
    del LAWS[LOG_LAW.name]


def test_a_law_from_outside_is_registered_and_fitted(log_law):
    scaling.register_law(LOG_LAW)  # again: nothing happens
    d = np.geomspace(1e4, 1e9, 16)
    runs = pl.DataFrame({"tokens": d, "loss": 0.5 + 20 * np.log(d) ** -1.5})
    with few_forms():
        fit = scaling.fit(runs, log_law, d="tokens", loss="loss", bootstrap=0)
    assert fit.params == pytest.approx({"A": 20, "beta": 1.5, "E": 0.5}, rel=1e-6)
    assert fit.forms.chosen == log_law


@pytest.mark.parametrize("name", ["power", "best", "two words"])
def test_a_law_needs_a_free_name(name):
    with pytest.raises(InputError, match=r"a law needs a name|already a law named 'power'"):
        scaling.register_law(dataclasses.replace(LOG_LAW, name=name))
