"""Fits of tables that others published or planted, in ../shared/cases; test_scaling_misfit.py has more of them.

The tests are skipped where the tables are absent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog

import scaling

CASES = Path(__file__).parents[1].parent / "shared" / "cases" / "fits"
QUICK = {"bootstrap": 0, "full": False}
OLMO = {"n": "N", "d": "D"}
C4 = "c4_en-validation/CrossEntropyLoss"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases/fits")


def losses_of_olmo() -> list[str]:
    """Returns the columns of a loss: cross entropies, and bits per byte of the right answers."""
    if not CASES.is_dir():
        return [C4]
    columns = pl.read_csv(CASES / "olmo_ladder_16.csv").columns
    return [name for name in columns if "CrossEntropyLoss" in name or name.startswith("downstream_bpb/")]


def of_olmo(loss: str) -> scaling.Fit:
    return scaling.fit(CASES / "olmo_ladder_16.csv", "chinchilla", loss=loss, objective="lad", **OLMO, **QUICK)


def test_runs_without_noise_give_the_law_that_made_them():
    columns = {"n": "parameters", "flops": "compute_budget", "loss": "final_loss"}
    fit = scaling.fit(CASES / "cs336_isoflops.csv", "chinchilla", **columns, **QUICK)
    truth = {"A": 1606.4, "B": 3210.7, "E": 2.69, "alpha": 0.34, "beta": 0.36}
    assert fit.params == pytest.approx(truth, rel=1e-7)
    assert fit.isoflop.measured == pytest.approx(fit.isoflop.by_law, abs=1e-6)


@pytest.mark.parametrize("law", ["power", "power_floor", "best"])
def test_four_runs_are_too_few(law):
    with pytest.raises(scaling.Refusal, match="runs; 4 remain"):
        scaling.fit(CASES / "c_4points.csv", law, d="d", loss="loss")


def test_least_absolute_deviation_reaches_the_linear_programs_minimum():
    assert of_olmo(C4).objective_value == pytest.approx(0.0375789, abs=5e-8)


@pytest.mark.slow
@pytest.mark.parametrize("loss", losses_of_olmo())
def test_least_absolute_deviation_converges_on_every_loss_of_a_ladder(loss):
    """No step within .001 of the parameters lowers the sum: the linear program of the law's tangent finds none."""
    fit = of_olmo(loss)
    law = fit.bind(fit.table.points(fit.law)).log
    steps_PP = 1e-6 * np.eye(len(fit.theta_P))
    slope_RP = np.stack(
        [(law((fit.theta_P + h)[None])[0] - law((fit.theta_P - h)[None])[0]) / 2e-6 for h in steps_PP], 1
    )
    residual_R = np.log(fit.table.response(fit.law)) - law(fit.theta_P[None])[0]
    runs, params = slope_RP.shape
    found = linprog(
        np.append(np.zeros(params), np.ones(runs)),
        A_ub=np.block([[slope_RP, -np.eye(runs)], [-slope_RP, -np.eye(runs)]]),
        b_ub=np.append(residual_R, -residual_R),
        bounds=[(-1e-3, 1e-3)] * params + [(0, None)] * runs,
    )
    assert found.fun >= fit.objective_value * (1 - 1e-7)


def test_a_ladder_is_optimistic_about_the_models_that_it_was_made_for_and_says_so():
    """The 7B-4T and 13B-5T runs of 2412.04403 measured 2.4829 and 2.4376, which nobody may believe of this law."""
    for name in ("olmo_ladder_16.csv", "olmo_ladder_20.csv"):
        table = scaling.read(CASES / name, loss=C4, **OLMO)
        fit = scaling.fit(table, "chinchilla", **QUICK)
        predicted = fit.predict(N=np.array([6.89e9, 1.32e10]), D=np.array([3.95e12, 5e12]))[0]
        error = predicted / np.array([2.4829, 2.4376]) - 1
        assert np.all((error > -0.04) & (error < 0.01))
        if error.min() < -0.01:
            assert fit.misfit.verdict == "misfits"


def test_a_pool_of_runs_predicts_its_largest():
    """ScaleBench (2604.22753): 404 runs of Farseer, and seven larger ones."""
    fit = scaling.fit(CASES / "farseer_train.parquet", "gamma", loss="loss", **OLMO, **QUICK)
    targets = pl.read_parquet(CASES / "farseer_test.parquet")
    predicted = fit.predict(N=targets["N"].to_numpy(), D=targets["D"].to_numpy())[0]
    assert np.abs(predicted / targets["loss"].to_numpy() - 1).max() < 0.01
    assert fit.misfit.verdict == "misfits"  # 404 runs show what ten would not


def test_runs_of_many_learning_rates_and_batches_are_no_table_of_one_law():
    """ScaleBench: 2,702 runs of Step Law, each with its own learning rate and batch."""
    columns = {"n": "non_embedding_param_size", "d": "data_size", "loss": "lm_loss"}
    fit = scaling.fit(CASES / "lr_bsz_train.parquet", "chinchilla", **columns, **QUICK)
    assert fit.misfit.verdict == "misfits"
    assert "the residuals vary with the column lr" in fit.misfit.sentences[0]
