"""The minimiser: sums without a Jacobian, company in a block, starts that meet, and scipy as a judge."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.optimize

from scaling.fitting.minimize import BLOCK, Objective, Solution, _solve_positive
from scaling.fitting.problem import Problem, _lowest, centre_of
from scaling.fitting.starts import starts
from scaling.laws.registry import LAWS, bind
from scaling.laws.size_and_data import hoffmann_starts
from scaling.table.run_table import Columns, from_frame

HUBER = Objective("huber", 3e-3)


def planted(law: str = "chinchilla", rows: int = 60, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(17, 23, rows)), np.exp(rng.uniform(20, 26, rows))
    loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.01 * rng.standard_t(3, rows))
    table = from_frame(pl.DataFrame({"n": n, "d": d, "loss": loss}), Columns(n="n", d="d", loss="loss"))
    return Problem.of(table, LAWS[law], None)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return planted()


@pytest.mark.parametrize("name", LAWS)
def test_sums_without_a_jacobian_are_those_with_it(name):
    law, rng = LAWS[name], np.random.default_rng(1)
    ends = {"n": (17, 23), "d": (22, 26), "u": (20, 22), "l": (0.5, 1.5), "s": (-3, -0.1)}
    points = {axis: np.exp(rng.uniform(*ends[axis], 30)) for axis in law.axes}
    bound = bind(law, points, centre_of(points), None)
    theta_SP = rng.uniform(0.2, 0.9, (4, len(law.free_params(None))))
    expansion = bound.expand(theta_SP)
    jacobian_SPR = expansion.jacobian()
    outer_SR, bend_SR = rng.standard_normal((2, 4, 30))
    gradient_SP = np.einsum("SPR,SR->SP", jacobian_SPR, outer_SR)
    hessian_SPP = np.einsum("SPR,SR,SQR->SPQ", jacobian_SPR, outer_SR, jacobian_SPR)
    np.testing.assert_allclose(expansion.gradient(outer_SR), gradient_SP, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(expansion.hessian(outer_SR), hessian_SPP, rtol=1e-9, atol=1e-9)
    both_SPP = hessian_SPP + expansion.hessian(None, bend_SR)
    np.testing.assert_allclose(expansion.hessian(outer_SR, bend_SR), both_SPP, rtol=1e-9, atol=1e-9)


def test_a_start_ends_where_it_would_alone(problem):
    begin = np.random.default_rng(2).permutation(hoffmann_starts(problem.centre))[: BLOCK + 150]
    together = problem.minimize(HUBER, begin, max_steps=40)
    for i in (0, BLOCK - 1, BLOCK, len(begin) - 1):
        alone = problem.minimize(HUBER, begin[i : i + 1], max_steps=40)
        assert alone.converged_S[0] == together.converged_S[i]
        np.testing.assert_allclose(alone.objective_S[0], together.objective_S[i], rtol=1e-6)


def test_each_start_has_its_own_weights(problem):
    weight_SR = np.random.default_rng(3).integers(0, 3, (BLOCK + 90, len(problem.response))).astype(float)
    begin = np.tile(problem.minima(HUBER).theta_SP[:1], (len(weight_SR), 1))
    together = problem.minimize(HUBER, begin, weight_SR=weight_SR)
    for i in (3, BLOCK + 80):
        alone = problem.minimize(HUBER, begin[:1], weight_SR=weight_SR[i : i + 1])
        np.testing.assert_allclose(together.theta_SP[i], alone.theta_SP[0], atol=1e-7)


def test_scipy_finds_nothing_lower(problem):
    minima, log_response = problem.minima(HUBER, usual=True), np.log(problem.response)
    rng = np.random.default_rng(4)
    for _ in range(5):
        drawn = rng.choice(len(log_response), len(log_response))
        weight_SR = np.bincount(drawn, minlength=len(log_response))[None].astype(float)
        found = problem.minimize(HUBER, minima.theta_SP[:1], weight_SR=weight_SR)

        def miss(theta, drawn=drawn):
            return (problem.bound.log(theta[None])[0] - log_response)[drawn]

        judge = scipy.optimize.least_squares(
            miss, minima.theta_SP[0], loss="huber", f_scale=HUBER.delta, ftol=1e-15, xtol=1e-12, gtol=1e-15
        )
        assert found.converged_S[0]
        assert found.objective_S[0] <= judge.cost * (1 + 1e-9)


def test_the_usual_starts_converge_and_none_lies_lower(problem):
    found = problem.minimize(HUBER, hoffmann_starts(problem.centre)[::40])
    lowest = problem.minima(HUBER).objective_S[0]
    assert found.converged_S.mean() > 0.95
    assert found.objective_S[found.converged_S].min() == pytest.approx(lowest, rel=1e-9)
    assert (found.objective_S >= lowest * (1 - 1e-9)).all()


def test_elimination_solves_and_tells_what_is_not_positive():
    root_SPP = np.random.default_rng(5).standard_normal((6, 4, 4))
    matrix_SPP = root_SPP @ root_SPP.transpose(0, 2, 1) + 0.1 * np.eye(4)
    matrix_SPP[1] -= 50 * np.eye(4)
    matrix_SPP[2, 3] = matrix_SPP[2, :, 3] = 0  # singular
    right_SP = np.random.default_rng(6).standard_normal((6, 4))
    with np.errstate(all="ignore"):
        solution, positive = _solve_positive(matrix_SPP, right_SP)
    assert positive.tolist() == [True, False, False, True, True, True]
    expected = np.linalg.solve(matrix_SPP[positive], right_SP[positive][..., None])[..., 0]
    np.testing.assert_allclose(solution[positive], expected, rtol=1e-9)


def test_starts_that_converged_to_one_minimum_count_once():
    objective_S = np.array([2.0, 1.0, np.nan, 1.0 + 1e-9, 3.0, 1.0, 2.0])
    converged_S = np.array([False, True, False, True, True, True, False])
    found = _lowest(Solution(np.arange(7.0)[:, None], objective_S, converged_S)).take(np.arange(4))
    assert found.theta_SP[:, 0].tolist() == [1, 0, 6, 4]


def test_a_higher_minimum_is_listed_and_may_be_the_lowest_of_another_objective():
    """Without a floor, size or data may carry the flat part: two minima, whose order depends on the objective."""
    bare = planted("chinchilla_no_floor", rows=240, seed=7)
    begin = starts(bare.law, bare.points, bare.centre, known_floor=None, response_R=bare.response)
    every = bare.minimize(Objective("ls"), begin)
    minima = bare.minima(Objective("ls"))
    places = np.unique(np.round(every.objective_S[every.converged_S] / minima.objective_S[0], 6))
    assert len(places) == 2
    np.testing.assert_allclose(minima.objective_S / minima.objective_S[0], places, rtol=1e-5)


def test_a_perfect_row_is_no_trouble():
    for objective in (HUBER, Objective("ls")):
        rho, slope, curvature, by_residual = objective.rho(np.array([0.0, 1e-4]))
        assert rho[0] == slope[0] == 0
        assert curvature.tolist() == by_residual.tolist() == [1, 1]
