"""Advice for a budget: N* is the closed form, regret is the draws' own, a wrong N has its price, bounds say so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from planted_laws import planted

import scaling
from experiments.__main__ import main
from scaling.compute.budget import advise
from scaling.design.assumption import assume
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.laws import registry

PLANTED = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29}
POINTS = {"n": np.geomspace(1e6, 1e9, 5), "d": np.geomspace(1e7, 1e10, 5)}
LARGEST = 6e19
"""6 * 1e9 * 1e10 FLOPs."""


def fitted(draws: int = 200, spread: float = 0.02) -> FittedLaw:
    law = assume(registry.by_name("chinchilla"), PLANTED, POINTS)
    noise = np.random.default_rng(0).normal(size=(draws, len(law.theta_P)))
    return dataclasses.replace(law, cloud_SP=law.theta_P + spread * noise)


def loss(n, d):
    return PLANTED["E"] + PLANTED["A"] * n ** -PLANTED["alpha"] + PLANTED["B"] * d ** -PLANTED["beta"]


def test_the_best_n_is_the_closed_form():
    a, b = PLANTED["alpha"], PLANTED["beta"]
    g = (a * PLANTED["A"] / (b * PLANTED["B"])) ** (1 / (a + b))
    for row in advise(fitted(), [1e18, 1e20]).budgets:
        n = g * (row.flops / 6) ** (b / (a + b))
        assert row.n.value == pytest.approx(n, rel=1e-9)
        assert row.d.value == pytest.approx(row.flops / 6 / n, rel=1e-9)
        assert row.loss.value == pytest.approx(loss(n, row.flops / 6 / n), rel=1e-12)
        assert row.n.low < row.n.value < row.n.high


def test_regret_is_zero_if_every_draw_is_the_point_and_above_zero_else():
    (sure,) = advise(fitted(spread=0.0), [1e20]).budgets
    assert sure.regret.mean < 1e-12
    assert sure.regret.draws == 200
    (unsure,) = advise(fitted(), [1e20]).budgets
    assert 0 < unsure.regret.mean < unsure.regret.percentile95
    (more,) = advise(fitted(spread=0.04), [1e20]).budgets
    assert more.regret.mean > unsure.regret.mean


def test_a_wrong_n_costs_loss_and_compute():
    (row,) = advise(fitted(), [1e20]).budgets
    assert [wrong.choice for wrong in row.wrong_n] == ["low end of N*", "high end of N*", "half N*", "twice N*"]
    for wrong, n in zip(row.wrong_n, (row.n.low, row.n.high, row.n.value / 2, row.n.value * 2), strict=True):
        assert wrong.cost.n == pytest.approx(n, rel=1e-9)
        assert wrong.cost.loss == pytest.approx(loss(n, 1e20 / 6 / n), rel=1e-12)
        assert wrong.cost.loss > row.loss.value
        (cheaper,) = advise(fitted(0), [1e20 * wrong.cost.compute_ratio]).budgets
        assert cheaper.loss.value == pytest.approx(wrong.cost.loss, rel=1e-8)


def test_far_budgets_are_marked():
    near, far = advise(fitted(), [9 * LARGEST]), advise(fitted(), [9 * LARGEST, 11 * LARGEST])
    assert near.warnings == ()
    assert far.budgets[1].extrapolation_factor == pytest.approx(11)
    (warning,) = far.warnings
    assert "11 times the largest C" in warning


@pytest.mark.parametrize(("name", "missing"), [("alpha", "low"), ("A", "low"), ("beta", "high"), ("B", "high")])
def test_an_open_parameter_makes_n_a_bound(name, missing):
    whole, bounded = advise(fitted(), [1e19]), advise(fitted(), [1e19], open_params=(name,))
    (row,), (closed,) = bounded.budgets, whole.budgets
    kept = {"low": "high", "high": "low"}[missing]
    assert getattr(row.n, missing) is None
    assert getattr(row.n, kept) == getattr(closed.n, kept)
    assert getattr(row.d, kept) is None
    assert str(row.n).startswith({"low": "below", "high": "above"}[missing])
    assert f"{name} is open" in bounded.warnings[0]


def test_an_open_floor_leaves_n_as_it_is():
    assert advise(fitted(), [1e19], open_params=("E",)) == advise(fitted(), [1e19])


def test_a_term_that_vanishes_in_draws_makes_n_a_bound():
    law = fitted()
    law.cloud_SP[:20, law.free.index("B")] = -60.0
    found = advise(law, [1e19])
    (row,) = found.budgets
    assert row.n.high is None
    assert row.regret.draws == 180
    assert "D term vanished" in found.warnings[-1]


def test_without_draws_values_have_no_intervals():
    found = advise(fitted(0), [1e19])
    (row,) = found.budgets
    assert row.n.low is None
    assert row.n.high is None
    assert row.regret is None
    assert [wrong.choice for wrong in row.wrong_n] == ["half N*", "twice N*"]
    assert "without bootstrap" in found.warnings[0]


@pytest.mark.parametrize("budget", [0.0, -1e18, np.nan, np.inf])
def test_a_budget_is_a_finite_number_above_0(budget):
    with pytest.raises(InputError, match="above 0"):
        advise(fitted(), [1e18, budget])


@pytest.fixture
def fit_json(tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps(fitted().stored() | {"open_intervals": ["E"]}))
    return tmp_path / "fit.json"


def test_command(fit_json, tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["plan", "--from", str(fit_json), "--budget", "1e18", "1e21", "--json", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    written = json.loads(out.read_text())
    assert [row["flops"] for row in written["budgets"]] == [1e18, 1e21]
    assert written["budgets"][0]["n"]["value"] == advise(fitted(), [1e18]).budgets[0].n.value
    assert "16.7 times the largest C" in printed
    assert "expected regret" in printed


def test_a_law_without_n_has_nothing_to_choose(tmp_path, capsys):
    law = assume(registry.by_name("power_floor"), {"A": 30.0, "E": 0.3, "beta": 0.4}, POINTS)
    (tmp_path / "fit.json").write_text(json.dumps(law.stored()))
    assert main(["plan", "--from", str(tmp_path / "fit.json"), "--budget", "1e18"]) == 2
    assert "has no N" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"law": "chinchilla"}', '{"law": "chinchila", "theta": []}'])
def test_a_damaged_fit_is_one_message_and_exit_code_2(tmp_path, capsys, text):
    (tmp_path / "fit.json").write_text(text)
    assert main(["plan", "--from", str(tmp_path / "fit.json"), "--budget", "1e18"]) == 2
    assert "fit.json" in capsys.readouterr().err or "chinchila" in text


def test_budgets_and_paths_that_cannot_be(fit_json, capsys):
    assert main(["plan", "--from", str(fit_json.with_name("none.json")), "--budget", "1e18"]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main(["plan", "--from", str(fit_json), "--budget", "-1"]) == 2
    assert "above 0" in capsys.readouterr().err


def test_forms_that_the_runs_cannot_tell_apart_have_their_own_optimum(tmp_path, capsys):
    fit = scaling.fit(planted("chinchilla", 0.01, 1), "chinchilla", bootstrap=40)
    assert fit.rivals
    fit.to_json(tmp_path / "fit.json")
    flags = ["plan", "--from", str(tmp_path / "fit.json"), "--budget", "1e20"]
    assert main([*flags, "--json", str(tmp_path / "plan.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    (row,) = advise(fit, [1e20]).budgets
    assert row.spread in said
    assert [form.law for form in row.forms] == ["chinchilla", *(rival.law.name for rival in fit.rivals)]
    assert row.forms[0].n == row.n.value
    assert row.forms[0].loss == row.loss.value
    for rival, form in zip(fit.rivals, row.forms[1:], strict=True):
        assert form.loss == pytest.approx(rival.loss_at({"n": np.array([form.n]), "d": np.array([form.d])})[0, 0])
        around = form.n * np.array([0.98, 1.02])
        assert np.all(rival.loss_at({"n": around, "d": 1e20 / 6 / around})[0] > form.loss)
    (stored,) = json.loads((tmp_path / "plan.json").read_text())["budgets"]
    assert [form["n"] for form in stored["forms"]] == [form.n for form in row.forms]


def test_where_one_form_is_left_nothing_is_said_of_others(tmp_path, capsys):
    fit = scaling.fit(planted("gamma", 1e-3, 1, gamma=0.4), "chinchilla", bootstrap=40)
    assert fit.rivals == ()  # another form predicts far better: that is a misfit, and no doubt between two forms
    fit.to_json(tmp_path / "fit.json")
    assert main(["plan", "--from", str(tmp_path / "fit.json"), "--budget", "1e20"]) == 0
    assert "cannot tell chinchilla" not in capsys.readouterr().out
    assert advise(fit, [1e20]).budgets[0].forms == ()
