"""Tests the words and numbers of a report: counts as people say them, intervals with the digits that they support, no
floor where there is none, and no reference that flattens the data.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from report_runs import COLUMNS, runs, without_floor

import scaling
from doors.terminal import Terminal
from experiments.cli.show_fit import show_fit
from scaling.errors import Refusal
from scaling.fitting.lead import lead_first
from scaling.fitting.misfit import HELD_OUT, REPEATS, SURE, Evidence, Misfit
from scaling.fitting.trend import Trend
from scaling.report.answer import answer, meaning, noise_sentences, path_sentence
from scaling.report.compute import frontier_of, isoflop_of
from scaling.report.figures import parts
from scaling.report.figures.gallery import all_figures
from scaling.report.figures.parts import Subject
from scaling.report.numbers import amount, estimate, flops, interval
from scaling.table.run_table import Columns, from_frame

pytestmark = pytest.mark.usefixtures("few_forms")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (450, "450"), (449_126, "449K"), (999_999, "1M"), (1e11, "100B"), (2.5e13, "25T"), (2e18, "2e18")],
)  # fmt: skip
def test_counts_are_as_people_say_them(value, text):
    assert amount(value) == text


def test_a_missing_number_is_a_dash():
    assert (amount(None), amount(float("nan")), flops(None), interval(None)) == ("-", "-", "-", "[-, -]")


@pytest.mark.parametrize("value", [0.3015, 1.8172, 11.47, 213.4])
@pytest.mark.parametrize("half_width", [0.0007, 0.03, 0.4])
def test_an_interval_has_two_digits_of_its_width_and_its_value_is_inside(value, half_width):
    low, high = value - half_width * value, value + half_width * value
    shown = [
        float(part) for part in estimate(value, (low, high)).replace("[", "").replace("]", "").replace(",", "").split()
    ]
    assert shown == pytest.approx([value, low, high], abs=0.05 * (high - low))
    assert len(estimate(value, (low, high))) <= 32


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.49999999999999972, 0.5, "0.5 [0.5, 0.5]"),
        (-0.5, -0.49999999999999972, "-0.5 [-0.5, -0.5]"),
        (0.5, 0.5, "0.5 [0.5, 0.5]"),
        (0.0, 0.0, "0 [0, 0]"),
    ],
)
def test_an_interval_as_narrow_as_rounding_is_one_point(low, high, text):
    assert estimate(low, (low, high)) == text


def test_a_law_without_a_floor_has_no_loss_above_it():
    d = np.geomspace(1e3, 1e6, 12)
    noisy = d**-0.3 * np.exp(1e-3 * np.random.default_rng(0).normal(size=12))
    table = from_frame(pl.DataFrame({"d": d, "loss": noisy}), Columns(loss="loss", d="d"))
    says = answer(scaling.fit(table, "power", bootstrap=100, full=False))
    assert "Ten times the data divide the loss by 2.0" in says or "Ten times the data divide the loss by 1.99" in says
    assert "floor" not in says


def test_every_fit_is_shown_once_however_often_the_lead_is_put_first():
    table, fit = without_floor()
    fits = [("power", Refusal("no")), ("power_floor", fit)]
    once = lead_first(fits)
    assert lead_first(lead_first(once)) == once == [fits[1], fits[0]]
    assert len(meaning(fit)) == len(set(meaning(fit)))
    assert len(table)


def test_a_baseline_that_would_flatten_the_data_is_named_and_not_drawn():
    def chart(baseline: float) -> dict:
        table = from_frame(runs().with_columns(base=pl.lit(baseline)), COLUMNS)
        return all_figures(Subject(table, None))["loss_against_data"].to_dict()

    near, far = chart(0.47), chart(0.9)
    assert "popularity baseline 0.47" in json.dumps(near["datasets"])
    assert "popularity baseline" not in json.dumps(far["datasets"])
    assert "popularity baseline, 0.9" in " ".join(far["title"]["subtitle"])
    top = [layer["encoding"]["y"]["scale"]["domain"][1] for layer in far["layer"]]
    assert max(top) < 0.6


def test_a_single_run_makes_no_figure():
    assert all_figures(Subject(from_frame(runs(1), COLUMNS), None)) == {}


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_colours_are_distinct_and_visible_on_white_and_on_black(count):
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    colours = parts.ramp(count)
    assert len(set(colours)) == count
    assert all(1.05 / (luminance(c) + 0.05) > 2 and (luminance(c) + 0.05) / 0.058 > 2 for c in colours)


@pytest.mark.parametrize(("p_value", "verdict"), [(0.02, "no more than"), (0.004, "more than")])
def test_the_misfit_beyond_the_noise_is_one_sentence_wherever_it_is_said(p_value, verdict, capsys):
    d = np.repeat(np.geomspace(1e3, 1e6, 6), 3)
    noisy = d**-0.3 * np.exp(1e-3 * np.random.default_rng(0).normal(size=18))
    table = from_frame(pl.DataFrame({"d": d, "loss": noisy}), Columns(loss="loss", d="d"))
    fit = scaling.fit(table, "power", bootstrap=0, full=False)
    fit = dataclasses.replace(fit, lack_of_fit=Trend(p_value, share=0.5, rms=1e-3, directions=4))
    says = f"the law misses the runs by {verdict} the noise between repeats (p = {p_value})"
    assert fit.misfit.of(REPEATS).says == says
    assert (fit.misfit.verdict == "misfits") == (p_value <= SURE)
    show_fit(fit, Terminal())
    assert says in " ".join(capsys.readouterr().out.split())
    assert f"{says[0].upper()}{says[1:]}." in noise_sentences(fit)


def test_held_out_runs_inside_their_own_bands_are_not_called_too_far():
    off = Evidence(HELD_OUT, True, "the 12 largest runs, held out, are predicted 1 % off, with 12 of 12 inside", 0.002)
    (says,) = Misfit("misfits", (off,), ()).sentences
    assert says.endswith(
        "inside, and together they are further to one side of the law than their noise explains (p = 0.002)."
    )


def test_an_open_exponent_is_open_in_the_first_paragraph_too():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    table = from_frame(
        pl.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 900 / d**0.29}), Columns(loss="loss")
    )
    fit = scaling.fit(table, "chinchilla", bootstrap=0, full=False)
    assert "The best size N grows as C^0.46" in answer(fit, frontier_of(table, fit))
    fit = dataclasses.replace(fit, bounds={"alpha": (0.2, None)})
    path = frontier_of(table, fit)
    for says in (answer(fit, path), path_sentence(path, is_measured=False)):
        assert "How the best N and D grow with compute is open: the interval of alpha is open" in says
        assert "C^" not in says
        assert "D/N" not in says
    assert "the interval of alpha is open" in isoflop_of(table, fit).lines["surface"].refused
