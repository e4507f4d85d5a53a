"""Tests the words and numbers of a report: counts as people say them, intervals with the digits that they support, no
floor where there is none, and no reference that flattens the data.
"""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from report_runs import COLUMNS, runs, without_floor

import scaling
from scaling.errors import Refusal
from scaling.fitting.lead import lead_first
from scaling.report.answer import answer, meaning
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
