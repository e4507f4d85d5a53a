"""Tests reports: they are self-contained, complete for any outcome of the runs, and written whole or not at all."""

import dataclasses
import json
import re

import numpy as np
import polars as pl
import pytest
from report_runs import (
    COLUMNS,
    OF_BOTH,
    OF_RUNS,
    THEORY,
    isoflop_runs,
    layers_of,
    runs,
    surface,
    without_floor,
)

import scaling
from experiments.__main__ import main
from scaling import report
from scaling.compute.isoflop import isoflop
from scaling.errors import InputError, Refusal
from scaling.laws.theory import read_theory
from scaling.report import sections
from scaling.report.numbers import estimate
from scaling.table.run_table import Columns, from_frame

pytestmark = pytest.mark.usefixtures("few_forms")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    table = from_frame(runs(), COLUMNS)
    fits = [("power_floor", scaling.fit(table, "power_floor", bootstrap=100))]
    fits.append(("power", scaling.fit(table, "power", bootstrap=0, full=False)))
    report.write(folder / "page.html", table, fits, THEORY, title="A <title>")
    return folder


@pytest.fixture(scope="module")
def iso():
    """Returns (table, fit) of N and D."""
    table = from_frame(isoflop_runs(), OF_BOTH)
    return table, scaling.fit(table, "chinchilla", bootstrap=120, full=False)


def specs(page: str) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(re.search(r"const specs = (.*);\n", page).group(1), parse_constant=refuse)


def shown(folder) -> set[str]:
    return set(re.findall(r'class=chart id="(\w+)"', (folder / "page.html").read_text()))


def test_the_page_needs_no_network(written):
    page = (written / "page.html").read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in markup + json.dumps(specs(page))
    assert not re.search(r"\b(src|href)=", markup)
    assert "vegaEmbed(place" in page
    assert len(re.findall(r"</script>", page)) == 2


def test_every_figure_is_in_the_page_and_in_a_file_of_its_own(written):
    names = OF_RUNS - {"residuals_against_size"} | {"profile", "forms"}
    assert shown(written) == names
    beside = {f"{n}.{s}" for n in names for s in ("svg", "png", "pdf")}
    beside |= {"fits.tex", "fit_power_floor.json", "fit_power.json", "checklist.json"}
    assert {p.name for p in (written / "page_figures").iterdir()} == beside
    assert {p.name for p in written.iterdir()} == {"page.html", "page_figures"}
    heads = {p.suffix: p.read_bytes()[:4] for p in (written / "page_figures").iterdir()}
    assert (heads[".pdf"], heads[".png"], heads[".svg"]) == (b"%PDF", b"\x89PNG", b"<svg")
    in_excess = json.dumps(specs((written / "page.html").read_text())["excess_against_data"])
    assert "held out in the check" in in_excess
    assert "exact reference" in in_excess


def test_the_fit_saved_with_the_page_can_be_loaded(written):
    assert scaling.load(written / "page_figures" / "fit_power_floor.json").law.name == "power_floor"


def test_refused_minima_are_in_the_page_with_their_reason(iso, no_files, tmp_path):
    table, fit = iso
    report.write(tmp_path / "page.html", table, [("chinchilla", fit)])
    page = (tmp_path / "page.html").read_text()
    refused = [m for budget in isoflop(table, fit).budgets for m in budget.minima.values() if m.refused]
    assert refused
    assert page.count("<td class=number>refused</td>") == len(refused)
    assert all(m.refused.replace("'", "&#x27;") in page for m in refused)
    layers = [(mark["filled"], rows) for mark, rows in layers_of(specs(page)["isoflop"]) if "method" in rows[0]]
    hollow, filled = ([row for is_filled, rows in layers if is_filled == want for row in rows] for want in (0, 1))
    assert [(row["method"], row["refused"]) for row in hollow] == [(m.method, m.refused) for m in refused[::-1]]
    assert all(row["refused"] is None for row in filled)


