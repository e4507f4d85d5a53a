"""`fit`, `report`, `plan` and the Python API give one answer on one table, whatever it is and however it is named."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from few_forms import few_forms
from planted_laws import planted

import scaling
from experiments.__main__ import main
from experiments.cli.fit_flags import FitFlags
from scaling.errors import InputError, Refusal
from scaling.fitting.forms import Forms
from scaling.fitting.lead import default_law, lead_first
from scaling.table.usual import USUAL

CASES = Path(__file__).parents[1].parent / "shared" / "cases" / "fits"
SAME = ("params", "interval95", "bounds", "objective", "verdict_sentences", "warnings", "notes", "data_hash")


@pytest.fixture(autouse=True)
def quick_forms():
    """Fits compare the quick forms and gamma, which some tables follow."""
    with few_forms("gamma"):
        yield


@pytest.fixture
def without_gamma(quick_forms):
    with few_forms():
        yield


def frame(**named: str) -> pl.DataFrame:
    """Returns runs of a chinchilla law with other names for its columns."""
    runs = planted("chinchilla", 5e-3, 1)
    columns = {"n": runs.n, "d": runs.d, "loss": runs.loss}
    return pl.DataFrame({named.get(name, name): values for name, values in columns.items()})


def same(one: dict, other: dict) -> None:
    assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}


def answers(table: Path, folder: Path, capsys, *flags: str, **options) -> dict:
    """Returns fit.json of a table after `report`, `report --from`, `plan` and the Python API have said the same."""
    assert main(["fit", str(table), *flags, "--json", str(folder / "fit.json")]) == 0
    fitted = json.loads((folder / "fit.json").read_text())
    said = capsys.readouterr().out
    assert main(["report", str(table), *flags, "--out", str(folder / "a.html")]) == 0
    assert said.strip() in capsys.readouterr().out
    assert main(["report", "--from", str(folder / "fit.json"), "--out", str(folder / "b.html")]) == 0
    capsys.readouterr()
    for page in ("a", "b"):
        reported = json.loads((folder / f"{page}_figures" / f"fit_{fitted['law']}.json").read_text())
        assert {key: reported[key] for key in SAME if key != "notes"} == {
            key: fitted[key] for key in SAME if key != "notes"
        }
    same(scaling.fit(table, **options).to_dict(), fitted)
    plan = main(["plan", "--from", str(folder / "fit.json"), "--budget", "1e20"])
    if {"n", "d"} <= set(scaling.LAWS[fitted["law"]].axes):
        assert plan == 0
        assert fitted["verdict_sentences"][0].split(":")[0] in " ".join(capsys.readouterr().out.split())
    else:
        assert plan == 2
    return fitted


@pytest.mark.usefixtures("without_gamma", "no_files")
def test_one_answer_with_every_option(tmp_path, capsys):
    frame(n="params", d="tokens").write_csv(tmp_path / "runs.csv")
    flags = ["--bootstrap", "40", "--seed", "3", "--objective", "ls", "--drop-worst", "1", "--fix", "alpha=0.34"]
    options = {"bootstrap": 40, "seed": 3, "objective": "ls", "fix": {"alpha": 0.34}}
    table = scaling.read(tmp_path / "runs.csv", drop_worst=1)
    assert main(["fit", str(tmp_path / "runs.csv"), *flags, "--json", str(tmp_path / "fit.json")]) == 0
    fitted = json.loads((tmp_path / "fit.json").read_text())
    same(scaling.fit(table, **options).to_dict(), fitted)
    capsys.readouterr()
    assert main(["report", "--from", str(tmp_path / "fit.json")]) == 0
    assert str(tmp_path / "runs.html") in capsys.readouterr().out
    reported = json.loads((tmp_path / "runs_figures" / "fit_chinchilla.json").read_text())
    same({**reported, "notes": fitted["notes"]}, fitted)


OF_LADDER = {"n": "N", "d": "D", "loss": "c4_en-validation/CrossEntropyLoss"}
TABLES: dict[str, dict[str, str]] = {
    "c_3clusters.csv": {"cluster": "run"},
    "c_6points.csv": {},
    "c_broken.csv": {},
    "c_exp.csv": {},
    "c_sig.csv": {},
    "s_gamma04.csv": {},
    "s_thirdvar.csv": {},
    "cs336_isoflops.csv": {},
    "olmo_ladder_16.csv": OF_LADDER,
    "olmo_ladder_20.csv": OF_LADDER,
    "farseer_train.parquet": {"n": "N", "d": "D", "loss": "loss"},
}
"""{table of the shared cases: its columns, where their names are not usual ones}. The others are refused."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_one_answer_on_every_table(name, tmp_path, capsys):
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/fits")
    table = shutil.copy(CASES / name, tmp_path / f"runs{Path(name).suffix}")
    flags = [word for key, column in TABLES[name].items() for word in (f"--{key}", column)]
    answers(table, tmp_path, capsys, *flags, "--bootstrap", "40", bootstrap=40, **TABLES[name])


