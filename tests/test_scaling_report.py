"""Reports: self-contained, complete whatever the runs did, and written whole or not at all."""

import dataclasses
import json
import re

import numpy as np
import polars as pl
import pytest

import scaling
from experiments.__main__ import main
from scaling import figures, latex, report
from scaling.checklist import CATEGORIES, answered, checklist
from scaling.errors import InputError, Refusal
from scaling.figures import parts, trust
from scaling.figures.compute import BEYOND
from scaling.isoflop import isoflop
from scaling.report import compute, exports
from scaling.table import Columns, from_frame
from scaling.theory import Theory, read_theory

THEORY = Theory(exponent=1 / 3, floor=0.37, curve=((1e3, 0.1), (1e5, 0.02)), note="planted <1/3>")
COLUMNS = Columns(loss="loss", d="d", n="n", baseline="base", floor="floor")
OF_RUNS = {"loss_against_data", "excess_against_data", "loss_against_size", "residuals", "residuals_against_size"} | {
    "residuals_against_predicted", "residuals_quantiles",
}  # fmt: skip


def runs(count: int = 18) -> pl.DataFrame:
    """Six D by three N, planted beta 1/3, and a failed run."""
    d, n = (x.ravel()[:count] for x in np.meshgrid(np.geomspace(1e3, 3e5, 6), [1e4, 3e4, 1e5]))
    loss = (0.37 + d ** (-1 / 3)) * np.exp(1e-3 * np.random.default_rng(0).normal(size=count))
    good = pl.DataFrame({"run_id": [f"run{i}" for i in range(count)], "d": d, "n": n, "loss": loss})
    good = good.with_columns(status=pl.lit("done"), base=pl.lit(0.6), floor=pl.lit(0.37))
    return pl.concat([good, good[:1].with_columns(run_id=pl.lit("dead"), status=pl.lit("failed"), loss=None)])


def surface(n: np.ndarray, d: np.ndarray) -> pl.DataFrame:
    loss = (1.8 + 40 / n**0.34 + 200 / d**0.36) * np.exp(2e-3 * np.random.default_rng(1).normal(size=len(n)))
    return pl.DataFrame({"run_id": [f"run{i}" for i in range(len(n))], "n": n, "d": d, "loss": loss})


def isoflop_runs() -> pl.DataFrame:
    """Four budgets of five sizes; those of the largest budget are all above the best size."""
    n, d = [], []
    for c in np.geomspace(1e14, 1e17, 4):
        sizes = 0.12 * (c / 6) ** 0.5 * np.exp([0.7, 1.2, 1.7, 2.2, 2.7] if c > 5e16 else [-1.6, -0.8, 0, 0.8, 1.6])
        n, d = [*n, *sizes], [*d, *(c / 6 / sizes)]
    return surface(np.array(n), np.array(d))


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
    """(table, fit) of N and D."""
    table = from_frame(isoflop_runs(), Columns(loss="loss", d="d", n="n"))
    return table, scaling.fit(table, "chinchilla", bootstrap=120)


@pytest.fixture(scope="module")
def charts(iso):
    return drawn(*iso)


@pytest.fixture(scope="module")
def no_floor():
    """(table, fit) of a power law that has no floor: the fitted one is open."""
    table = from_frame(runs().with_columns(loss=pl.col("d") ** -0.3), Columns(loss="loss", d="d"))
    return table, scaling.fit(table, "power_floor", bootstrap=100)


@pytest.fixture
def no_files(monkeypatch):
    monkeypatch.setattr(exports, "write_figures", lambda *_: None)


def specs(page: str) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(re.search(r"const specs = (.*);\n", page).group(1), parse_constant=refuse)


def layers_of(chart: dict) -> list[tuple[dict, list[dict]]]:
    """(its mark, its rows) of every layer in every panel of a chart."""

    def walk(spec: dict, data: dict | None) -> list[tuple[dict, list[dict]]]:
        data = spec.get("data", data)
        if "mark" in spec:
            return [(spec["mark"], json.loads(chart["datasets"][data["name"]]))]
        parts = [part for key in ("layer", "concat", "hconcat") for part in spec.get(key, [])]
        return [layer for part in parts for layer in walk(part, data)]

    return walk(chart, None)


def rows_of(chart: dict) -> list[dict]:
    return [row for _, rows in layers_of(chart) for row in rows]


def drawn(table, fit, theory=None) -> dict[str, dict]:
    """The figures as plain Vega-Lite, each held against Altair's schema."""
    minima = compute.isoflop_of(table, fit)
    charts = figures.all_figures(
        table, fit, theory, None if isinstance(minima, Refusal) else minima, compute.frontier_of(table, fit)
    )
    return {name: chart.to_dict() for name, chart in charts.items()}