def test_a_table_without_budgets_says_why_it_has_no_isoflop(iso, no_files, tmp_path):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1e7, 5), np.geomspace(1.3e6, 2e8, 4)))
    table = from_frame(surface(n, d), OF_BOTH)
    fit = scaling.fit(table, "chinchilla", bootstrap=0, full=False)
    report.write(tmp_path / "page.html", table, [("chinchilla", fit)])
    assert "No IsoFLOP analysis: no budget" in (tmp_path / "page.html").read_text()
    assert shown(tmp_path) == OF_RUNS | {"frontier"}  # neither draws nor profiles to show


def test_a_metric_is_drawn_over_its_loss(no_files, tmp_path):
    loss = np.linspace(0.4, 0.6, 12)
    noise = np.exp(1e-3 * np.random.default_rng(0).normal(size=12))
    frame = pl.DataFrame({"loss": loss, "recall": 0.7 / (1 + np.exp(12 * (loss - 0.5))) * noise})
    table = from_frame(frame, Columns(loss="loss", metric="recall"))
    fit = scaling.fit(table, "metric_sigmoid", bootstrap=50, full=False)
    report.write(tmp_path / "page.html", table, [])
    assert shown(tmp_path) == {"metric_against_loss"}
    report.write(tmp_path / "page.html", table, [("metric_sigmoid", fit)])
    residuals = {"residuals_against_loss", "residuals_against_predicted", "residuals_quantiles"}
    assert shown(tmp_path) == {"metric_against_loss"} | residuals


def test_the_answer_is_a_sentence_with_intervals(iso, no_files, tmp_path):
    table, fit = iso
    report.write(tmp_path / "page.html", table, [("chinchilla", fit)])
    answer = re.search(r"<p class=answer>(.*?)</p>", (tmp_path / "page.html").read_text()).group(1)
    for name in ("E", "alpha", "beta"):
        low, high = fit.interval95[name]
        assert f"{name} = {estimate(fit.params[name], (low, high))}" in answer
    assert "A = " not in answer  # a size at N = 1 says nothing
    assert answer.startswith(f"{len(table)} runs follow L = ")
    assert answer.count(". ") == 1, "two sentences"
    assert re.search(r"size N grows as C\^0\.\d+ \[.*D/N = [\d.]+K? at C = \d", answer)


def test_every_run_and_every_exclusion_is_shown_and_escaped(written):
    page = (written / "page.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in runs()["run_id"])
    assert "status is &#x27;failed&#x27;" in page
    assert "A &lt;title&gt;" in page
    assert "planted &lt;1/3&gt;" in page
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL).lower().split()


def test_every_excluded_run_of_the_table_has_its_own_rule():
    """The rules exclude the second row before the first, and no column names the runs."""
    rows = {"d": [1.0, 2.0, 4.0], "loss": [None, 2.5, 2.0], "status": ["done", "failed", "done"]}
    page = sections.runs(from_frame(pl.DataFrame(rows), Columns(loss="loss", d="d")), ())
    first, second = re.findall(r"<tr class=out>.*?</tr>", page, re.DOTALL)
    assert "no loss" in first
    assert "not done" in second


def test_a_refused_fit_leaves_figures_and_tables(tmp_path, no_files):
    table = from_frame(runs(3), COLUMNS)
    with pytest.raises(Refusal) as refusal:
        scaling.fit(table, "power_floor")
    report.write(tmp_path / "page.html", table, [("power_floor", refusal.value)])
    page = (tmp_path / "page.html").read_text()
    assert f"Refused: {refusal.value}" in page
    assert 'id="loss_against_data"' in page
    assert 'id="residuals"' not in page


def test_a_table_without_a_single_run_left(tmp_path, no_files):
    table = from_frame(runs().with_columns(status=pl.lit("failed")), COLUMNS)
    with pytest.raises(Refusal) as refusal:
        scaling.fit(table, "power_floor")
    report.write(tmp_path / "page.html", table, [("power_floor", refusal.value)], THEORY)
    assert "No run is left to draw" in (tmp_path / "page.html").read_text()


def test_an_open_interval_is_what_the_report_cannot_say(tmp_path, no_files):
    table, fit = without_floor()
    report.write(tmp_path / "page.html", table, [("power_floor", fit)])
    assert "power_floor: the value of E; open" in (tmp_path / "page.html").read_text()


