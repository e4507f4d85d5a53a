"""`--json FILE`, `--json -` and `--json` do the same in every command that has the flag."""

from __future__ import annotations

import dataclasses
import importlib
import json
import typing
from pathlib import Path

import numpy as np
import planted_rates
import polars as pl
import pytest

from doors.errors import InputError
from doors.files import STDOUT, check_outputs
from experiments.__main__ import COMMANDS, main
from experiments.cli.parsing import JsonFile
from experiments.sweep import sweep_folder
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace

pytestmark = pytest.mark.usefixtures("few_forms")

FAKED = {"evaluate": "test_recommend.py trains a run", "compare": "it needs runs of several arms", "pod": "it compiles"}
"""Commands whose work is replaced here by a small result, and why."""


def with_json() -> set[str]:
    """The commands that have a dataclass of flags with the field json."""
    found = set()
    for name in COMMANDS:
        module = importlib.import_module(f"experiments.cli.{name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
                fields = {field.name for field in dataclasses.fields(kind)}
                if fields & {"json", "as_json"}:
                    assert typing.get_type_hints(kind, include_extras=True)["json"] == JsonFile
                    found.add(name)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, log):
    """A folder with a table of runs, a fit of them, a forecast from it, a sweep, and a link to a prepared log."""
    folder = tmp_path_factory.mktemp("json")
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e4, 1e6, 4), np.geomspace(1e3, 3e5, 5)))
    loss = (1.8 + 40 / n**0.34 + 200 / d**0.36) * np.exp(2e-3 * np.random.default_rng(1).normal(size=len(n)))
    runs = pl.DataFrame({"run_id": [f"run{i}" for i in range(len(n))], "n": n, "d": d, "loss": loss})
    runs.write_csv(folder / "runs.csv")
    axis = pl.DataFrame({"arm": ["a"] * 8 + ["b"] * 8, "d": [*np.geomspace(1e3, 1e5, 8)] * 2})
    axis.with_columns(loss=1 + pl.col("d") ** -0.3).write_csv(folder / "arms.csv")
    runs.select("n", "d").write_csv(folder / "planned.csv")
    planted_rates.table(batches=()).write_csv(folder / "rates.csv")
    sweep_folder.begin(folder / "SWEEP", "seeds", [replace(Config(), {"train.seed": seed}) for seed in range(2)], {})
    (folder / "DATA").symlink_to(log.path)
    fit = ["fit", str(folder / "runs.csv"), "--law", "chinchilla", "--bootstrap", "40", "--json"]
    assert main([*fit, str(folder / "fit.json")]) == 0
    forecast = ["forecast", str(folder / "fit.json"), "--n", "3e6", "--d", "1e6", "--out"]
    assert main([*forecast, str(folder / "forecasts.jsonl")]) == 0
    return folder


CALLS = {
    "sources": "sources",
    "describe": "describe DATA",
    "status": "status SWEEP",
    "evaluate": "evaluate RUN",
    "compare": "compare SWEEP",
    "pod": "pod --topology v5e:2x2",
    "fit": "fit arms.csv --d d --loss loss --law power_floor --bootstrap 40",
    "fit, of arms": "fit arms.csv --d d --loss loss --law power_floor --bootstrap 40 --by arm",
    "rates": "rates rates.csv --rate lr --n params --d tokens --loss loss --bootstrap 40",
    "plan": "plan --from fit.json --budget 1e15",
    "forecast": "forecast check forecasts.jsonl runs.csv",
    "design": "design planned.csv --n n --d d --planned --from fit.json --sigma 0.005",
}


@pytest.fixture
def faked(monkeypatch):
    """Replaces the work of the commands in FAKED."""
    found = {name: importlib.import_module(f"experiments.cli.{name}") for name in FAKED}

    class Run:
        def evaluate(self, *_):
            return {"loss_nats_per_item": 2.0}

    monkeypatch.setattr(found["evaluate"].sr, "load", lambda *_: Run())
    monkeypatch.setattr(found["compare"], "compare", lambda *_: [])
    monkeypatch.setattr(found["compare"], "left_out", lambda _: {})
    monkeypatch.setattr(found["pod"], "check_compiler", lambda _: None)
    monkeypatch.setattr(found["pod"], "_compiled", lambda _: {"programs": {}})
    monkeypatch.setattr(found["pod"], "show", lambda *_: print("text"))


def test_every_command_with_the_flag_is_tried_here():
    assert with_json() == {name.partition(",")[0] for name in CALLS}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name == "fit" else ()) for name in CALLS])
def test_a_file_and_standard_output_get_the_same(place, faked, monkeypatch, capsys, name):
    monkeypatch.chdir(place)
    argv = CALLS[name].split()
    shown = {}
    for words in (["--json", "out.json"], ["--json", "-"], ["--json"]):
        assert main([*argv, *words]) == 0
        shown[words[-1]] = capsys.readouterr().out
    assert shown["out.json"].strip()  # text for a reader
    assert json.loads(shown["-"]) == json.loads(Path("out.json").read_text())
    assert shown["--json"] == shown["-"]
    assert not Path("-").exists()


def test_a_flag_after_json_is_no_file(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["describe", "--json", "--check", "DATA"]) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 200


def test_two_outputs_cannot_both_be_printed():
    with pytest.raises(InputError, match="two outputs would go to standard output"):
        check_outputs(STDOUT, STDOUT)
