"""Does a fit say when its law is wrong? Tables that follow their law and tables of other kinds, and runs that decide.

`benchmarks/misfit.py` measures how often; these tests are about single tables and about where the verdict is shown.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from few_forms import few_forms
from grid import mostly_slow
from planted_laws import exact, line, noise, planted, table

import scaling
from experiments.__main__ import main
from scaling.fitting.heldout import count_inside, predict_heldout
from scaling.fitting.influence import FAR
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import Problem
from scaling.fitting.trend import LEAST_CLUSTERS, trend
from scaling.laws.registry import LAWS
from scaling.table.run_table import RunTable

CASES = Path(__file__).parents[1].parent / "shared" / "cases" / "fits"
CS336 = {"n": "parameters", "flops": "compute_budget", "loss": "final_loss"}
QUICK = {"bootstrap": 0, "full": False}
D = np.geomspace(1e4, 1e9, 24)
OTHER_KINDS = {
    "exponential": 1 + 2 * np.exp(-D / 1e8),
    "sigmoid": 1 + 2 / (1 + (D / 3e6) ** 1.5),
    "logarithm": 3 - 0.2 * np.log10(D / 1e4),
    "U shape": 1 + 0.1 * np.log10(D / 3e6) ** 2,
    "double descent": 1 + (D / 1e4) ** -0.3 + 0.5 * np.exp(-(np.log(D / 1e6) ** 2) / 4),
    "broken": exact("broken", {"d": D}),
}


def of(loss: np.ndarray, sigma: float, seed: int, **axes: np.ndarray) -> RunTable:
    return table(loss * noise(len(loss), sigma, seed), **axes)


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.03])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_power_law_is_called_wrong_on_other_curves(kind, sigma):
    if kind == "logarithm":  # at most .7 % from the nearest power
        sigma /= 10
    fit = scaling.fit(of(OTHER_KINDS[kind], sigma, 1, d=D), "power_floor", **QUICK)
    assert fit.misfit.verdict == "misfits"
    assert fit.misfit.sentences[0].startswith("These runs do not follow this law: the residuals have a trend along D")


@pytest.mark.parametrize("sigma", [0.001, 0.01])
def test_chinchilla_is_called_wrong_on_a_law_that_bends_between_its_limits(sigma):
    runs = planted("gamma", sigma, 1, gamma=0.4)
    assert scaling.fit(runs, "chinchilla", **QUICK).misfit.verdict == "misfits"
    assert scaling.fit(runs, "gamma", **QUICK).misfit.verdict == "follows"


@pytest.mark.parametrize("sigma", [0.0, 0.01])
@pytest.mark.parametrize(
    "law",
    ["power", "power_floor", "broken", "chinchilla", pytest.param("kaplan", marks=pytest.mark.slow), "metric_sigmoid"],
)
def test_a_law_is_not_called_wrong_on_its_own_runs(law, sigma):
    fit = scaling.fit(planted(law, sigma, 2), law, **QUICK)
    assert fit.misfit.verdict == "follows"
    assert fit.misfit.sentences[0].startswith("These runs follow this law as far as they can show: ")


def from_case(name: str, law: str, **options) -> scaling.Fit:
    """Fits a planted table of the shared cases. The test is skipped where they are absent."""
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/fits")
    return scaling.fit(CASES / name, law, loss="loss", **({"d": "d"} | options))


@pytest.mark.parametrize(("law", "named", "column"), [
    ("chinchilla", {"n": "n"}, "V"), ("power_floor", {}, "n"), ("power_floor", {"n": "n"}, "n"),
])  # fmt: skip
def test_a_third_variable_is_pointed_out(law, named, column):
    fit = from_case("s_thirdvar.csv", law, **named, **QUICK)
    assert fit.misfit.verdict == "misfits"
    assert f"the residuals vary with the column {column}, which the law does not have" in fit.misfit.sentences[0]


def test_columns_that_move_nothing_are_not_pointed_out():
    """Settings without effect, a function of N, results of the run, and a copy of the loss in another unit."""
    rng = np.random.default_rng(3)
    runs = planted("chinchilla", 0.01, 3)
    rows = len(runs)
    setting, result = rng.integers(0, 4, rows), runs.loss * noise(rows, 0.01, 4)
    columns = {"batch": setting, "kind": [f"k{i % 3}" for i in range(rows)], "width": np.round(runs.n**0.3)}
    frame = pl.DataFrame(
        {"n": runs.n, "d": runs.d, "loss": runs.loss, **columns, "bits": result, "other": runs.loss / 2}
    )
    fit = scaling.fit(frame, "chinchilla", n="n", d="d", loss="loss", **QUICK)
    assert fit.others == ()
    moved = frame.with_columns(loss=pl.col("loss") * (1 + 0.02 * pl.Series(setting)))
    (other,) = scaling.fit(moved, "chinchilla", n="n", d="d", loss="loss", **QUICK).others
    assert other.name == "batch"


def test_tables_that_no_law_can_describe_are_refused():
    with pytest.raises(scaling.Refusal, match="loss rises with D in 100% of the pairs of runs"):
        from_case("c_rising.csv", "power_floor", **QUICK)
    with pytest.raises(scaling.InputError, match="Is N in thousands, millions or billions, and D not"):
        from_case("s_nmega.csv", "chinchilla", n="n", **QUICK)
    with pytest.raises(scaling.Refusal, match="the known floor 5 is not below any loss"):
        from_case("c_exp.csv", "power_floor", floor=5.0, **QUICK)


def test_where_no_two_forms_compete_best_is_the_simplest_with_a_floor(tmp_path):
    fit = from_case("c_6points.csv", "best", bootstrap=100)
    assert fit.law.name == "power_floor"
    assert fit.forms.chosen is fit.forms.best is None
    assert any("best was not earned: no two forms could be held out on the same runs" in text for text in fit.warnings)
    value, low, high = fit.predict(D=10 * fit.table.d.max())
    assert low < 1.05 < high
    assert value == pytest.approx(1.05, rel=0.01)


@pytest.mark.slow
def test_the_band_of_best_reaches_to_the_forms_that_the_runs_cannot_tell_from_it(tmp_path):
    fit = from_case("c_3clusters.csv", "best", cluster="run", bootstrap=50, full=False)
    assert fit.law.name == "power_floor"
    assert [rival.law.name for rival in fit.rivals] == ["broken"]
    fit.to_json(tmp_path / "fit.json")
    far = {"D": 1e4 * fit.table.d.max()}
    (other,) = (rival.predict(**far)[0] for rival in fit.rivals)
    for some in (fit, scaling.load(tmp_path / "fit.json")):
        _, low, high = some.predict(**far)
        assert low <= other <= high
    named = from_case("c_3clusters.csv", "power_floor", cluster="run", bootstrap=0)
    assert [rival.law.name for rival in named.rivals] == ["broken"]
    assert not named.rivals_in_band  # who names a law gets the band of that law


@cache
def p_values(tables: int) -> np.ndarray:
    """Returns the p-values of tables that follow a law of two parameters, with noise that grows tenfold."""
    size = np.geomspace(0.003, 0.03, len(D))
    found = []
    for seed in range(tables):
        loss = 30 * D**-0.17 * np.exp(size * np.random.default_rng(seed).standard_t(4, size=len(D)))
        problem = Problem.of(table(loss, d=D), LAWS["power"], None)
        theta_P = problem.minima(Objective("huber", 0.01)).theta_SP[0]
        found.append(trend(problem, theta_P, np.arange(len(D))).p_value)
    return np.array(found)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("tables", mostly_slow([80, 300], quick=[80]))
def test_p_values_of_a_law_that_holds_are_even_whatever_the_noise(tables, level):
    below = (p_values(tables) <= level).mean()
    assert abs(below - level) < 4 * np.sqrt(level * (1 - level) / tables)


def test_rows_of_one_run_are_one_piece_of_evidence():
    """Copies of every row, in the same cluster, neither make nor hide a trend."""
    runs = planted("power_floor", 0.01, 3)
    copies = np.repeat(np.arange(len(runs)), 4)
    clustered = table(runs.loss[copies], d=runs.d[copies], cluster=copies)
    once, more = (scaling.fit(t, "power_floor", objective="ls", **QUICK).trend for t in (runs, clustered))
    assert more.p_value == pytest.approx(once.p_value, abs=0.01)
    assert more.share == pytest.approx(once.share)
    assert more.directions == once.directions


def test_the_order_of_the_rows_does_not_matter():
    runs = planted("gamma", 0.03, 1)
    order = np.random.default_rng(0).permutation(len(runs))
    shuffled = table(runs.loss[order], n=runs.n[order], d=runs.d[order])
    one, other = (scaling.fit(t, "chinchilla", **QUICK) for t in (runs, shuffled))
    assert one.misfit == other.misfit


def test_too_few_independent_runs_cannot_tell():
    d = np.geomspace(1e5, 1e9, LEAST_CLUSTERS - 1)
    few = scaling.fit(of(1 + 37 * d**-0.27, 1e-3, 0, d=d), "power_floor", **QUICK)
    assert few.misfit.verdict == "cannot tell"
    assert few.misfit.sentences[0].startswith(
        "These runs cannot show if they follow this law: too few independent runs"
    )
    rows = np.repeat(np.arange(3), 12)
    clustered = table(planted("power_floor", 0.01, 0, {"d": np.geomspace(1e4, 1e9, 36)}).loss,
                      d=np.geomspace(1e4, 1e9, 36), cluster=rows)  # fmt: skip
    assert scaling.fit(clustered, "power_floor", **QUICK).misfit.verdict == "cannot tell"


def test_the_band_of_a_run_holds_the_nominal_share():
    inside = runs = 0
    for seed in range(30):
        held = predict_heldout(
            line(sigma=0.01, seed=seed, sizes=9), LAWS["power_floor"], Objective("ls"), None,
            bootstrap=100, seed=0, warnings=[],
        ).runs  # fmt: skip
        inside, runs = inside + count_inside(held), runs + len(held)
    assert 0.88 < inside / runs <= 1


def outlying(moved: float) -> RunTable:
    """Returns runs of chinchilla, the three smallest at the least data with a log loss that is higher by `moved`."""
    runs = planted("chinchilla", 3e-3, 4)
    is_smallest = np.isin(np.arange(len(runs)), np.lexsort((runs.n, runs.d))[:3])
    return table(runs.loss * np.where(is_smallest, np.exp(moved), 1.0), n=runs.n, d=runs.d)


def test_runs_far_off_the_law_are_left_out_and_shown_unasked():
    with few_forms():
        fit, without_them = (scaling.fit(outlying(moved), "chinchilla", bootstrap=0) for moved in (0.2, 0.0))
    (far,) = fit.influences
    assert len(far.runs) == 3
    assert FAR < far.deviations[0] <= far.deviations[1]
    (without,) = (v for v in fit.variants if v.name == "without 3 runs")
    assert without.rows == len(fit.table) - 3
    assert far.without == without.params[far.exponent]
    assert far.value == pytest.approx(fit.params[far.exponent])
    (said,) = (text for text in fit.misfit.sentences if "robust standard deviations off" in text)
    assert said.startswith("3 runs are ")
    assert f"{far.exponent} is {far.value:.3g} with them and {far.without:.3g} without" in said
    assert not without_them.influences


def test_one_run_that_decides_an_exponent_is_named():
    """The only run at a tenfold D pulls the law to itself, so its residual is small."""
    d = np.append(np.geomspace(1e5, 1e7, 20), 1e11)
    loss = 30 * d**-0.2 * noise(21, 3e-3, 0)
    loss[-1] *= 1.5
    with few_forms():
        fit = scaling.fit(table(loss, d=d), "power", objective="ls", bootstrap=0)
    (one,) = fit.influences
    assert one.runs == ("row 21",)
    assert one.exponent == "beta"
    assert one.without == pytest.approx(0.2, abs=0.01)
    assert abs(one.value - 0.2) > 3 * abs(one.without - 0.2)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("misfit") / "exponential.csv"
    pl.DataFrame({"d": D, "loss": OTHER_KINDS["exponential"] * noise(24, 3e-3, 0)}).write_csv(path)
    return path


@pytest.mark.slow
def test_every_answer_begins_with_the_misfit(csv, tmp_path, capsys):
    stored, page = tmp_path / "fit.json", tmp_path / "page.html"
    flags = ["--d", "d", "--loss", "loss", "--law", "power_floor", "--bootstrap", "40"]
    assert main(["fit", str(csv), *flags, "--json", str(stored)]) == 0
    assert capsys.readouterr().out.startswith("These runs do not follow this law: ")
    values = json.loads(stored.read_text())
    assert values["verdict"] == "misfits"
    assert values["verdict_sentences"][0].startswith("These runs do not follow this law: ")
    assert {"residuals", "held-out runs", "other forms"} <= {one["check"] for one in values["evidence"]}
    assert values["heldout_inside_band"] <= len(values["heldout"])
    assert values["heldout_rms_log_error"] > 0.1
    assert main(["report", str(csv), *flags, "--out", str(page)]) == 0
    assert "<p class=answer>24 runs do not follow L = E + A / D^beta" in page.read_text()
    fit = scaling.fit(csv, "power_floor", d="d", loss="loss", **QUICK)
    assert fit.summary().startswith("These runs do not follow this law: ")


def test_a_plan_repeats_the_verdict_of_its_fit(tmp_path, capsys):
    stored = tmp_path / "fit.json"
    scaling.fit(planted("gamma", 1e-3, 1, gamma=0.4), "chinchilla", bootstrap=40, full=False).to_json(stored)
    assert main(["plan", "--from", str(stored), "--budget", "1e18"]) == 0
    assert capsys.readouterr().out.startswith("These runs do not follow this law: ")


@pytest.mark.skipif(not CASES.exists(), reason="the tables of others are not next to the project")
@pytest.mark.parametrize(
    ("name", "law", "columns", "verdict"),
    [
        ("c_exp", "power_floor", {"d": "d"}, "misfits"),
        ("c_sig", "power_floor", {"d": "d"}, "misfits"),
        ("c_broken", "power_floor", {"d": "d"}, "misfits"),
        ("c_broken", "broken", {"d": "d"}, "follows"),
        ("c_6points", "power_floor", {"d": "d"}, "cannot tell"),
        ("c_3clusters", "power_floor", {"d": "d", "cluster": "run"}, "cannot tell"),
        ("s_gamma04", "chinchilla", {"d": "d", "n": "n"}, "misfits"),
        ("s_gamma04", "gamma", {"d": "d", "n": "n"}, "follows"),
        ("cs336_isoflops", "chinchilla", CS336, "follows"),
    ],
)  # fmt: skip
def test_the_tables_of_others(name, law, columns, verdict):
    fit = scaling.fit(CASES / f"{name}.csv", law, **({"loss": "loss"} | columns), **QUICK)
    assert fit.misfit.verdict == verdict


def at_equal_compute(sigma: float, seed: int, budgets: int = 6) -> RunTable:
    """Returns runs of a law whose N* ~ C^0.42, at seven N around the best one of each budget."""
    nd = np.geomspace(1e14, 1e19, budgets)
    best = (1.5 * 400 / (1.1 * 900)) ** (1 / 0.57) * nd ** (0.24 / 0.57)
    n = (best[:, None] * np.geomspace(1 / 5, 5, 7)).ravel()
    d = np.repeat(nd, 7) / n
    return of(1.7 + 400 * n**-0.33 + 900 * d**-0.24, sigma, seed, n=n, d=d)


def test_minima_at_equal_compute_are_evidence():
    """The law `tied` has one exponent, so that N* ~ C^0.5 whatever the runs say."""
    runs = at_equal_compute(3e-3, 0)
    right, wrong = (scaling.fit(runs, law, **QUICK) for law in ("chinchilla", "tied"))
    for fit, misfits in ((right, False), (wrong, True)):
        (one,) = (one for one in fit.misfit.evidence if one.check == "IsoFLOP minima")
        assert one.misfits is misfits
        assert one.says in fit.misfit.sentences[0]
        assert fit.isoflop.measured == right.isoflop.measured
        assert fit.isoflop.budgets == 6
    assert wrong.isoflop.by_law == pytest.approx(0.5, abs=0.01)
    assert abs(right.isoflop.by_law - right.isoflop.measured) < 0.02 < abs(0.5 - right.isoflop.measured)


def test_without_noise_the_minima_at_equal_compute_are_those_of_the_law():
    gap = scaling.fit(at_equal_compute(0.0, 0), "chinchilla", **QUICK).isoflop
    assert gap.measured == pytest.approx(gap.by_law, abs=1e-7)
    assert gap.test.p_value == 1.0


def test_too_few_budgets_are_no_evidence():
    assert scaling.fit(at_equal_compute(3e-3, 0, budgets=2), "chinchilla", **QUICK).isoflop is None
    assert scaling.fit(planted("power_floor", 0.01, 2), "power_floor", **QUICK).isoflop is None
