"""Tests forms: the largest runs choose the form that made them, no refit sees them, and a fraction that cannot be
held out is reported.
"""

import dataclasses
from functools import cache

import numpy as np
import pytest
from few_forms import few_forms
from grid import mostly_slow
from planted_laws import line, planted

import scaling
from scaling.fitting.forms import FRACTIONS, NEAR, Forms, compare_forms, family
from scaling.fitting.heldout import predict_heldout, reach, without
from scaling.fitting.minimize import Objective
from scaling.laws import registry
from scaling.table.run_table import RunTable

LEAST_SQUARES = Objective("ls")


@cache
def forms_of(law: str, sigma: float = 1e-3, seed: int = 1) -> Forms:
    return compare_forms(planted(law, sigma, seed), registry.LAWS[law], LEAST_SQUARES, None)


def law_of(name: str) -> registry.Law:
    return registry.LAWS[name]


def test_laws_of_a_family_have_the_same_axes_and_response():
    for law in registry.LAWS.values():
        for form in family(law, None):
            assert (set(form.axes), form.response) == (set(law.axes), law.response)
    assert [form.name for form in family(law_of("repeated"), None)] == ["repeated"]


def test_a_known_floor_leaves_the_forms_that_have_one():
    assert [law.name for law in family(law_of("gamma"), 1.7)] == ["chinchilla", "tied", "gamma"]
    assert [law.name for law in family(law_of("power_floor"), 0.3)] == ["power_floor", "broken"]
    assert len(family(law_of("chinchilla"), None)) == 5


MADE_BY = ("chinchilla", "gamma", "power_floor", "metric_sigmoid", "metric_exponential")


@pytest.mark.parametrize("law", mostly_slow(MADE_BY, quick=["gamma", "metric_sigmoid"]))
def test_with_little_noise_the_form_that_made_the_runs_is_chosen(law):
    forms = forms_of(law)
    assert forms.chosen == law
    assert forms.chosen in forms.near
    assert forms.pooled[law] == min(forms.pooled.values())


def test_a_turn_that_the_smaller_half_does_not_show_is_still_chosen_by_the_rest():
    """If the broken law cannot be fitted without half of the runs, the other fractions judge all forms."""
    forms = forms_of("broken", seed=0)
    refused = [row for row in forms.rows if row.refused is not None]
    assert [(row.law, row.fraction_held) for row in refused] == [("broken", 0.5)]
    assert forms.chosen == "broken"
    for name, pooled in forms.pooled.items():
        rms = [row.rms_log_error for row in forms.rows if row.law == name and row.fraction_held < 0.5]
        assert pooled == pytest.approx(np.sqrt(np.mean(np.square(rms))))


def test_a_law_inside_a_larger_one_is_as_good_and_the_larger_is_near():
    """On tied runs one more exponent neither helps nor harms, so noise decides which form is chosen."""
    forms = forms_of("tied")
    assert set(forms.near) >= {"tied", "chinchilla"}
    assert {"chinchilla_no_floor", "kaplan"}.isdisjoint(forms.near)
    assert forms.spread < 0.005
    wrong = forms.pooled["kaplan"]
    assert max(forms.pooled["tied"], forms.pooled["chinchilla"]) < wrong / 20


def test_the_fractions_hold_out_the_largest_runs():
    runs, law = planted("chinchilla", 1e-3, 1), law_of("chinchilla")
    with few_forms():
        rows = compare_forms(runs, law, LEAST_SQUARES, None).rows
    size = reach(runs, law)
    for row in rows:
        held = np.sort(size)[-row.runs_held :]
        assert row.fraction_held == row.runs_held / len(runs)
        assert row.extrapolation_factor == pytest.approx(held.max() / np.sort(size)[-row.runs_held - 1])
    wanted = {row.fraction_held for row in rows}
    # on a grid runs tie in N D, and ties stay together
    np.testing.assert_allclose(sorted(wanted), FRACTIONS, atol=0.1)


def test_runs_of_one_size_stay_together():
    forms = compare_forms(line(sigma=1e-3, repeats=4), law_of("power"), LEAST_SQUARES, None)
    assert {row.runs_held % 4 for row in forms.rows} == {0}
    # 6 sizes: a tenth and a fifth hold out the same runs, and count once
    assert sorted({row.runs_held for row in forms.rows}) == [4, 8, 12]


def changed_at_the_top(runs: RunTable, law: str, fraction_held: float, factor: float) -> tuple[RunTable, np.ndarray]:
    """Returns the table with another response in its largest runs, and which runs those are."""
    size = reach(runs, law_of(law))
    held = size >= np.sort(size)[len(size) - round(fraction_held * len(size))]
    field = law_of(law).response
    return dataclasses.replace(runs, **{field: getattr(runs, field) * np.where(held, factor, 1.0)}), held


def test_no_refit_sees_what_it_must_predict():
    """The runs that every fraction holds out are changed: all predictions stay, and the errors move by the change."""
    law = "metric_sigmoid"
    runs, plain = planted(law, 1e-3, 1), forms_of(law)
    least_held = min(row.runs_held for row in plain.rows)
    other, _ = changed_at_the_top(runs, law, least_held / len(runs), 0.8)
    again = compare_forms(other, law_of(law), LEAST_SQUARES, None)
    for before, after in zip(plain.rows, again.rows, strict=True):
        assert (before.law, before.runs_held) == (after.law, after.runs_held)
        moved = np.log(0.8) * least_held / before.runs_held
        assert after.mean_log_error == pytest.approx(before.mean_log_error - moved, abs=1e-9)


