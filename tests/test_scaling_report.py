"""Reports: self-contained, complete whatever the runs did, and written whole or not at all."""

import dataclasses
import re

import numpy as np
import polars as pl
import pytest

import scaling
from scaling import figures, report
from scaling.errors import InputError, Refusal
from scaling.table import Columns, from_frame
from scaling.theory import Theory, read_theory

THEORY = Theory(exponent=1 / 3, floor=0.37, curve=((1e3, 0.1), (1e5, 0.02)), note="planted <1/3>")
COLUMNS = Columns(loss="loss", d="d", n="n", baseline="base", floor="floor")


def runs(count: int = 18) -> pl.DataFrame:
    """Six D by three N, planted beta 1/3, and a failed run."""
    d, n = (x.ravel()[:count] for x in np.meshgrid(np.geomspace(1e3, 3e5, 6), [1e4, 3e4, 1e5]))
    loss = (0.37 + d ** (-1 / 3)) * np.exp(1e-3 * np.random.default_rng(0).normal(size=count))
    good = pl.DataFrame({"run_id": [f"run{i}" for i in range(count)], "d": d, "n": n, "loss": loss})
    good = good.with_columns(status=pl.lit("done"), base=pl.lit(0.6), floor=pl.lit(0.37))
    return pl.concat([good, good[:1].with_columns(run_id=pl.lit("dead"), status=pl.lit("failed"), loss=None)])


def specs(page: str) -> str:
    return re.search(r"const specs = (.*);\n", page).group(1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    table = from_frame(runs(), COLUMNS)
    fits = [(law, scaling.fit(table, law, bootstrap=100)) for law in ("power_floor", "chinchilla")]
    report.write(folder / "page.html", table, fits, THEORY, title="A <title>")
    return folder


def test_the_page_needs_no_network(written):
    page = (written / "page.html").read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in markup
    assert not re.search(r"\b(src|href)=", markup)
    assert "vegaEmbed('#' + name" in page
    assert len(re.findall(r"</script>", page)) == 2


def test_every_figure_is_in_the_page_and_beside_it(written):
    names = {"loss_against_data", "excess_against_data", "loss_against_size", "residuals"}
    page = (written / "page.html").read_text()
    assert set(re.findall(r'class=chart id="(\w+)"', page)) == names
    assert {p.name for p in (written / "page_figures").iterdir()} == {f"{n}.{s}" for n in names for s in ("svg", "png")}
    assert {p.name for p in written.iterdir()} == {"page.html", "page_figures"}
    assert "held out in the check" in specs(page)
    assert "exact reference" in specs(page)


def test_every_run_and_every_exclusion_is_told_and_escaped(written):
    page = (written / "page.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in runs()["run_id"])
    assert "status is &#x27;failed&#x27;" in page
    assert "A &lt;title&gt;" in page
    assert "planted &lt;1/3&gt;" in page
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL).lower().split()


def test_a_refused_fit_leaves_figures_and_tables(tmp_path):
    table = from_frame(runs(3), COLUMNS)
    with pytest.raises(Refusal) as refusal:
        scaling.fit(table, "power_floor")
    report.write(tmp_path / "page.html", table, [("power_floor", refusal.value)])
    page = (tmp_path / "page.html").read_text()
    assert "Refused: power_floor has 2 free parameters" in page
    assert 'id="loss_against_data"' in page
    assert 'id="residuals"' not in page


def test_a_table_without_a_single_run_left(tmp_path):
    table = from_frame(runs().with_columns(status=pl.lit("failed")), COLUMNS)
    with pytest.raises(Refusal) as refusal:
        scaling.fit(table, "power_floor")
    report.write(tmp_path / "page.html", table, [("power_floor", refusal.value)], THEORY)
    assert "No run is left to draw" in (tmp_path / "page.html").read_text()


def test_an_open_interval_is_what_the_report_cannot_tell(tmp_path):
    table = from_frame(runs().with_columns(loss=pl.col("d") ** -0.3), Columns(loss="loss", d="d"))
    fit = scaling.fit(table, "power_floor", bootstrap=100)
    report.write(tmp_path / "page.html", table, [("power_floor", fit)])
    assert "power_floor: the value of E; open" in (tmp_path / "page.html").read_text()


def test_a_figure_that_no_longer_applies_is_taken_away(tmp_path):
    table = from_frame(runs(), COLUMNS)
    report.write(tmp_path / "page.html", table, [])
    one_size = from_frame(runs(6), COLUMNS)
    folder = report.write(tmp_path / "page.html", one_size, [])
    assert {p.stem for p in folder.iterdir()} == {"loss_against_data", "excess_against_data"}


@pytest.mark.parametrize(("low", "high"), [(0.37, 0.4), (0.1, 0.9), (1e3, 3e5), (1.0, 1e9), (0.3749, 0.3751)])
def test_axes_have_a_few_round_ticks_within_the_data(low, high):
    ticks = figures._ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert all(low <= tick <= high * (1 + 1e-12) for tick in ticks)


def test_theory_round_trips_and_refuses(tmp_path):
    file = tmp_path / "theory.json"
    file.write_text('{"exponent": 0.5, "floor": 0.3, "curve": [[10, 0.1]], "note": "x"}')
    assert dataclasses.astuple(read_theory(file)) == (0.5, 0.3, ((10.0, 0.1),), "x")
    for wrong in ('{"exponent": 0.5}', '{"exponent": "x", "floor": 1, "curve": [], "note": ""}', "[", "[1]"):
        file.write_text(wrong)
        with pytest.raises(InputError, match=r"theory\.json"):
            read_theory(file)


@pytest.mark.parametrize(("name", "message"), [("page.pdf", r"ends in \.html"), ("no/page.html", "there is no folder")])
def test_where_it_cannot_be_written(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        report.write(tmp_path / name, from_frame(runs(), COLUMNS), [])
