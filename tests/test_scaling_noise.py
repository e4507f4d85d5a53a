"""Tests seed noise and the misfit beyond it: planted noise comes back, and the test is wrong as often as it states."""

import numpy as np
import polars as pl
import pytest
from grid import mostly_slow

from scaling.errors import InputError
from scaling.fitting.minimize import Objective
from scaling.fitting.misfit import SURE
from scaling.fitting.noise import lack_of_fit, seed_noise
from scaling.fitting.problem import Problem
from scaling.fitting.trend import Trend
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


def signed(table: RunTable) -> Trend | None:
    """Tests the power law, which a bend misses."""
    problem = Problem.of(table, POWER, None)
    return lack_of_fit(problem, problem.minima(Objective("ls")).theta_SP[0], table)


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
    assert signed(table) is None


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
    assert signed(table) is None


def falling(rng: np.random.Generator, repeats: np.ndarray) -> RunTable:
    """Returns runs of a power law at 14 D, each repeated so often, with noise that falls tenfold along D."""
    d = np.repeat(np.geomspace(1e4, 1e8, 14), 1 + repeats)
    noise = SIGMA * (d / 1e4) ** -0.25 * rng.normal(size=len(d))
    return from_frame(pl.DataFrame({"d": d, "loss": 30 * d**-0.3 * np.exp(noise)}), Columns(loss="loss", d="d"))


LAST_3 = 3 * (np.arange(14) >= 11)
EVERYWHERE = np.full(14, 2)


@pytest.mark.parametrize("repeats", [LAST_3, EVERYWHERE], ids=["the last three sizes", "all sizes"])
@pytest.mark.parametrize("tables", mostly_slow([60, 400], quick=[60]))
def test_a_law_that_holds_is_seldom_rejected_whatever_the_noise(repeats, tables):
    """The level is not exact, because a few runs carry nearly all of this noise. The F test rejects 3 to 87 %."""
    rng = np.random.default_rng(2)
    p_values = np.array([signed(falling(rng, repeats)).p_value for _ in range(tables)])
    for level, most in ((SURE, 0.025), (0.05, 0.1), (0.5, 0.6)):
        assert np.mean(p_values <= level) < most + 3 * np.sqrt(most * (1 - most) / tables)


def test_a_law_that_bends_is_found_out():
    assert signed(repeated(np.random.default_rng(3), bend=0.01)).p_value == pytest.approx(1e-3)


def test_few_repeats_are_no_test():
    """Three runs more have eight patterns of signs."""
    rng = np.random.default_rng(5)
    assert signed(falling(rng, 3 * (np.arange(14) == 13))) is None
    assert signed(repeated(rng, points=8, seeds=2)) is not None
    assert signed(repeated(rng, points=7, seeds=2)) is None


def test_more_parameters_than_points_is_no_test():
    assert signed(repeated(np.random.default_rng(6), points=2, seeds=6)) is None


def test_an_axis_without_a_column_is_named():
    with pytest.raises(InputError, match="--n"):
        seed_noise(repeated(np.random.default_rng(7)), CHINCHILLA)
