"""Laws of the best rate and batch: planted exponents come back, edges are bounds, what cannot be known is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from planted_rates import BATCH, DATA, RATE, SIZES, best, table

import scaling
from experiments.__main__ import main
from scaling.errors import InputError, Refusal
from scaling.rates.censored import Observed, regress
from scaling.rates.minimum import lowest_bias

NAMES = {"rate": "lr", "n": "params", "d": "tokens", "loss": "loss"}
BOTH = NAMES | {"batch": "rows"}
RATE_ALONE = {"batches": ()}
CASES = Path(__file__).parents[2] / "shared" / "cases" / "fits"


def covered(found: scaling.RatesFit) -> list[bool]:
    """Returns for each exponent if its 95 % interval has the planted one."""
    pairs = [(law, planted) for law, planted in ((found.rate, RATE), (found.batch, BATCH)) if law is not None]
    return [each.low < planted[axis] < each.high for law, planted in pairs for axis, each in law.exponents.items()]


def test_without_noise_the_planted_laws_come_back():
    found = scaling.fit_rates(table(noise=0.0, scatter=0.0), **BOTH, bootstrap=0)
    for law, planted in ((found.rate, RATE), (found.batch, BATCH)):
        assert law.exponents["n"].value == pytest.approx(planted["n"], abs=0.03)
        assert law.exponents["d"].value == pytest.approx(planted["d"], abs=0.03)
        value, low, high = law.predict(N=3e8, D=1e10)
        assert value == pytest.approx(best(planted, 3e8, 1e10), rel=0.1)
        assert np.isnan([low, high]).all()


def test_the_intervals_have_the_planted_exponents():
    tables = [table(seed=seed, **RATE_ALONE) for seed in range(8)]
    hits = [covered(scaling.fit_rates(each, **NAMES, bootstrap=60)) for each in tables]
    assert np.mean(hits) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, RATE_ALONE], ids=["rate and batch", "rate"])
def test_the_intervals_of_60_tables_have_the_planted_exponents(options):
    names = NAMES if options else BOTH
    hits = [covered(scaling.fit_rates(table(seed=seed, **options), **names, bootstrap=300)) for seed in range(60)]
    assert (np.mean(hits, axis=0) >= 0.88).all()


def test_a_minimum_at_an_edge_is_a_bound_and_not_a_value():
    rates = tuple(2.0 ** np.arange(-12, -6))
    found = scaling.fit_rates(table(rates=rates, scatter=0.0, **RATE_ALONE), **NAMES)
    by_side = {side: [each for each in found.minima if each.side_A == (side,)] for side in ("inside", "above", "below")}
    assert (len(by_side["inside"]), found.rate.bounds) == (found.rate.values, 16 - found.rate.values)
    assert by_side["above"]
    for each in by_side["above"]:
        assert math.exp(each.log_A[0]) == pytest.approx(rates[-1])
        assert best(RATE, each.cell.n, each.cell.d) > rates[-2]
    assert all(covered(found))


def test_bounds_make_up_for_values_that_are_cut_off():
    """A line through the values alone is too flat: those above the edge are missing, where the line is highest."""
    generator = np.random.default_rng(0)
    x = np.tile(np.linspace(-1, 1, 15), 10)
    value, edge = x + 0.3 * generator.normal(size=150), 0.5
    is_cut = value > edge
    design, stderr = np.column_stack([np.ones(150), x]), np.zeros(150)
    observed = Observed(np.minimum(value, edge)[None], np.where(is_cut, 1, 0)[None])
    slope, scatter = regress(observed, design, stderr).beta_SP[0, 1], regress(observed, design, stderr).scatter_S[0]
    kept = Observed(value[None, ~is_cut], np.zeros((1, (~is_cut).sum()), int))
    flat = regress(kept, design[~is_cut], stderr[~is_cut]).beta_SP[0, 1]
    assert slope == pytest.approx(1.0, abs=0.08)
    assert scatter == pytest.approx(0.3, rel=0.25)
    assert flat < slope - 0.1


def test_the_lowest_of_many_noisy_runs_is_too_low_by_the_expected_amount():
    true = np.linspace(0, 0.01, 40) ** 2 * 30
    noise = 2e-3 * np.random.default_rng(0).normal(size=(20_000, 40))
    simulated = (true + noise).min(axis=1).mean() - true.min()
    assert lowest_bias(true, 2e-3) == pytest.approx(simulated, rel=0.02)
    assert lowest_bias(true[:1], 2e-3) == pytest.approx(0.0, abs=1e-8)
    assert lowest_bias(true, 0.0) == 0.0


def test_the_noise_of_a_run_comes_from_repeats_where_there_are_some():
    found = scaling.fit_rates(table(seeds=2, noise=4e-3, **RATE_ALONE), **NAMES, bootstrap=0)
    assert found.noise_from == "repeated runs"
    assert found.run_noise == pytest.approx(4e-3, rel=0.2)
    biases = [each.lowest / each.corrected - 1 for each in found.minima]
    assert -0.01 < min(biases) < max(biases) < 0


def test_an_axis_that_does_not_vary_has_no_exponent_and_is_named():
    runs = table(sizes=(1e8,), data=tuple(np.geomspace(1e9, 1e11, 7)), noise=0.0, scatter=0.0, **RATE_ALONE)
    found = scaling.fit_rates(runs, **NAMES)
    assert found.rate.axes == ("d",)
    assert any("All cells have N 1e+08" in text for text in found.warnings)
    assert found.rate.predict(D=1e10)[0] == pytest.approx(best(RATE, 1e8, 1e10), rel=0.1)
    assert found.rate.outside(N=1e9, D=1e10) == ("N", pytest.approx(10))
    with pytest.raises(InputError, match="needs D"):
        found.rate.predict(N=1e8)


def test_cells_with_too_few_rates_are_named_and_left_out():
    runs = table(**RATE_ALONE)
    is_first = (pl.col("params") == SIZES[0]) & (pl.col("tokens") == DATA[0])
    found = scaling.fit_rates(pl.concat([runs.filter(~is_first), runs.filter(is_first).head(3)]), **NAMES, bootstrap=0)
    assert [(one.d, one.reason) for one in found.left_out] == [
        (pytest.approx(DATA[0]), "3 different values of the rate; wanted at least 4")
    ]
    assert len(found.minima) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (1e8, 1.5e8, 2e8)}, "3 values of N over a factor of 2; its exponent wants at least 3 over a factor"),
        ({"sizes": (1e8, 1e9)}, "2 values of N over a factor of 10"),
        ({"sizes": (1e8,), "data": (1e10,)}, "one N and one D: there is nothing that the best rate could depend on"),
        ({"rates": (1e-3, 2e-3, 4e-3)}, "no cell of one N and D has enough runs"),
        ({"rates": tuple(2.0 ** np.arange(-16.0, -11))}, "of 16 cells show a best rate|0 values of N"),
        (
            {"sizes": (1e8,), "data": DATA},
            "of 4 cells show a best rate inside .*, and a law of D wants 5",
        ),
    ],
)
def test_what_cannot_be_known_is_refused(options, message):
    with pytest.raises(Refusal, match=message):
        scaling.fit_rates(table(**RATE_ALONE | options), **NAMES)


def test_sizes_and_data_that_vary_together_are_refused():
    parts = [table(sizes=(n,), data=(20 * n,), seed=i, **RATE_ALONE) for i, n in enumerate(np.geomspace(3e7, 3e9, 9))]
    with pytest.raises(Refusal, match="vary together"):
        scaling.fit_rates(pl.concat(parts), **NAMES)


def test_too_few_draws_for_an_interval_are_refused():
    with pytest.raises(InputError, match="bootstrap is 39; wanted 40 draws or more"):
        scaling.fit_rates(table(), **BOTH, bootstrap=39)


def test_the_file_gives_the_same_predictions_and_a_damaged_one_is_named(tmp_path):
    found = scaling.fit_rates(table(), **BOTH, bootstrap=50)
    path = tmp_path / "rates.json"
    found.to_json(path)
    again = scaling.load_rates(path)
    for setting, values in found.predict(N=1e8, D=1e10).items():
        np.testing.assert_allclose(again.predict(N=1e8, D=1e10)[setting], values, rtol=1e-12)
    stored = json.loads(path.read_text())
    for name, wrong in (
        ("theta", [1.0]),
        ("centre", {}),
        ("axes", ["x"]),
        ("ranges", {"d": [1, -1]}),
        ("cloud", [[1]]),
    ):
        path.write_text(json.dumps(stored | {"laws": {"rate": stored["laws"]["rate"] | {name: wrong}}}))
        with pytest.raises(InputError, match="its law of the rate is not whole"):
            scaling.load_rates(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="has no laws of the best rate"):
        scaling.load_rates(path)


# The commands.


@pytest.fixture
def runs(tmp_path):
    path = tmp_path / "runs.csv"
    table(sizes=SIZES, data=DATA).write_csv(path)
    return path


FLAGS = ("--rate", "lr", "--batch", "rows", "--n", "params", "--d", "tokens", "--loss", "loss")


def test_the_command_answers_in_sentences_and_a_table_of_cells(runs, tmp_path, capsys):
    out = tmp_path / "rates.json"
    assert main(["rates", str(runs), *FLAGS, "--bootstrap", "50", "--json", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The best rate goes as N^-0.6" in said
    assert "The best batch goes as" in said
    assert "too low" in said
    assert len(json.loads(out.read_text())["cells"]) == 16
    assert main(["rates", str(runs), *FLAGS[2:]]) == 2
    assert "name it with --rate" in capsys.readouterr().err
    assert main(["rates", str(runs), "--rate", "Lr", *FLAGS[2:]]) == 2
    assert "no column 'Lr' (--rate)" in capsys.readouterr().err


def test_a_plan_has_the_rate_and_batch_of_its_budget(runs, tmp_path, capsys):
    rates, fit, plan = (tmp_path / name for name in ("rates.json", "fit.json", "plan.json"))
    assert main(["rates", str(runs), *FLAGS, "--bootstrap", "50", "--json", str(rates)]) == 0
    law = scaling.fit(
        pl.read_csv(runs).group_by("params", "tokens").agg(pl.col("loss").min()),
        "chinchilla", n="params", d="tokens", loss="loss", bootstrap=50, full=False,
    )  # fmt: skip
    law.to_json(fit)
    arguments = ["plan", "--from", str(fit), "--rates", str(rates), "--json", str(plan), "--budget"]
    capsys.readouterr()
    assert main([*arguments, "6e18", "1e23"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "best lr" in said
    assert "best rows" in said
    assert "times outside the" in said
    found = json.loads(plan.read_text())
    for budget, row in zip(found["budgets"], found["rates"]["budgets"], strict=True):
        n, d = budget["n"]["value"], budget["d"]["value"]
        value, low, high = scaling.load_rates(rates).rate.predict(n, d)
        assert (row["rate"]["low"], row["rate"]["value"], row["rate"]["high"]) == pytest.approx((low, value, high))
    assert found["rates"]["budgets"][0]["rate"]["value"] == pytest.approx(
        best(RATE, found["budgets"][0]["n"]["value"], found["budgets"][0]["d"]["value"]), rel=0.2
    )
    assert main([*arguments, "6e18", "--rates", str(fit)]) == 2
    assert "has no laws of the best rate" in capsys.readouterr().err


@pytest.mark.skipif(not CASES.exists(), reason="Step Law's grids are not here")
def test_the_law_of_step_laws_grids_predicts_its_largest_cell():
    columns = {"rate": "lr", "batch": "bsz", "n": "non_embedding_param_size", "d": "data_size", "loss": "lm_loss"}
    found = scaling.fit_rates(CASES / "lr_bsz_train.parquet", **columns, bootstrap=0)
    test = pl.read_parquet(CASES / "lr_bsz_test.parquet")
    (n,), (d,) = test["non_embedding_param_size"].unique(), test["data_size"].unique()
    at = {setting: float(value) for setting, (value, _, _) in found.predict(n, d).items()}
    away = [(pl.col(name).log() - math.log(at[setting])) ** 2 for name, setting in (("lr", "rate"), ("bsz", "batch"))]
    nearest = test.sort(away[0] + away[1])
    assert nearest["lm_loss"][0] - test["lm_loss"].min() < 0.003