def test_what_no_longer_applies_is_taken_away(tmp_path):
    table = from_frame(runs(), COLUMNS)
    power = scaling.fit(table, "power", bootstrap=0, full=False)
    report.write(tmp_path / "page.html", table, [("power", power)])
    report.write(tmp_path / "page.html", table, [])
    one_size = from_frame(runs(6), COLUMNS)
    folder = report.write(tmp_path / "page.html", one_size, [])
    assert {p.stem for p in folder.iterdir()} == {"loss_against_data", "excess_against_data", "fits", "checklist"}


def test_the_page_and_its_json_hold_the_same_checklist(written):
    values = json.loads((written / "page_figures" / "checklist.json").read_text())
    page = (written / "page.html").read_text()
    missing = [item for item in values["items"] if item["answer"] is None]
    assert values["of"] - values["answered"] == len(missing) == page.count("<tr class=missing>")
    assert f"{values['answered']} of {values['of']} answered" in page


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


def report_of(frame: pl.DataFrame, folder, *arguments: str) -> tuple[int, str]:
    """Returns (exit code, the page or "") of `sessionrec report`."""
    frame.write_csv(folder / "runs.csv")
    page = folder / "page.html"
    code = main(["report", str(folder / "runs.csv"), "--out", str(page), "--bootstrap", "0", *arguments])
    return code, page.read_text() if page.exists() else ""


def test_the_law_is_of_both_axes_where_size_varies(no_files, quick_fits, tmp_path):
    both = ["--loss", "loss", "--n", "n", "--d", "d"]
    code, page = report_of(isoflop_runs(), tmp_path, *both)
    assert code == 0
    assert "<h3>chinchilla:" in page
    code, page = report_of(isoflop_runs().with_columns(n=1e6), tmp_path, *both)
    assert code == 0
    assert "<h3>power_floor" in page
    ray = surface(np.geomspace(1e5, 1e7, 12), np.geomspace(1e6, 1e8, 12))
    code, page = report_of(ray, tmp_path, *both)
    assert code == 0
    assert "Refused: N and D are on a single ray" in page


def test_flops_and_metrics_are_named_by_flags(no_files, quick_fits, tmp_path):
    frame = isoflop_runs().with_columns(
        c=8 * pl.col("n") * pl.col("d"), recall=0.7 / (1 + (3 * (pl.col("loss") - 2.2)).exp())
    )
    code, page = report_of(frame, tmp_path, "--loss", "loss", "--n", "n", "--d", "d", "--flops", "c")
    assert code == 0
    assert "; C = 8 N D." in page
    code, page = report_of(frame, tmp_path, "--loss", "loss", "--metric", "recall", "--n", "n", "--d", "d")
    assert code == 0
    assert 'id="metric_against_loss"' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "los", "--d", "d"], "did you mean 'loss'?"),
        (["--loss", "loss", "--d", "d", "--metric", "run_id"], "'run0'"),
        (["--loss", "loss", "--d", "d", "--law", "chinchila"], "did you mean 'chinchilla'?"),
        (["--loss", "loss", "--d", "d", "--flops", "d"], "named by both --d and --flops"),
    ],
)
def test_wrong_input_is_one_message(arguments, message, tmp_path, capsys):
    assert report_of(isoflop_runs(), tmp_path, *arguments) == (2, "")
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_sweep_under_way_has_a_page_that_says_so(no_files, quick_fits, tmp_path, capsys):
    frame = runs().drop("base", "floor").to_dicts()
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": {row["run_id"]: {} for row in frame}}))
    command = ["report", str(tmp_path), "--out", str(tmp_path / "page.html"), "--loss", "loss", "--d", "d"]
    assert main([*command, "--bootstrap", "0"]) == 2
    assert "no run is done yet (19 waiting)" in capsys.readouterr().err
    for row in frame[:8]:
        (tmp_path / "runs" / row["run_id"]).mkdir(parents=True)
        (tmp_path / "runs" / row["run_id"] / "row.json").write_text(json.dumps(row))
    assert main([*command, "--bootstrap", "0"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "The sweep is not over: 8 of 19 runs have a row." in page
    assert page.count("planned, and not started") == 11
    assert main(["fit", str(tmp_path), "--law", "power", "--loss", "loss", "--d", "d", "--bootstrap", "0"]) == 0
    assert "11 left out: no row yet" in capsys.readouterr().out