@pytest.mark.parametrize("law", ["power_floor", "chinchilla"])
def test_the_held_out_check_predicts_the_same_whatever_was_measured_there(law):
    runs = line(sigma=1e-3) if law == "power_floor" else planted(law, 1e-3, 1)
    notes: list[str] = []
    goal = Objective("huber", 2e-3)
    plain, rows = predict_heldout(runs, law_of(law), goal, None, bootstrap=20, seed=0, warnings=notes)
    other, held = changed_at_the_top(runs, law, len(plain) / len(runs), 1.3)
    again, _ = predict_heldout(other, law_of(law), goal, None, bootstrap=20, seed=0, warnings=notes)
    assert list(rows) == list(held)
    assert [run.run for run in plain] == [runs.row_id[i] for i in np.flatnonzero(held)]
    assert [run.predicted for run in plain] == [run.predicted for run in again]
    assert [run.predicted95 for run in plain] == [run.predicted95 for run in again]
    for run in plain:
        assert run.relative_error == pytest.approx(run.predicted / run.loss - 1)
        assert run.predicted95[0] < run.predicted < run.predicted95[1]
        assert abs(run.relative_error) < 0.01
    assert not notes


def test_where_the_rest_cannot_carry_the_law_the_check_says_so():
    runs, notes = line(sizes=5, repeats=2, sigma=1e-3), []
    found = predict_heldout(runs, law_of("power_floor"), LEAST_SQUARES, None, bootstrap=0, seed=0, warnings=notes)
    assert found.runs == ()
    assert not found.held_R.any()
    assert notes[0].startswith("No held-out check: without the 4 largest runs, ")
    assert "3 distinct D for 3 free parameters" in notes[0]


def test_a_form_that_the_rest_cannot_carry_has_its_reason_in_its_row():
    forms = compare_forms(line(sigma=1e-3), law_of("power_floor"), LEAST_SQUARES, None)
    broken = [row for row in forms.rows if row.law == "broken"]
    assert broken
    for row in broken:
        assert "distinct D" in row.refused
        assert row.rms_log_error is row.mean_log_error is row.worst_log_error is None
    assert "broken" not in forms.pooled
    assert "broken" not in forms.at_target
    assert forms.chosen == "power_floor"


def test_where_no_fraction_leaves_enough_nothing_is_chosen():
    fit = scaling.fit(line(sizes=3, repeats=2, sigma=1e-3), "best", floor=0.37, bootstrap=0, full=False)
    assert fit.forms.chosen is None
    assert fit.forms.pooled == {}
    assert fit.forms.near == ()
    assert fit.forms.spread is None
    assert all("distinct D" in row.refused or "at least" in row.refused for row in fit.forms.rows)
    assert fit.law.name == "power_floor"
    assert any("best was not earned: no two forms" in warning for warning in fit.warnings)


def test_the_target_is_ten_times_the_largest_run_and_the_spread_that_of_the_near_forms():
    runs = planted("tied", 1e-3, 1)
    forms = forms_of("tied")
    assert forms.target["n"] * forms.target["d"] == pytest.approx(10 * (runs.n * runs.d).max())
    point = {axis: np.array([x]) for axis, x in forms.target.items()}
    for name, value in forms.at_target.items():
        whole = without(runs, law_of(name), LEAST_SQUARES, None)
        assert value == pytest.approx(float(whole.loss_at(point)[0, 0]), rel=1e-9)
    near = [forms.at_target[name] for name, error in forms.pooled.items() if error <= NEAR * min(forms.pooled.values())]
    assert forms.spread == pytest.approx(max(near) / min(near) - 1)


def test_laws_of_a_loss_have_no_target():
    forms = forms_of("metric_sigmoid")
    assert forms.target == forms.at_target == {}
    assert forms.spread is None


def test_best_is_the_fit_of_the_chosen_form():
    """Such a table would begin with the sigmoid."""
    runs = planted("metric_exponential", 1e-3, 1)
    fit = scaling.fit(runs, "best", objective="ls", bootstrap=40, full=False)
    assert fit.forms.chosen == fit.law.name == "metric_exponential"
    same = scaling.fit(runs, "metric_exponential", objective="ls", bootstrap=40, full=False)
    assert fit.params == same.params
    np.testing.assert_array_equal(fit.cloud_SP, same.cloud_SP)


def test_the_errors_are_of_the_logs_with_their_sign():
    runs, law = planted("power_floor", 1e-3, 1), law_of("power_floor")
    with few_forms():
        forms = compare_forms(runs, law, LEAST_SQUARES, None)
    size = reach(runs, law)
    (row,) = (r for r in forms.rows if r.law == "power" and r.runs_held == 12)
    held = size >= np.sort(size)[-12]
    refit = without(runs.take(~held), law_of("power"), LEAST_SQUARES, None)
    error = np.log(refit.loss_at({"d": runs.d[held]})[0] / runs.loss[held])
    assert row.rms_log_error == pytest.approx(np.sqrt((error**2).mean()))
    assert row.mean_log_error == pytest.approx(error.mean())
    assert row.worst_log_error == pytest.approx(error[np.abs(error).argmax()])
    # a power law without the floor that is there promises too much
    assert row.mean_log_error < 0


def test_a_row_is_plain_numbers():
    assert {type(value) for row in forms_of("gamma").rows for value in vars(row).values()} <= {
        str, float, int, type(None),
    }  # fmt: skip
