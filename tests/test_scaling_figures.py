"""Figures: every run is in every one of them, once; extrapolation and open ends are marked."""

import dataclasses
import json

import numpy as np
import pytest
from report_runs import COLUMNS, OF_BOTH, OF_RUNS, isoflop_runs, layers_of, rows_of, runs, without_floor

import scaling
from experiments.cli.report_columns import REPORT_COLUMNS
from scaling.errors import Refusal
from scaling.report import compute
from scaling.report.figures import parts, trust
from scaling.report.figures.compute import BEYOND
from scaling.report.figures.gallery import all_figures
from scaling.report.figures.parts import Subject
from scaling.table.run_table import from_frame

pytestmark = pytest.mark.usefixtures("few_forms")


@pytest.fixture(scope="module")
def iso():
    """Returns (table, fit) of N and D."""
    table = from_frame(isoflop_runs(), OF_BOTH)
    return table, scaling.fit(table, "chinchilla", bootstrap=120)


@pytest.fixture(scope="module")
def charts(iso):
    return drawn(*iso)


def drawn(table, fit, theory=None) -> dict[str, dict]:
    """Returns the figures as plain Vega-Lite, each checked by Altair's schema."""
    minima = compute.isoflop_of(table, fit)
    isoflop = None if isinstance(minima, Refusal) else minima
    subject = Subject(table, fit, REPORT_COLUMNS.tooltip)
    charts = all_figures(subject, theory=theory, isoflop=isoflop, frontier=compute.frontier_of(table, fit))
    return {name: chart.to_dict() for name, chart in charts.items()}


def test_every_figure_shows_every_run_once(iso, charts):
    table, _ = iso
    assert set(charts) == OF_RUNS | {"profile", "cloud", "forms", "isoflop", "frontier"}
    for name, chart in charts.items():
        marked = [row["run"] for row in rows_of(chart) if "run" in row]
        if name in OF_RUNS | {"isoflop"}:
            assert sorted(marked) == sorted(table.row_id), name
        if name == "frontier":
            assert sorted(marked) == sorted(table.row_id * 2)


def test_hovering_shows_the_run_and_its_settings():
    table = from_frame(runs().with_columns(seed=7, width=64), COLUMNS)
    spec = json.dumps(drawn(table, None)["loss_against_data"])
    assert all(f'"field": "{name}"' in spec for name in ("run", "n", "d", "seed", "width"))


def test_no_figure_has_more_than_2000_marks_or_so(iso, charts):
    _, fit = iso
    many = dataclasses.replace(fit, cloud_SP=np.tile(fit.cloud_SP, (40, 1))[:4000])
    cloud = trust.cloud(many).to_dict()
    assert len(rows_of(cloud)) == 2 * (trust.DRAWS_SHOWN + 1)  # of two panels, each with the point
    assert all(len(rows_of(chart)) <= 2000 for chart in charts.values())


def test_the_path_is_dashed_beyond_the_runs_and_only_there(iso, charts):
    table, fit = iso
    flops = fit.flops_per_nd * table.n * table.d
    chart = charts["frontier"]
    for panel in chart["concat"]:
        lines = layers_of({**panel, "datasets": chart["datasets"]})
        solid, dashed = (
            [row["c"] for mark, rows in lines if mark["type"] == "line" and mark["strokeDash"] == dash for row in rows]
            for dash in ([1, 0], [5, 4])
        )
        assert min(solid) >= flops.min() * (1 - 1e-9)
        assert max(solid) <= flops.max() * (1 + 1e-9)
        assert max(dashed) == pytest.approx(compute.REACH * flops.max())
        assert sorted(dashed)[1] >= flops.max()  # the first is where the solid line ends
    assert BEYOND in json.dumps(chart)


def test_an_open_end_of_a_profile_is_marked():
    table, fit = without_floor()
    assert fit.profile["E"].interval95[0] is None
    panels = drawn(table, fit)["profile"]["concat"]
    texts = [[layer["mark"].get("text") for layer in panel["layer"]] for panel in panels]
    is_open = [any(text and "open" in text for text in panel) for panel in texts]
    assert is_open == [None in profile.interval95 for profile in fit.profile.values()]


@pytest.mark.parametrize(("low", "high"), [(0.37, 0.4), (0.1, 0.9), (1e3, 3e5), (1.0, 1e9), (0.3749, 0.3751)])
def test_axes_have_a_few_round_ticks_within_the_data(low, high):
    ticks = parts.ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert all(low <= tick <= high * (1 + 1e-12) for tick in ticks)