@pytest.mark.parametrize("name", ["c_4points.csv", "c_rising.csv", "s_nmega.csv"])
def test_one_refusal_on_tables_that_carry_no_law(name, tmp_path, capsys):
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/fits")
    said = []
    for command in ("fit", "report"):
        assert main(
            [command, str(CASES / name), *(["--out", str(tmp_path / "a.html")] if command == "report" else [])]
        ) in (0, 2)
        shown = capsys.readouterr()
        said.append(" ".join((shown.out + shown.err).split()))
    with pytest.raises((Refusal, InputError)) as raised:
        scaling.fit(CASES / name)
    reason = " ".join(str(raised.value).split())
    assert all(reason in text for text in said)


def test_flags_and_arguments_have_the_same_defaults():
    of_fit = inspect.signature(scaling.fit).parameters
    flags = FitFlags()
    for name in ("law", "objective", "delta", "floor", "bootstrap", "seed"):
        assert getattr(flags, name) == of_fit[name].default


@pytest.mark.slow  # the next test has the order of the forms
def test_report_is_next_to_its_sweep_and_follows_the_form_that_was_chosen(tmp_path, capsys):
    runs = planted("gamma", 3e-3, 1, gamma=0.4)
    pl.DataFrame({"n": runs.n, "d": runs.d, "loss": runs.loss}).write_csv(tmp_path / "runs.csv")
    assert main(["report", str(tmp_path / "runs.csv"), "--law", "chinchilla,gamma", "--bootstrap", "0"]) == 0
    said = capsys.readouterr().out
    assert said.index("gamma; huber") < said.index("chinchilla; huber")
    page = (tmp_path / "runs.html").read_text()
    assert page.index("<h3>gamma:") < page.index("<h3>chinchilla:")


def test_the_lead_predicts_the_held_out_runs_best_else_it_is_the_first_that_was_not_refused():
    runs = planted("gamma", 3e-3, 1, gamma=0.4)
    wrong, right = (scaling.fit(runs, law, bootstrap=0, full=law == "chinchilla") for law in ("chinchilla", "gamma"))
    refused = ("kaplan", Refusal("no"))
    assert lead_first([refused, ("chinchilla", wrong), ("gamma", right)])[0] == ("gamma", right)
    assert lead_first([refused, ("chinchilla", wrong)])[0] == ("chinchilla", wrong)
    assert lead_first([refused]) == [refused]


def test_the_lead_is_the_best_of_the_laws_that_were_asked_for_where_another_form_is_better():
    pooled = {"gamma": 0.01, "tied": 0.12, "chinchilla": 0.15}
    forms = Forms(rows=(), pooled=pooled, chosen="gamma", target={}, at_target={}, whole={})
    runs = planted("gamma", 3e-3, 1, gamma=0.4)
    laws = ("chinchilla", "tied")
    fits = [(law, replace(scaling.fit(runs, law, bootstrap=0, full=False), forms=forms)) for law in laws]
    assert [law for law, _ in lead_first(fits)] == ["tied", "chinchilla"]


