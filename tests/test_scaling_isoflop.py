"""IsoFLOP minima: planted optima by three methods, the bias of a parabola and its estimate, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import polars as pl
import pytest
from planted import BUDGETS, CENTRE, isoflop_grid, planted, table_of, with_cloud

from scaling.cells.vertex import Curve, local, parabola
from scaling.compute.frontier import frontier
from scaling.compute.isoflop import METHODS, isoflop
from scaling.compute.optima import optima
from scaling.errors import InputError, Refusal

STEEP_N = planted(alpha=0.5, A=0.8 * CENTRE["n"] ** 0.5, beta=0.25, B=0.8 * CENTRE["d"] ** 0.25)
STEEP_D = planted(alpha=0.25, A=0.8 * CENTRE["n"] ** 0.25, beta=0.5, B=0.8 * CENTRE["d"] ** 0.5)


def best_log_n(law, budgets=BUDGETS):
    return optima(law, budgets).log_n_SB[0]


def log_n(result, method):
    return np.log([budget.minima[method].n for budget in result.budgets])


def shift(bias):
    return bias.n_exponent_found - bias.n_exponent_true


def flops_of(table, budget):
    return 6 * table.n[budget.row_R] * table.d[budget.row_R]


def test_three_methods_agree_on_a_symmetric_law():
    law = planted("tied", A=0.8 * CENTRE["n"] ** 0.34, B=0.8 * CENTRE["d"] ** 0.34)
    result = isoflop(isoflop_grid(law), law)
    assert [budget.flops for budget in result.budgets] == pytest.approx(BUDGETS)
    for method in METHODS:
        np.testing.assert_allclose(log_n(result, method), best_log_n(law), atol=1e-9)
        assert result.lines[method].n_exponent.value == pytest.approx(0.5, abs=1e-9)
        assert result.lines[method].d_exponent.value == pytest.approx(0.5, abs=1e-9)
    assert result.warnings == ()
    for budget in result.budgets:
        assert budget.minima["local"].loss == pytest.approx(budget.minima["surface"].loss, rel=1e-4)
        for minimum in budget.minima.values():
            assert 6 * minimum.n * minimum.d == pytest.approx(budget.flops)


@pytest.mark.parametrize("law", [STEEP_N, STEEP_D], ids=["steep N", "steep D"])
def test_unequal_exponents_bias_the_parabola_as_predicted_and_the_local_curve_hardly(law):
    half_width = 1.5
    result = isoflop(isoflop_grid(law, half_width=half_width, sizes=9), law)
    truth, values = best_log_n(law), law.natural()
    np.testing.assert_allclose(log_n(result, "surface"), truth, atol=1e-12)
    predicted = (values["alpha"][0] - values["beta"][0]) * half_width**2 / 10
    bias = log_n(result, "parabola") - truth
    np.testing.assert_allclose(bias, predicted, rtol=0.25)
    assert np.all(np.abs(log_n(result, "local") - truth) < 0.05 * abs(predicted))
    for budget, at_budget in zip(result.budgets, bias, strict=True):
        own = np.log(budget.minima["surface"].n)
        assert budget.on_surface["parabola"] - own == pytest.approx(at_budget, abs=1e-12)


def test_estimated_bias_of_the_exponent_is_the_real_one():
    # a grid that drifts off centre as the budget grows: the usual way to a wrong exponent
    drift = {"off_centre": np.linspace(-1, 1, len(BUDGETS)), "half_width": 2.5, "sizes": 9}
    table = isoflop_grid(STEEP_N, **drift)
    result = isoflop(table, STEEP_N)
    bias = result.bias["parabola"]
    assert bias.n_exponent_true == pytest.approx(1 / 3, abs=1e-12)
    assert shift(bias) == pytest.approx(result.lines["parabola"].n_exponent.value - 1 / 3, abs=1e-12)
    assert abs(shift(bias)) > 0.002
    assert bias.budgets == len(BUDGETS)
    assert abs(shift(result.bias["local"])) < 0.3 * abs(shift(bias))
    noisy = isoflop(isoflop_grid(STEEP_N, **drift, noise=0.002), STEEP_N)
    assert shift(noisy.bias["parabola"]) == pytest.approx(shift(bias), abs=1e-12)


def test_intervals_of_the_minima_contain_the_truth():
    law = planted("tied", A=0.8 * CENTRE["n"] ** 0.34, B=0.8 * CENTRE["d"] ** 0.34)
    plain = isoflop_grid(law)
    inside = {"parabola": [], "local": []}
    lines = []
    for seed in range(60):
        noise = 5e-4 * np.random.default_rng(seed).normal(size=len(plain))
        noisy = dataclasses.replace(plain, loss=plain.loss * np.exp(noise))
        result = isoflop(noisy)
        for budget, truth in zip(result.budgets, np.exp(best_log_n(law)), strict=True):
            for method, hits in inside.items():
                if budget.minima[method].n is not None:
                    low, high = budget.minima[method].n_interval95
                    hits.append(low <= truth <= high)
        a = result.lines["parabola"].n_exponent
        lines.append(a.low <= 0.5 <= a.high)
    for hits in (*inside.values(), lines):
        assert 0.88 <= np.mean(hits) <= 1.0
    assert result.noise.sigma == pytest.approx(5e-4, rel=0.5)


def test_permuting_rows_changes_nothing():
    table = isoflop_grid(STEEP_N, noise=0.002)
    order = np.random.default_rng(1).permutation(len(table))
    permuted = table_of(table.n[order], table.d[order], table.loss[order])
    one, other = isoflop(table, STEEP_N), isoflop(permuted, STEEP_N)
    for method in METHODS:
        np.testing.assert_allclose(log_n(one, method), log_n(other, method), rtol=1e-12)
        assert one.lines[method].n_exponent.value == pytest.approx(other.lines[method].n_exponent.value, rel=1e-10)
    assert shift(one.bias["parabola"]) == pytest.approx(shift(other.bias["parabola"]), abs=1e-12)
    for a, b in zip(one.budgets, other.budgets, strict=True):
        np.testing.assert_allclose(np.sort(table.n[a.row_R]), np.sort(permuted.n[b.row_R]))


def test_units_of_n_and_d_change_no_exponent():
    table = isoflop_grid(STEEP_N, noise=0.002)
    scaled = table_of(table.n * 1e3, table.d / 50, table.loss)
    for method in ("parabola", "local"):
        one, other = (isoflop(t).lines[method].n_exponent for t in (table, scaled))
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-8)


def test_seeds_of_one_size_are_averaged_in_log_and_a_cluster_counts_once():
    n, cluster = np.array([1.0, 2, 2, 2, 4]), np.array([0, 1, 1, 2, 3])
    curve = Curve.from_rows(n * 1e8, np.array([3.0, 2.0, 2.0, 1.0, 3.0]), cluster)
    np.testing.assert_allclose(curve.n_G, [1e8, 2e8, 4e8])
    np.testing.assert_allclose(curve.loss_G, [3, np.sqrt(2), 3])
    np.testing.assert_array_equal(curve.clusters_G, [1, 2, 1])
    assert len(Curve.from_rows(np.array([1e8, 1.01e8, 2e8]), np.ones(3), np.arange(3)).n_G) == 2


def test_copies_of_runs_narrow_an_interval_only_as_clusters_of_their_own():
    table = isoflop_grid(STEEP_N, noise=0.002)
    four = np.tile(np.arange(len(table)), 4)
    runs = [table.n[four], table.d[four], table.loss[four]]
    copies = table_of(*runs, cluster=np.arange(len(four)))
    clustered = table_of(*runs, cluster=four)

    def width(t):
        low, high = isoflop(t).budgets[0].minima["parabola"].n_interval95
        return np.log(high / low)

    assert width(clustered) == pytest.approx(width(table), rel=1e-9)
    assert width(copies) == pytest.approx(width(table), rel=1e-9)  # the noise doubles as its mean halves


def curve_of(loss, n=None):
    loss = np.asarray(loss, float)
    n = np.geomspace(1e8, 1e9, len(loss)) if n is None else np.asarray(n, float)
    return Curve(n, loss, np.ones(len(loss), int))


@pytest.mark.parametrize("method", [parabola, local])
@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (curve_of([2.0, 2.1, 2.3, 2.6, 3.0]), "smallest N.*Run smaller N"),
        (curve_of([3.0, 2.6, 2.3, 2.1, 2.0]), "largest N.*Run larger N"),
        (curve_of([2.0, 1.9], [1e8, 2e8]), "2 distinct N.*Run more sizes"),
        (curve_of([2.0], [1e8]), "all runs have N = 1e\\+08"),
    ],
)
def test_what_shows_no_minimum_is_refused_with_a_cure(method, curve, reason):
    found = method(curve)
    assert found.log_n is None
    assert re.search(reason, found.refused)


def test_a_parabola_wants_a_spare_point_and_the_local_curve_two_neighbours():
    three = curve_of([2.2, 2.0, 2.3])
    assert "needs 4" in parabola(three).refused
    assert local(three).refused is None
    assert 1e8 < np.exp(local(three).log_n) < 1e9


def test_concave_and_outside_parabolas_are_refused():
    assert "concave" in parabola(curve_of([2.0, 2.4, 2.5, 2.39, 2.4, 1.99, 2.0])).refused
    outside = parabola(curve_of([9.5, 9, 16, 25, 36, 49, 64]))
    assert "outside the sampled N" in outside.refused
    assert outside.coefficient_K[2] > 0


def test_a_refused_budget_is_marked_and_left_out_of_the_line():
    off_centre = np.array([0.0, 0.0, 2.5, 0.0, 0.0])
    table = isoflop_grid(STEEP_N, off_centre=off_centre)
    result = isoflop(table, STEEP_N)
    edge = result.budgets[2].minima
    assert edge["parabola"].n is None
    assert "edge of the grid" in edge["parabola"].refused
    assert edge["surface"].n == pytest.approx(np.exp(best_log_n(STEEP_N)[2]))
    np.testing.assert_allclose(result.lines["parabola"].flops_B, np.delete(BUDGETS, 2))
    assert result.bias["parabola"].budgets == 4
    (warning,) = result.warnings
    assert "1 of 5 budgets (C = 3.16e+18)" in warning


def test_two_budgets_give_minima_and_no_line():
    result = isoflop(isoflop_grid(STEEP_N, budgets=BUDGETS[:2]))
    assert all(budget.minima["parabola"].n for budget in result.budgets)
    assert result.lines["parabola"].n_exponent.value is None
    assert "2 of 2 budgets have a minimum" in result.lines["parabola"].refused
    assert result.lines["surface"].refused
    assert "no fitted law" in result.budgets[0].minima["surface"].refused
    assert result.bias == {}


def test_nearly_equal_compute_is_one_budget_and_the_tolerance_bounds_it():
    table = isoflop_grid(STEEP_N)
    near = np.random.default_rng(0).uniform(0.93, 1.07, len(table))
    jittered = table_of(table.n, table.d * near, table.loss)
    assert [len(budget.row_R) for budget in isoflop(jittered, tolerance=0.1).budgets] == [7] * 5
    for budget in isoflop(jittered, tolerance=0.1).budgets:
        flops = flops_of(jittered, budget)
        assert flops.max() / flops.min() < 1.1 / 0.9
    labels = np.repeat(np.arange(5), 7)
    labelled = isoflop(jittered, tolerance=1e-9, groups=labels)
    for a, b in zip(isoflop(jittered).budgets, labelled.budgets, strict=True):
        np.testing.assert_array_equal(np.sort(a.row_R), b.row_R)
    named = table_of(table.n, table.d * near, table.loss, budget=[f"C{i}" for i in labels])
    assert len(isoflop(named, groups="budget").budgets) == 5


def test_a_column_of_flops_makes_the_budgets_and_where_it_is_empty_n_and_d_do():
    table = isoflop_grid(STEEP_N)
    measured = [None, *(np.repeat(BUDGETS, 7)[1:] * 1.03)]
    frame = table.frame.with_columns(pl.Series("c", measured, dtype=pl.Float64))
    result = isoflop(dataclasses.replace(table, frame=frame, columns=dataclasses.replace(table.columns, flops="c")))
    assert [budget.flops for budget in result.budgets[1:]] == pytest.approx(BUDGETS[1:] * 1.03)
    assert result.budgets[0].flops == pytest.approx(BUDGETS[0] * 1.03 ** (6 / 7))  # 6 of 7 runs have a measured C


def test_runs_alone_at_their_compute_are_counted():
    table = isoflop_grid(STEEP_N)
    more = table_of(np.r_[table.n, 1e8, 1e8], np.r_[table.d, 1e12, 1e13], np.r_[table.loss, 2.0, 1.9])
    result = isoflop(more)
    assert len(result.budgets) == 5
    assert any(warning.startswith("2 of 37 runs") for warning in result.warnings)


def test_surface_minima_carry_the_bootstrap():
    draws = [dataclasses.replace(STEEP_N, theta_P=STEEP_N.theta_P + shift) for shift in np.linspace(-0.01, 0.01, 101)]
    law = with_cloud(STEEP_N, draws)
    result = isoflop(isoflop_grid(law), law)
    low, high = result.budgets[0].minima["surface"].n_interval95
    assert low < result.budgets[0].minima["surface"].n < high
    found, expected = result.lines["surface"].n_exponent, frontier(law, BUDGETS).n_exponent
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "the tolerance is 0.0"),
        ({"groups": "bugdet"}, "no column 'bugdet'"),
        ({"groups": [1, 2]}, "2 labels of budgets for 35 runs"),
        ({"fitted": planted("power")}, "has no N"),
    ],
)
def test_wrong_requests(options, message):
    with pytest.raises(InputError, match=message):
        isoflop(isoflop_grid(STEEP_N), **options)


def test_the_error_of_a_table_without_n_names_the_flag():
    with pytest.raises(InputError, match="--n"):
        isoflop(dataclasses.replace(isoflop_grid(STEEP_N), n=None))


def test_a_table_without_budgets_is_refused_with_the_design_that_would_do():
    n = np.geomspace(1e7, 1e9, 12)
    with pytest.raises(Refusal, match=r"not an IsoFLOP table.*3 or more budgets.*D = C / \(6 N\)"):
        isoflop(table_of(n, 20 * n, 3 - 0.1 * np.log(n / 1e7)))
