"""Tests the demo: what it says about a law and the truth, and which folders it does not go on in."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl
import pytest

import scaling
from experiments.demo.axes import HELD_OUT, axes
from experiments.demo.make_runs import make_runs
from experiments.demo.recovered import Recovered
from experiments.sweep.launch import local
from scaling.laws.theory import Theory
from scaling.report import overview
from scaling.table import run_table
from sessionrec_jax.data.preparation.prepare import prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.errors import InputError

FLOOR = 0.2


@functools.cache
def fitted() -> tuple[run_table.RunTable, scaling.Fit]:
    """Returns runs that fall as D^-0.5 with a little noise, and their fit."""
    d = np.geomspace(1e3, 1e5, 8)
    noise = np.random.default_rng(0).normal(0, 2e-4, len(d))
    frame = pl.DataFrame({"d": d, "loss": (FLOOR + 0.5 * d**-0.5) * np.exp(noise), "floor": FLOOR})
    runs = run_table.from_frame(frame, scaling.Columns(d="d", loss="loss", floor_column="floor"), source="planted")
    return runs, scaling.fit(runs, "power_floor")


def recovered(exponent: float, curve: bool = False) -> Recovered:
    """Returns an axis with these runs and a truth of another exponent."""
    runs, fit = fitted()
    points = tuple((x, 0.4 * x**-exponent) for x in runs.d) if curve else ()
    return Recovered(axes("smallest", 0)[0], runs, "power_floor", fit, Theory(exponent, FLOOR, points, ""))


@pytest.mark.parametrize("curve", [False, True])
def test_an_exponent_is_held_against_the_exact_one(curve):
    right, wrong = recovered(0.5, curve).lines()[0], recovered(0.7, curve).lines()[0]
    assert ", inside the interval" in right
    assert ", OUTSIDE the interval" in wrong
    assert f" {0.7:.4f}" in wrong
    assert ("the exact learner" in right) == curve


def test_a_held_out_run_is_named_with_its_error():
    found = recovered(0.5)
    run = max(found.fit.heldout, key=lambda run: run.extrapolation_factor)
    assert f"({run.relative_error:+.2%}, {run.excess_relative_error:+.1%} of the excess)" in found.lines()[1]


def test_a_refusal_stands_where_the_exponent_would():
    found = dataclasses.replace(recovered(0.5), fit=scaling.Refusal("too few runs"))
    assert found.lines() == ["exponent: refused. too few runs", "held out: -"]


def test_the_overview_shows_each_law_and_its_lines(tmp_path):
    found = recovered(0.5, curve=True)
    refused = dataclasses.replace(found, fit=scaling.Refusal("too few <runs>"))
    parts = [
        overview.Part(name, name.upper(), one.runs, one.fit, one.theory, one.lines(), f"{name}.html")
        for name, one in (("good", found), ("bad", refused))
    ]
    overview.write(tmp_path / "report.html", "Laws", parts)
    page = (tmp_path / "report.html").read_text()
    assert found.lines()[0] in page
    assert "too few &lt;runs&gt;" in page
    assert 'href="good.html"' in page
    for name in ("good", "bad"):
        assert {path.suffix for path in (tmp_path / "report_figures").glob(f"{name}.*")} == {".svg", ".png", ".pdf"}


def test_a_demo_does_not_go_on_in_the_folder_of_another(tmp_path):
    first, other = axes("smallest", 0)[1], axes("smallest", 1)[1]
    prepare(synthetic.read(synthetic.Options(**vars(first.process))), tmp_path / "log", HELD_OUT)
    with pytest.raises(InputError, match="another demo"):
        make_runs(other, tmp_path, local.Launcher(1), print)


@pytest.mark.parametrize("size", ["full", "smallest"])
def test_both_axes_measure_the_exact_loss(size):
    """Without test noise: what a plan's report.json names is the finite sum."""
    from sessionrec_jax.evaluation.exact import has_exact_rank_loss

    for axis in axes(size, 3):
        configs = axis.plan.configs(axis.base, 10**6)
        assert axis.process.seed == 3
        assert all(config.train.seed == 3 for config in configs)
        assert all(has_exact_rank_loss(config) for config in configs)
