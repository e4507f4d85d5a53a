"""Expected errors of runs before they are made are the real ones, rays are cured, proposals are the best."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import scaling
from experiments.__main__ import main
from scaling.design.assumption import SIGMA_TYPICAL, Assumption, assume, fit_sigma
from scaling.design.cure import cure
from scaling.design.identify import Verdict, identify, refusal
from scaling.design.information import covariance, expect, information, jacobian, quantity
from scaling.design.next_runs import next_runs, read_planned
from scaling.design.propose import candidate_grid, propose
from scaling.errors import InputError, Refusal
from scaling.fitting.minimize import Objective, minimize
from scaling.laws import registry
from scaling.table.run_table import Columns, RunTable, from_frame

PLANTED = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29}
GRID = dict(
    zip("nd", (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e7, 1e10, 5))), strict=True)
)
RAY = {"n": np.geomspace(1e6, 1e9, 12), "d": 20 * np.geomspace(1e6, 1e9, 12)}
CHINCHILLA = registry.by_name("chinchilla")


def planted(points=GRID, sigma: float = 0.003, **changed: float) -> Assumption:
    return Assumption(assume(CHINCHILLA, PLANTED | changed, points), sigma, "planted")


def table(points, noise: float = 0.0, seed: int = 0, **more) -> RunTable:
    loss = (
        PLANTED["E"] + PLANTED["A"] * points["n"] ** -PLANTED["alpha"] + PLANTED["B"] * points["d"] ** -PLANTED["beta"]
    )
    loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    frame = pl.DataFrame({**points, "loss": loss, "seed": np.arange(len(loss))} | more)
    return from_frame(frame, Columns(loss="loss", n="n", d="d", recipe=tuple(more)))


def check_plan(law: str, params, n, d, sigma: float = SIGMA_TYPICAL, floor: float | None = None) -> Verdict:
    points = {"n": n, "d": d}
    return identify(Assumption(assume(registry.by_name(law), params, points, floor), sigma, "test"), points)


def half_widths(verdict) -> dict[str, float]:
    return {each.name: each.half_width95 or np.log(each.factor95) for each in verdict.expected}


def joined(*parts):
    return {axis: np.concatenate([part[axis] for part in parts]) for axis in "nd"}


def test_assumed_parameters_are_the_formulas_own():
    law = planted().law
    for name, value in PLANTED.items():
        assert law.natural(law.theta_P[None])[name][0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(law.loss_at(GRID)[0], table(GRID).loss, rtol=1e-12)


def test_the_jacobian_is_each_terms_share_times_its_slope():
    law = planted().law
    share_n = PLANTED["A"] * GRID["n"] ** -PLANTED["alpha"] / law.loss_at(GRID)[0]
    free = law.free
    found = jacobian(law, GRID)
    np.testing.assert_allclose(found[:, free.index("A")], share_n, rtol=1e-9)
    np.testing.assert_allclose(found[:, free.index("alpha")], -share_n * np.log(GRID["n"] / law.centre["n"]), atol=1e-9)


def test_information_adds_over_runs_and_doubles_with_a_second_seed():
    law = planted().law
    some, rest = ({axis: x[part] for axis, x in GRID.items()} for part in (slice(0, 9), slice(9, None)))
    whole = information(law, GRID, 0.003)
    np.testing.assert_allclose(information(law, some, 0.003) + information(law, rest, 0.003), whole, rtol=1e-9)
    np.testing.assert_allclose(information(law, joined(GRID, GRID), 0.003), 2 * whole, rtol=1e-9)
    np.testing.assert_allclose(information(law, GRID, 0.006), whole / 4, rtol=1e-9)


def test_expected_errors_are_those_of_simulated_fits():
    law, more = planted().law, ("loss@1e9,1e11", "nstar@1e21")
    expected = half_widths(identify(planted(sigma=0.002), GRID, more))
    noisy = (np.log(table(GRID, 0.002, seed).loss) for seed in range(300))
    fits = [minimize(law.bind(GRID), log_loss, Objective("ls"), law.theta_P[None]) for log_loss in noisy]
    assert all(fit.converged_S[0] for fit in fits)
    theta_SP = np.concatenate([fit.theta_SP for fit in fits])
    for name in (*law.free, "a", *more):
        asked = quantity(name, law)
        assert 1.96 * asked.evaluate(law, theta_SP).std() == pytest.approx(expected[asked.name], rel=0.15), name


def test_units_of_n_and_d_change_nothing_but_numbers_in_those_units():
    other = {"n": GRID["n"] / 1e2, "d": GRID["d"] * 7}
    in_units = PLANTED | {"A": 400.0 * 1e2**-0.34, "B": 900.0 * 7**0.29}
    plain, scaled = (
        half_widths(check_plan("chinchilla", params, **points, sigma=0.003))
        for params, points in ((PLANTED, GRID), (in_units, other))
    )
    assert plain == pytest.approx(scaled, rel=1e-6)
    typical, typical_scaled = (half_widths(check_plan("chinchilla", None, **points)) for points in (GRID, other))
    assert typical == pytest.approx(typical_scaled, rel=1e-6)


def test_noise_widens_and_in_the_end_nothing_is_identified():
    quiet, loud = (check_plan("chinchilla", PLANTED, **GRID, sigma=sigma) for sigma in (0.003, 0.006))
    assert quiet.identifies
    np.testing.assert_allclose(
        list(half_widths(loud).values()), 2 * np.array(list(half_widths(quiet).values())), rtol=1e-3
    )
    hopeless = check_plan("chinchilla", PLANTED, **GRID, sigma=0.5)
    assert not hopeless.identifies
    assert "alpha is expected at 0.34 +-" in hopeless.reasons[0]
    assert "moves no loss by more than" in hopeless.reasons[0]


def test_a_known_floor_shrinks_the_exponents():
    floorless = {name: value for name, value in PLANTED.items() if name != "E"}
    free = half_widths(check_plan("chinchilla", PLANTED, **GRID, sigma=0.003))
    known = half_widths(check_plan("chinchilla", floorless, **GRID, sigma=0.003, floor=1.7))
    assert "E" not in known
    assert known["alpha"] < free["alpha"]
    assert known["beta"] < free["beta"]


def test_a_single_ray_is_not_identified_and_says_what_trades_off():
    verdict = check_plan("chinchilla", None, **RAY)
    assert not verdict.identifies
    assert "single ray" in verdict.reasons[0]
    # two directions cost nothing: A against B and alpha against beta; rounding says which mixture comes out
    assert {"alpha", "beta"} <= set(verdict.weakest.replace(",", " ").split())
    assert "moves no loss by more than" in verdict.weakest


@pytest.mark.parametrize("seed", [0, 1])
def test_the_two_proposed_runs_cure_a_ray(seed):
    runs = table(RAY, 0.002, seed)
    with pytest.raises(Refusal, match="single ray"):
        scaling.fit(runs)
    advice = next_runs(runs)
    assert "single ray" in advice.refused
    assert advice.cure.cures
    assert len(advice.cure.runs) == 2
    assert len(advice.cure.sensitivity) == 2
    new = {"n": np.array([r.n for r in advice.cure.runs]), "d": np.array([r.d for r in advice.cure.runs])}
    cured = scaling.fit(table(joined(RAY, new), 0.002, seed), bootstrap=0, full=False)
    expected = half_widths(identify(planted(sigma=0.002), joined(RAY, new)))
    for name in ("alpha", "beta"):
        assert cured.params[name] == pytest.approx(PLANTED[name], abs=1.5 * expected[name])


@pytest.mark.parametrize("law", ["chinchilla", "tied", "kaplan", "gamma"])
def test_a_ray_is_cured_under_every_law_that_it_cannot_carry(law):
    advice = next_runs(table(RAY, 0.002), law)
    assert "single ray" in advice.refused
    assert advice.cure.cures
    # gamma has one exponent more than a ray and two runs can show
    assert (len(advice.cure.runs) > 2) == (law == "gamma")
    assert advice.cure.note.startswith("No two runs do it") == (law == "gamma")


def test_a_single_isoflop_budget_shows_no_exponent_and_is_cured_under_an_assumed_law():
    budget = {"n": RAY["n"], "d": 1e17 / RAY["n"]}
    with pytest.raises(Refusal, match=r"single ray.*assume a law"):
        next_runs(table(budget, 0.002))
    advice = next_runs(table(budget, 0.002), assumed=planted(budget).law)
    assert advice.cure.cures
    assert len(advice.cure.runs) == 2


def test_the_noise_of_a_fit_is_that_of_its_residuals_and_not_of_outliers():
    residual = 0.01 * np.random.default_rng(0).normal(size=20_000)
    assert fit_sigma(residual, 0) == pytest.approx(0.01 * 0.95**-0.5, rel=0.02)
    assert fit_sigma(7 * residual, 5) == pytest.approx(7 * fit_sigma(residual, 5), rel=1e-9)
    residual[:200] = 100.0
    assert fit_sigma(residual, 0) == pytest.approx(0.0103, rel=0.05)


def test_no_cheaper_two_runs_cure_a_ray():
    assumption = Assumption(assume(CHINCHILLA, None, RAY), 0.005, "typical")
    candidates = candidate_grid(RAY["n"][::4], RAY["d"][::4])
    found = cure((assumption,), RAY, candidates=candidates)
    flops = 6 * candidates["n"] * candidates["d"]
    assert found.cures
    for i in range(len(flops)):
        for j in range(i):
            if flops[i] + flops[j] < found.flops * (1 - 1e-9):
                points = joined(RAY, {axis: x[[i, j]] for axis, x in candidates.items()})
                error = half_widths_at(assumption, points)
                assert max(error) >= 0.15 or refusal(assumption.law, points)[0] is not None


def half_widths_at(assumption, points) -> list[float]:
    at = [assumption.law.free.index(name) for name in ("alpha", "beta")]
    spread = covariance(information(assumption.law, points, assumption.sigma))
    return list(1.96 * np.sqrt(np.diagonal(spread)[at]))


def test_where_two_runs_do_not_do_it_a_list_does():
    few = {axis: x[:5] for axis, x in RAY.items()}
    found = cure((Assumption(assume(CHINCHILLA, None, few), 0.005, "typical"),), few)
    assert found.cures
    assert len(found.runs) > 2
    assert found.note.startswith("No two runs do it: the best two")
    chosen = {"n": np.array([r.n for r in found.runs]), "d": np.array([r.d for r in found.runs])}
    assert check_plan("chinchilla", None, **joined(few, chosen)).identifies


def test_a_law_of_d_alone_is_planned_and_cured_by_more_data_sizes_of_the_smallest_n():
    points = {"n": np.tile([1e3, 1e4], 2), "d": np.repeat([1e5, 1e6], 2)}
    assert "at least 6 runs" in check_plan("power_floor", None, **points).reasons[0]
    law = assume(registry.by_name("power_floor"), None, points)
    found = cure((Assumption(law, 0.005, "typical"),), points)
    assert found.cures
    assert {run.n for run in found.runs} == {min(candidate_grid(**points)["n"])}
    new = {axis: np.array([getattr(run, axis) for run in found.runs]) for axis in "nd"}
    assert check_plan("power_floor", None, **joined(points, new)).identifies


def test_where_nothing_cures_it_the_best_is_called_so():
    found = cure((planted(RAY, sigma=3.0),), RAY)
    assert not found.cures
    assert "Nor do 12 runs" in found.note


@pytest.mark.parametrize("wanted", ["beta", "E", "a", "A", "loss@1e10,1e12", "nstar@1e22"])
@pytest.mark.parametrize("per", ["flop", "run"])
def test_the_first_proposed_run_beats_every_candidate(wanted, per):
    assumption = planted()
    candidates = {axis: x[::3] for axis, x in candidate_grid(**GRID).items()}
    proposal = propose(assumption, GRID, wanted, runs=3, candidates=candidates, per=per)
    target = quantity(wanted, assumption.law)
    before = information(assumption.law, GRID, assumption.sigma)

    def width(information_PP) -> float:
        each = expect(assumption.law, target, covariance(information_PP))
        return each.half_width95 or np.log(each.factor95)

    flops = 6 * candidates["n"] * candidates["d"]
    gain = np.array(
        [
            np.log(width(before) / width(before + information(assumption.law, {"n": n[None], "d": d[None]}, 0.003)))
            for n, d in zip(candidates["n"], candidates["d"], strict=True)
        ]
    ) / (flops if per == "flop" else 1.0)
    best = int(np.argmax(gain))
    assert proposal.runs[0].n * proposal.runs[0].d * 6 == pytest.approx(flops[best])
    assert proposal.runs[-1].flops_total == pytest.approx(sum(run.flops for run in proposal.runs))
    chosen = {"n": np.array([r.n for r in proposal.runs]), "d": np.array([r.d for r in proposal.runs])}
    after = expect(assumption.law, target, covariance(information(assumption.law, joined(GRID, chosen), 0.003)))
    assert str(proposal.runs[-1].after) == str(after)


def test_the_flops_limit_holds_for_all_runs_together():
    proposal = propose(planted(), GRID, "beta", runs=9, flops_limit=1e16, per="run")
    assert 0 < proposal.runs[-1].flops_total <= 1e16
    with pytest.raises(InputError, match="the cheapest costs"):
        propose(planted(), GRID, "beta", flops_limit=1.0)


def test_candidates_are_the_tables_values_those_between_and_one_step_more():
    grid = candidate_grid(np.array([1e6, 1e8, 1e6]), np.array([1e9]), n_limits=(1e5, 1e9))
    np.testing.assert_allclose(np.unique(grid["n"]), [1e6, 1e7, 1e8])
    assert np.isclose(grid["d"], 1e9, rtol=1e-12).any()
    with pytest.raises(InputError, match="Widen the limits"):
        candidate_grid(GRID["n"], GRID["d"], d_limits=(1.0, 2.0))


def test_a_good_table_gets_a_proposal_and_a_bad_one_no_runs_that_do_not_help():
    advice = next_runs(table(GRID, 0.003), wanted="alpha", runs=2)
    assert advice.refused is None
    assert advice.cure is None
    assert len(advice.proposal.runs) == 2
    assert advice.verdict.sigma == pytest.approx(0.003, rel=0.5)
    recipes = ["x"] * 12 + ["y"] * 13
    with pytest.raises(Refusal, match="dataset_fingerprint"):
        next_runs(table(GRID, 0.003, dataset_fingerprint=recipes), assumed=planted().law)
    with pytest.raises(Refusal, match="assume a law"):
        next_runs(table({axis: x[:6] for axis, x in GRID.items()}))


def test_a_plan_may_repeat_runs_and_needs_no_loss(tmp_path):
    pl.DataFrame({"n": [1, 1, 2], "d": [3.0, 3.0, 4.0], "status": ["planned"] * 3}).write_csv(tmp_path / "plan.csv")
    runs = read_planned(tmp_path / "plan.csv", Columns(n="n", d="d", loss="not read"))
    assert runs.n.tolist() == [1, 1, 2]
    assert runs.d.tolist() == [3, 3, 4]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, points in (("grid", GRID), ("ray", RAY)):
        table(points, 0.002).frame.write_csv(f"{name}.csv")
    (tmp_path / "fit.json").write_text(json.dumps(planted().law.stored()))


COLUMNS = ["--n", "n", "--d", "d"]


@pytest.mark.parametrize(
    ("arguments", "code", "proposed"),
    [
        (["grid.csv", "--planned", "--loss", "loss"], 0, False),
        (["grid.csv", "--from", "fit.json", "--quantity", "nstar@1e21"], 0, False),
        (["ray.csv"], 2, False),
        (["grid.csv", "--sigma", "0.5"], 2, False),
        (["grid.csv", "--loss", "loss", "--quantity", "a"], 0, True),
        (["ray.csv", "--loss", "loss", "--assume", "A=400,B=900,E=1.7,alpha=.34,beta=.29"], 0, False),
    ],
)
def test_command(files, tmp_path, capsys, arguments, code, proposed):
    assert main(["design", *arguments, *COLUMNS, "--json", "out.json"]) == code
    written = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr()
    assert written["verdict"]["identifies"] == ("ray" not in arguments[0] and code == 0)
    assert ("cannot identify" in printed.err) == (code == 2)
    assert (written["proposal"] is not None) == (proposed and code == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "no file or folder"),
        (["grid.csv", "--quantity", "betta"], "did you mean 'beta'"),
        (["grid.csv", "--quantity", "loss@1e9"], "wants 2 finite numbers"),
        (["grid.csv", "--assume", "A=1,B"], "NAME=NUMBER"),
        (["grid.csv", "--assume", "A=1,B=2"], "needs E"),
        (["grid.csv", "--assume", "A=1,B=2,E=-1,alpha=1,beta=1"], "assumed E is -1.0"),
        (["grid.csv", "--assume", "A=1", "--from", "fit.json"], "give one"),
        (["grid.csv", "--from", "fit.json", "--law", "power"], "leave the flag out"),
        (["grid.csv", "--law", "metric_sigmoid"], "a design is of N and D"),
        (["grid.csv", "--floor", "1.7"], "has the unit of the loss"),
        (["grid.csv", "--sigma", "-1"], "wanted the standard deviation"),
        (["grid.csv", "--loss", "loss", "--runs", "0"], "--runs is 0; wanted 1 to 1,000"),
        (["grid.csv", "--loss", "lss"], "did you mean 'loss'"),
        (["grid.csv", "--json", "no/folder.json"], "there is no folder"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(files, capsys, arguments, message):
    assert main(["design", *arguments, *COLUMNS]) == 2
    assert message in capsys.readouterr().err