@pytest.mark.usefixtures("quick_fits", "no_files")
def test_a_fit_that_cannot_be_reported_says_why(tmp_path, capsys):
    scaling.fit(frame(), bootstrap=0, full=False).to_json(tmp_path / "memory.json")
    for arguments, message in (
        (["--from", str(tmp_path / "memory.json")], "was fitted to a table in memory; name a file"),
        (["--from", str(tmp_path / "memory.json"), "--bootstrap", "40"], "leave the other flags of the fit out"),
        (["--from", str(tmp_path / "none.json")], "there is no file"),
        ([], "no table is named; give a sweep folder"),
    ):
        assert main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err
    frame().head(40).write_csv(tmp_path / "runs.csv")
    assert main(["report", str(tmp_path / "runs.csv"), "--from", str(tmp_path / "memory.json")]) == 0
    assert "has changed since" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "named",
    [{"n": "params", "d": "tokens"}, {"n": "Model Size", "d": "num_tokens", "loss": "val/loss"},
     {"n": "config.parameters", "d": "Tokens", "loss": "summary.loss"}],
)  # fmt: skip
def test_usual_names_are_recognised_and_said(named):
    fit = scaling.fit(frame(**named), bootstrap=0, full=False)
    assert fit.law.name == "chinchilla"
    columns = fit.table.columns
    assert (columns.n, columns.d, columns.loss) == (named["n"], named["d"], named.get("loss", "loss"))
    assert fit.table.notes == (
        f"Columns recognised by their names: --loss {columns.loss}, --n {columns.n}, --d {columns.d}.",
    )
    assert fit.summary().startswith(fit.table.notes[0])


def test_who_names_an_axis_names_all_of_them():
    table = scaling.read(frame(d="tokens"), d="tokens", loss="loss")
    assert table.n is None
    assert table.notes == ()
    assert all(name == name.lower() and name.isalnum() for names in USUAL.values() for name in names)


def test_flops_alone_make_no_axis_and_with_n_they_give_d():
    runs = planted("chinchilla", 5e-3, 1)
    rows = {"params": runs.n, "compute": 6 * runs.n * runs.d, "loss": runs.loss}
    table = scaling.read(pl.DataFrame(rows))
    np.testing.assert_allclose(table.d, runs.d)
    with pytest.raises(InputError, match="name the data column with --d"):
        scaling.read(pl.DataFrame(rows).drop("params"))


def test_a_list_of_dicts_is_a_table():
    rows = frame().to_dicts()
    assert scaling.read(rows).data_hash() == scaling.read(frame()).data_hash()
    rows[3] = {"n": 1e9, "d": 1e10}  # this run has no loss
    assert [row.rule for row in scaling.read(rows).excluded] == ["no loss"]
    for wrong in ([1, 2], {"n": [1]}, b"text"):
        with pytest.raises(InputError, match="expected a path, a Polars or pandas frame, or a list of dicts"):
            scaling.read(wrong)


def test_the_runs_table_that_wandb_exports_is_recognised(tmp_path):
    runs = frame(n="params", d="tokens")
    states = ["crashed", *["finished"] * (len(runs) - 2), "running"]
    names = pl.Series("Name", [f"run-{i}" for i in range(len(runs))])
    runs.with_columns(names, pl.Series("State", states), Created=pl.lit("2025-01-01")).write_csv(
        tmp_path / "export.csv"
    )
    table = scaling.read(tmp_path / "export.csv")
    assert len(table) == len(runs) - 2
    assert table.row_id[0] == "run-1"
    assert {row.reason for row in table.excluded} == {"status is 'crashed'", "status is 'running'"}
    assert "runs table of Weights & Biases" in table.notes[0]


def test_the_default_law_sees_what_varies():
    assert default_law(scaling.read(frame())) == "chinchilla"
    narrow = frame().with_columns(pl.lit(1e8).alias("n"))
    assert default_law(scaling.read(narrow)) == "power_floor"
    assert default_law(planted("metric_sigmoid")) == "metric_sigmoid"


def test_a_fit_is_short_in_a_terminal_and_a_table_in_a_notebook():
    fit = scaling.fit(frame(), bootstrap=40, full=False)
    assert repr(fit).startswith("<Fit of chinchilla, 49 runs, follows: A ")
    assert len(repr(fit)) < 300
    shown = fit._repr_html_()
    assert shown.count("<tr>") == 6
    assert "<b>These runs follow this law" in shown
    assert fit.law.formula in shown
