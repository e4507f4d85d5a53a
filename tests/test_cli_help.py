"""Every command's help has examples on lines of their own, plain metavars and the settings that people change often."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest

from experiments.__main__ import COMMANDS, main
from experiments.cli.parsing import FREQUENT, HELP_ALL
from experiments.plans import PLANS
from experiments.sweep.launch import LAUNCHERS
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import to_dict
from sessionrec_jax.registry import SOURCES

EXAMPLE = re.compile(r"^\s*((?:\w+=\S+ |srun )?sessionrec .+)$", re.MULTILINE)
LAUNCHED = [["sweep", "grid", "--launcher", launcher] for launcher in LAUNCHERS]
VARIANTS = [*([command] for command in COMMANDS), *LAUNCHED, *(["prepare", source] for source in SOURCES)]


@pytest.fixture
def help_of(capsys):
    def help_of(*argv: str) -> str:
        assert main(list(argv)) == 0
        return capsys.readouterr().out

    return help_of


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_has_two_examples_or_more_each_on_a_line_of_its_own(help_of, command):
    examples = EXAMPLE.findall(importlib.import_module(f"experiments.cli.{command}").__doc__ or "")
    assert len(examples) >= 2
    assert all(example.removeprefix("srun ").split("sessionrec ")[1].startswith(command) for example in examples)
    lines = [line.strip() for line in help_of(command, "--help").splitlines()]
    assert [example for example in examples if example not in lines] == []


@pytest.mark.parametrize("argv", VARIANTS, ids=" ".join)
def test_no_metavar_speaks_of_none(help_of, argv):
    """For all settings of a run too; `None` in braces, or next to a bar, is what tyro writes for an optional value."""
    assert re.findall(r"\S*(?:\{None|None\}|\|None)\S*", help_of(*argv, HELP_ALL)) == []


def test_what_is_wanted_is_the_metavar(help_of):
    for command, wanted in {"train": "DATA", "evaluate": "RUN", "fit": "TABLE", "status": "SWEEP"}.items():
        assert re.search(rf"^usage: .* {wanted}\b", help_of(command, "--help"), re.MULTILINE)
    assert "--json FILE" in help_of("evaluate", "--help")


def settings_in(text: str) -> set[str]:
    return {name.replace("-", "_") for name in re.findall(r"^[│ ] --(\w+\.[\w-]+)", text, re.MULTILINE)}


def test_help_of_train_shows_the_frequent_settings_and_help_all_every_one(help_of):
    stored = {f"{name}.{field}" for name, part in to_dict(Config()).items() if isinstance(part, dict) for field in part}
    brief, whole = help_of("train", "--help"), help_of("train", HELP_ALL)
    assert settings_in(brief) == FREQUENT
    hosts = {name for name in settings_in(whole) if name.startswith("hosts.")}
    assert settings_in(whole) - hosts == stored - {
        "data.path",
        "data.fingerprint",
        "data.rows_auto",
        "data.eval_users_auto",
    }
    assert hosts
    assert HELP_ALL in brief
    assert HELP_ALL not in whole


@pytest.mark.parametrize("plan", list(PLANS))
def test_help_of_a_plan_shows_its_own_options(help_of, plan):
    brief, whole = help_of("sweep", plan, "--help"), help_of("sweep", plan, HELP_ALL)
    assert settings_in(brief) < settings_in(whole)
    plain = re.compile(r"^[│ ] --([a-z-]+) ", re.MULTILINE)
    assert plain.findall(brief) == plain.findall(whole)


def test_version(help_of):
    assert help_of("--version") == f"sessionrec {metadata.version('sessionrec-jax')}\n"


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["sources"], ["config"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_failure(words):
    """The pipe is closed before the command writes."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_flags_are_an_error_whoever_reads():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments", "fit", "runs.csv", "--nonsense", "1"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.parametrize("command", ["fit", "report"])
def test_flags_of_a_fit_are_shown_without_the_libraries_of_a_fit(command):
    code = (
        f"import sys, experiments.cli.{command}; print([m for m in ('numpy', 'polars', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
