"""Tests seed noise and the F test: planted noise comes back, and the test is wrong as often as it states."""

import numpy as np
import polars as pl
import pytest

from scaling.errors import InputError
from scaling.fitting.noise import lack_of_fit, seed_noise
from scaling.laws.registry import LAWS
from scaling.table.run_table import Columns, RunTable, from_frame

POWER, POWER_FLOOR, CHINCHILLA = (LAWS[name] for name in ("power", "power_floor", "chinchilla"))
SIGMA = 0.01


def repeated(rng: np.random.Generator, points: int = 8, seeds: int = 3, bend: float = 0.0, **more) -> RunTable:
    """log L = 1 - 0.3 log D + bend (log D)^2 + noise, D around 1."""
    d = np.repeat(np.exp(np.linspace(-3, 3, points)), seeds)
    log_loss = 1 - 0.3 * np.log(d) + bend * np.log(d) ** 2 + SIGMA * rng.normal(size=len(d))
    frame = pl.DataFrame({"d": d, "loss": np.exp(log_loss), "seed": np.tile(np.arange(seeds), points)} | more)
    return from_frame(frame, Columns(loss="loss", d="d", n="n" if "n" in more else None))


def least_squares(table: RunTable) -> np.ndarray:
    """Returns residuals of the power law, for which the F test is exact."""
    x = np.stack([np.ones(len(table)), np.log(table.d)], axis=1)
    y = np.log(table.loss)
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def test_planted_noise_comes_back_whatever_the_law():
    table = repeated(np.random.default_rng(0), points=400, bend=0.02)
    noise = seed_noise(table, POWER)
    assert (noise.groups, noise.degrees_of_freedom) == (400, 800)
    assert noise.sigma == pytest.approx(SIGMA, rel=0.1)  # four standard errors
    assert seed_noise(table, POWER_FLOOR) == noise


def test_the_variance_is_unbiased_at_few_repeats():
    rng = np.random.default_rng(1)
    variances = [seed_noise(repeated(rng, points=3, seeds=2), POWER).sigma ** 2 for _ in range(400)]
    assert np.mean(variances) == pytest.approx(SIGMA**2, rel=0.2)


def test_without_repeats_there_is_no_number():
    table = repeated(np.random.default_rng(0), seeds=1)
    assert seed_noise(table, POWER) is None
    assert lack_of_fit(least_squares(table), table, POWER) is None


def test_runs_of_other_sizes_are_no_repeats():
    sizes = np.tile([1.0, 10.0, 100.0], 8)
    assert seed_noise(repeated(np.random.default_rng(0), n=sizes), POWER) is None
    assert seed_noise(repeated(np.random.default_rng(0), n=np.full(24, 10.0)), POWER).groups == 8


def test_rows_of_one_seed_or_cluster_count_once():
    d = np.repeat([1.0, 2.0, 4.0], 4)
    rows = pl.DataFrame({"d": d, "loss": np.exp(np.tile([0.0, 0.2, 0.1, 0.3], 3)), "run": np.arange(12) // 2})
    for columns in (Columns(loss="loss", d="d", cluster="run"), Columns(loss="loss", d="d", seed_column="run")):
        noise = seed_noise(from_frame(rows, columns), POWER)
        assert (noise.groups, noise.degrees_of_freedom) == (3, 3)
        assert noise.sigma == pytest.approx(0.1 / np.sqrt(2))


def test_the_same_numbers_twice_are_no_noise():
    table = repeated(np.random.default_rng(0), seeds=1)
    twice = pl.concat([table.frame, table.frame.with_columns(seed=pl.lit(1, pl.Int64))])
    table = from_frame(twice, Columns(loss="loss", d="d"))
    assert seed_noise(table, POWER).sigma == 0
    assert lack_of_fit(least_squares(table), table, POWER) is None


def test_a_law_that_holds_is_rejected_as_often_as_the_level_says():
    rng = np.random.default_rng(2)
    tables = [repeated(rng) for _ in range(600)]
    tests = [lack_of_fit(least_squares(table), table, POWER) for table in tables]
    assert {(t.degrees_of_freedom_misfit, t.degrees_of_freedom_noise) for t in tests} == {(6, 16)}
    assert np.mean([t.misfits for t in tests]) == pytest.approx(0.05, abs=0.03)
    assert np.quantile([t.p_value for t in tests], [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)


def test_a_law_that_bends_is_found_out():
    table = repeated(np.random.default_rng(3), bend=0.01)
    assert lack_of_fit(least_squares(table), table, POWER).p_value < 1e-4


def test_misfit_and_noise_make_up_the_residuals():
    table = repeated(np.random.default_rng(4))
    residual, noise = least_squares(table), seed_noise(table, POWER)
    test = lack_of_fit(residual, table, POWER)
    misfit = test.f * noise.sigma**2 * test.degrees_of_freedom_misfit
    assert misfit + noise.sigma**2 * noise.degrees_of_freedom == pytest.approx(np.sum(residual**2), rel=1e-9)


def test_a_known_floor_leaves_one_more_degree():
    table = repeated(np.random.default_rng(5))
    free, known = (lack_of_fit(least_squares(table), table, POWER_FLOOR, floor) for floor in (None, 0.1))
    assert known.degrees_of_freedom_misfit == free.degrees_of_freedom_misfit + 1


def test_more_parameters_than_points_is_no_test():
    table = repeated(np.random.default_rng(6), points=2)
    assert lack_of_fit(least_squares(table), table, POWER) is None


def test_an_axis_without_a_column_is_named():
    with pytest.raises(InputError, match="--n"):
        seed_noise(repeated(np.random.default_rng(7)), CHINCHILLA)
