"""`sessionrec fit` and `report`: they work without jax, and wrong input is one message and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main

pytestmark = pytest.mark.usefixtures("few_forms")

ROOT = Path(__file__).parents[1]

# runs before anything else in the child: from then on importing these raises
BLOCKER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "grain", "tensorflow_datasets"):
            raise ImportError(f"{name} is blocked in this test")
sys.meta_path.insert(0, Blocked())
"""


# the command, with few forms to compare and no files of figures
COMMAND = """
import sys
from experiments.__main__ import main
from few_forms import few_forms
from scaling.report import exports
exports.write_figures = lambda *_: None
with few_forms():
    sys.exit(main(sys.argv[1:]))
"""


def frame() -> pl.DataFrame:
    d = np.repeat(np.geomspace(1e3, 3e5, 6), 3)
    loss = (0.37 + d ** (-1 / 3)) * np.exp(1e-3 * np.random.default_rng(0).normal(size=len(d)))
    names = [f"run{i}" for i in range(len(d))]
    return pl.DataFrame({"run_id": names, "seed": [0, 1, 2] * 6, "sessions_unique": d, "rank": loss, "base": 0.6})


@pytest.fixture
def csv(tmp_path):
    frame().write_csv(tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


@pytest.fixture
def sweep(tmp_path):
    for row in frame().to_dicts():
        (tmp_path / "sweep" / "runs" / row["run_id"]).mkdir(parents=True)
        (tmp_path / "sweep" / "runs" / row["run_id"] / "row.json").write_text(json.dumps(row))
    chosen = {"loss": "rank", "baseline": "base", "law": ["power_floor", "power"]}
    (tmp_path / "sweep" / "report.json").write_text(json.dumps(chosen))
    theory = {"exponent": 1 / 3, "floor": 0.37, "curve": [[1e3, 0.1], [1e5, 0.02]], "note": "planted"}
    (tmp_path / "sweep" / "theory.json").write_text(json.dumps(theory))
    return tmp_path / "sweep"


FIT = ["--d", "sessions_unique", "--loss", "rank", "--law", "power_floor", "--bootstrap", "50"]


def test_both_work_with_jax_blocked(csv, sweep, tmp_path):
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "block", ROOT, ROOT / "tests")))}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    assert "is blocked in this test" in run("-c", "import jax").stderr
    fitted = run("-c", COMMAND, "fit", csv, *FIT, "--json", tmp_path / "fit.json")
    assert fitted.returncode == 0, fitted.stderr
    assert "L = E + A / D^beta" in fitted.stdout
    assert json.loads((tmp_path / "fit.json").read_text())["n_rows"] == 18
    reported = run("-c", COMMAND, "report", sweep, "--out", tmp_path / "page.html", "--bootstrap", "50")
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "page.html").stat().st_size > 1e5


def test_report_takes_its_columns_from_the_sweep_and_flags_win(sweep, quick_fits, no_files, tmp_path):
    assert main(["report", str(sweep), "--out", str(tmp_path / "a.html"), "--bootstrap", "0"]) == 0
    page = (tmp_path / "a.html").read_text()
    assert "<h3>power_floor:" in page
    assert "<h3>power:" in page
    assert main(["report", str(sweep), "--out", str(tmp_path / "b.html"), "--bootstrap", "0", "--law", "power"]) == 0
    assert "<h3>power_floor:" not in (tmp_path / "b.html").read_text()


def test_fit_takes_its_columns_from_the_sweep_and_frees_a_known_floor(sweep, csv, quick_fits, tmp_path, capsys):
    def fitted(*flags) -> dict:
        assert main(["fit", *map(str, flags), "--bootstrap", "0", "--json", str(tmp_path / "fit.json")]) == 0
        return json.loads((tmp_path / "fit.json").read_text())

    of_sweep = fitted(sweep)
    named = fitted(csv, *FIT[:-2], "--baseline", "base")
    assert of_sweep["params"] == pytest.approx(named["params"])  # the rows are in another order
    for row in (sweep / "runs").glob("*/row.json"):
        row.write_text(json.dumps(json.loads(row.read_text()) | {"floor": 0.37}))
    report = json.loads((sweep / "report.json").read_text()) | {"floor_column": "floor"}
    (sweep / "report.json").write_text(json.dumps(report))
    assert fitted(sweep)["params"]["E"] == 0.37
    assert fitted(sweep, "--floor", "free")["params"] == of_sweep["params"]
    assert fitted(sweep, "--floor", "0.36")["params"]["E"] == 0.36
    capsys.readouterr()
    (sweep / "report.json").unlink()
    assert fitted(sweep, "--d", "sessions_unique", "--loss", "rank")["law"] == "power_floor"


def test_report_of_too_few_runs_shows_the_refusal(csv, tmp_path, capsys):
    frame()[:3].write_csv(csv)
    assert main(["report", str(csv), "--out", str(tmp_path / "a.html"), "--loss", "rank"]) == 0
    assert "refused. power_floor has 3 free parameters" in " ".join(capsys.readouterr().out.split())
    assert "Refused: power_floor has 3 free parameters" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d", "sessions", "--loss", "rank", "--law", "power"], "did you mean 'sessions_unique'?"),
        (["--d", "sessions_unique", "--loss", "run_id", "--law", "power"], "run0 has 'run0'"),
        (["--d", "sessions_unique", "--loss", "rank", "--law", "powr"], "did you mean 'power'?"),
        (["--d", "sessions_unique", "--loss", "rank", "--law", "chinchilla"], "--n"),
        ([*FIT, "--delta", "small"], "expected auto or a number"),
        ([*FIT, "--fix", "beta"], "--fix is 'beta'; expected NAME=NUMBER"),
        ([*FIT, "--fix", "alpha=1"], "no parameter 'alpha'"),
        ([*FIT[:5], "power_floor,chinchilla"], "needs N; name its column with --n"),
        ([*FIT[:5], "power_floor,powr"], "did you mean 'power'?"),
        (["--d", "sessions", "--loss", "rank", "--law", "powr"], "no column 'sessions' (--d)"),
        ([*FIT, "--floor", "0.3", "--floor-column", "base"], "give one"),
        ([*FIT, "--drop-worst", "14"], "14 among the 14 highest losses"),
        ([*FIT, "--n", "sessions_unique"], "named by both --n and --d"),
        ([*FIT, "--seed", "-1"], "--seed is -1; wanted 0 to 4,294,967,295"),
        ([*FIT, "--seed", "4294967296"], "seed is 4294967296"),
        ([*FIT, "--floor", "5"], "the known floor 5 is not below any rank"),
        ([*FIT, "--json", "no/such/folder/fit.json"], "there is no folder"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(csv, capsys, arguments, message):
    assert main(["fit", str(csv), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_unknown_keys_of_report_json_are_named(sweep, tmp_path, capsys):
    (sweep / "report.json").write_text('{"los": "rank"}')
    assert main(["report", str(sweep), "--out", str(tmp_path / "a.html")]) == 2
    assert "did you mean 'loss'?" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("command", ["fit", "report"])
def test_help_names_the_command(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: sessionrec {command}" in capsys.readouterr().out