def test_the_page_needs_no_network(written):
    page = (written / "page.html").read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in markup + json.dumps(specs(page))
    assert not re.search(r"\b(src|href)=", markup)
    assert "vegaEmbed('#' + name" in page
    assert len(re.findall(r"</script>", page)) == 2


def shown(folder) -> set[str]:
    return set(re.findall(r'class=chart id="(\w+)"', (folder / "page.html").read_text()))


def test_every_figure_is_in_the_page_and_beside_it(written):
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


def test_a_fit_beside_the_page_can_be_loaded(written):
    assert scaling.load(written / "page_figures" / "fit_power_floor.json").law.name == "power_floor"


def test_every_figure_shows_every_run_once(iso, charts):
    table, _ = iso
    assert set(charts) == OF_RUNS | {"profile", "cloud", "forms", "isoflop", "frontier"}
    for name, chart in charts.items():
        marked = [row["run"] for row in rows_of(chart) if "run" in row]
        if name in OF_RUNS | {"isoflop"}:
            assert sorted(marked) == sorted(table.row_id), name
        if name == "frontier":
            assert sorted(marked) == sorted(table.row_id * 2)


def test_hovering_tells_the_run_and_its_settings():
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
    for panel in chart["hconcat"]:
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
    table = from_frame(surface(n, d), Columns(loss="loss", d="d", n="n"))
    fit = scaling.fit(table, "chinchilla", bootstrap=0, full=False)
    report.write(tmp_path / "page.html", table, [("chinchilla", fit)])
    assert "No IsoFLOP analysis: no budget" in (tmp_path / "page.html").read_text()
    assert shown(tmp_path) == OF_RUNS | {"frontier"}  # neither draws nor profiles to show


def test_an_open_end_of_a_profile_is_marked(no_floor):
    table, fit = no_floor
    assert fit.profile["E"].interval95[0] is None
    panels = drawn(table, fit)["profile"]["concat"]
    texts = [[layer["mark"].get("text") for layer in panel["layer"]] for panel in panels]
    is_open = [any(text and "open" in text for text in panel) for panel in texts]
    assert is_open == [fit.profile[name].open for name in fit.profile]


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
        assert f"{name} = {fit.params[name]:.4g} [{low:.5g}, {high:.5g}]" in answer
    assert "A = " not in answer  # a size at N = 1 says nothing


def test_every_run_and_every_exclusion_is_told_and_escaped(written):
    page = (written / "page.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in runs()["run_id"])
    assert "status is &#x27;failed&#x27;" in page
    assert "A &lt;title&gt;" in page
    assert "planted &lt;1/3&gt;" in page
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL).lower().split()


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


def test_an_open_interval_is_what_the_report_cannot_tell(no_floor, tmp_path, no_files):
    table, fit = no_floor
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


COLUMN_OF = {
    "Which learning-rate schedule?": ("schedule", "cosine"),
    "By which rule is the learning rate set?": ("learning_rate_rule", "fixed"),
    "How are FLOPs counted?": ("flops_convention", "backward twice forward"),
    "On which data?": ("dataset_fingerprint", "ab12"),
    "Is data repeated within a run?": ("epochs", 1.0),
    "Which batch size?": ("batch_size", 256),
    "How many seeds?": ("seed", 3),
    "On which hardware?": ("device_kind", "cpu"),
    "Which optimizer?": ("optimizer", "adamw"),
    "Measured on which data?": ("evaluation_set", "test"),
    "How exact is each measured value?": ("loss_stderr", 0.001),
    "Final losses or checkpoints?": ("status", "done"),
}


@pytest.mark.parametrize(("question", "column"), COLUMN_OF.items())
def test_an_answer_is_missing_exactly_when_its_column_is(question, column):
    def item(frame):
        table = from_frame(frame, Columns(loss="loss", d="d", n="n"))
        return {item.question: item for item in checklist(table, None)}[question]

    bare = surface(np.geomspace(1e5, 1e6, 4), np.geomspace(1e6, 1e7, 4))
    missing, told = item(bare), item(bare.with_columns(pl.lit(column[1]).alias(column[0])))
    assert missing.answer is None
    assert column[0] in missing.source
    assert told.answer
    assert column[0] in told.source
    empty = item(bare.with_columns(pl.lit(None).alias(column[0]))) if column[0] != "status" else missing
    assert empty.answer is None


def test_the_checklist_of_a_fit_is_told_by_the_fit(iso):
    table, fit = iso
    items = checklist(table, fit)
    by_question = {item.question: item for item in items}
    assert set(CATEGORIES) == {item.category for item in items}
    assert len(by_question) == len(items)
    assert fit.law.formula in by_question["Which form does the law have?"].answer
    assert f"delta {fit.objective.delta:.3g}" in by_question["Which objective?"].answer
    assert by_question["How large is the noise between repeats?"].answer is None
    without = dataclasses.replace(fit, cloud_SP=fit.cloud_SP[:0], heldout=())
    lost = {item.question for item in items if item.answer} - {
        i.question for i in checklist(table, without) if i.answer
    }
    assert lost == {
        "How is uncertainty measured?", "Which parameters are open?", "Was the law held to runs it had not seen?"
    }  # fmt: skip
    assert answered(checklist(table, None)) < answered(items)


def test_the_page_and_its_json_hold_the_same_checklist(written):
    values = json.loads((written / "page_figures" / "checklist.json").read_text())
    page = (written / "page.html").read_text()
    missing = [item for item in values["items"] if item["answer"] is None]
    assert values["of"] - values["answered"] == len(missing) == page.count("<tr class=missing>")
    assert f"{values['answered']} of {values['of']} answered" in page


def rows_in_latex(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.endswith(r"\\") and not line.startswith("%")]


def test_latex_has_four_columns_in_every_row_and_balanced_braces(iso):
    _, fit = iso
    refusal = Refusal("too few {runs} & a $ sign")
    source = latex.table([("chinchilla", fit), ("power_floor", refusal)])
    rows = rows_in_latex(source)
    assert len(rows) == 1 + 9 + 1  # the head; formula, five parameters, objective, held-out error, runs; the refusal
    assert all(len(re.findall(r"(?<!\\)&", row)) == 3 for row in rows)
    assert all(len(re.findall(r"(?<!\\)\$", row)) % 2 == 0 for row in rows)
    printed = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    opened, closed = (len(re.findall(rf"(?<!\\)\{brace}", printed)) for brace in "{}")
    assert opened == closed
    assert r"power\_floor & refused" in source


def test_latex_bounds_what_is_open_and_escapes_the_rest(no_floor):
    _, fit = no_floor
    fit = dataclasses.replace(fit, bounds={"E": (None, 0.0125)})
    row = next(row for row in rows_in_latex(latex.table([("power_floor", fit)])) if "$E$" in row)
    assert "& open &" in row
    assert "& $< 0.0125$ " in row
    assert latex.escape("50% of a_b & {c}\n#1 $x$ ~^\\") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex.number(1.5e-7, 3) == r"$1.5 \times 10^{-7}$"
    assert latex.math("E + A / N^alpha") == r"$E + A / N^{\alpha }$"
    assert latex.math("(B / D^beta)^(1/gamma) * L_0") == r"$(B / D^{\beta })^{1/\gamma } \cdot L_{0}$"


@pytest.mark.parametrize(("low", "high"), [(0.37, 0.4), (0.1, 0.9), (1e3, 3e5), (1.0, 1e9), (0.3749, 0.3751)])
def test_axes_have_a_few_round_ticks_within_the_data(low, high):
    ticks = parts.ticks(low, high)
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


def report_of(frame: pl.DataFrame, folder, *arguments: str) -> tuple[int, str]:
    """(exit code, the page or "") of `sessionrec report`."""
    frame.write_csv(folder / "runs.csv")
    page = folder / "page.html"
    code = main(["report", str(folder / "runs.csv"), "--out", str(page), "--bootstrap", "0", *arguments])
    return code, page.read_text() if page.exists() else ""


def test_the_law_is_of_both_axes_where_size_varies(no_files, tmp_path):
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
    assert "Refused: N and D lie on a single ray" in page


def test_flops_and_metrics_are_named_by_flags(no_files, tmp_path):
    frame = isoflop_runs().with_columns(
        c=8 * pl.col("n") * pl.col("d"), recall=0.7 / (1 + (3 * (pl.col("loss") - 2.2)).exp())
    )
    code, page = report_of(frame, tmp_path, "--loss", "loss", "--n", "n", "--d", "d", "--flops", "c")
    assert code == 0
    assert "with C = 8 N D." in page
    code, page = report_of(frame, tmp_path, "--loss", "loss", "--metric", "recall", "--n", "n", "--d", "d")
    assert code == 0
    assert 'id="metric_against_loss"' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "los", "--d", "d"], "did you mean 'loss'?"),
        (["--loss", "loss", "--d", "d", "--metric", "run_id"], "'run0'"),
        (["--loss", "loss", "--d", "d", "--law", "chinchila"], "did you mean 'chinchilla'?"),
        (["--loss", "loss", "--d", "d", "--flops", "d"], "--n"),
    ],
)
def test_wrong_input_is_one_message(arguments, message, tmp_path, capsys):
    assert report_of(isoflop_runs(), tmp_path, *arguments) == (2, "")
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
