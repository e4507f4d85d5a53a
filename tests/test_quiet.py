"""`-q` shows no progress, and a hint at the end of a command is a command that can be copied."""

from __future__ import annotations

import importlib
import re
import shlex
import typing

import pytest

from doors.text import shell
from experiments.__main__ import main
from experiments.cli.parsing import Quiet
from experiments.sweep import sweep_folder
from experiments.sweep.ticker import Ticker
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.files import write_json

WITH_PROGRESS = ("prepare", "train", "recommend", "sweep", "worker")


@pytest.mark.parametrize("name", WITH_PROGRESS)
def test_the_flag_is_the_same_in_each_command_that_shows_progress(name):
    command = importlib.import_module(f"experiments.cli.{name}").Command
    assert typing.get_type_hints(command, include_extras=True)["quiet"] == Quiet


@pytest.mark.parametrize(("words", "is_quiet"), [([], False), (["-q"], True), (["--quiet"], True)])
def test_prepare_is_quiet_if_asked(tmp_path, monkeypatch, capsys, words, is_quiet):
    monkeypatch.chdir(tmp_path)
    argv = ["prepare", "synthetic", "--users", "40", "--base", "4", "--depth", "2", "--seed", "1", "--out", "DATA"]
    assert main([*argv, *words]) == 0
    printed = capsys.readouterr()
    assert (printed.err == "") == is_quiet
    assert "fingerprint" in printed.out


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_sweep_shows_the_rows_of_runs_that_went_wrong(tmp_path, capsys, quiet):
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(2)]
    sweep_folder.begin(tmp_path, "seeds", configs, {})
    done, failed = (sweep_folder.run_dir(tmp_path, run_id(config)) for config in configs)
    with Ticker(tmp_path, quiet=quiet) as ticker:
        for folder, row in ((done, {"status": "done"}), (failed, {"status": "failed", "reason": "no memory"})):
            folder.mkdir(parents=True)
            write_json(folder / "row.json", {"steps": 3, **row})
        ticker.refresh()
    err = capsys.readouterr().err
    assert f"{failed.name}, seed 1; failed: no memory" in err
    assert (done.name in err) != quiet


# --- hints -----------------------------------------------------------------------------------------------------------

ODD = "my [bold]sweep[/] of 'today', which has a name that is longer than a line of a terminal with eighty columns"


@pytest.fixture
def sweep(log, tmp_path, monkeypatch, capsys):
    """Returns a function: types a sweep into a folder with an odd name; gives the commands that it prints at its end.
    The runs are not made: each gets a row as if it had."""
    monkeypatch.chdir(tmp_path)

    def made(plan, layout, sweep_dir, **_):
        sweep_folder.begin(sweep_dir, plan, layout.configs, layout.files)
        return [{"status": "done", "steps": 1} for _ in layout.configs]

    monkeypatch.setattr("experiments.cli.sweep.run_sweep", made)

    def sweep(*words: str) -> list[list[str]]:
        argv = f"sweep grid --data {log.path} --users 40 80 --sizes xxs --learning-rates 0.01 --law none".split()
        assert main([*argv, "--out", ODD, *words]) == 0
        return [shlex.split(hint) for hint in re.findall("`(.*?)`", capsys.readouterr().out)]

    return sweep


@pytest.mark.parametrize(("words", "command"), [(["--workers", "1"], "report"), (["--workers", "0"], "worker")])
def test_a_sweep_ends_with_a_command_as_it_must_be_typed(sweep, words, command):
    assert sweep(*words) == [["sessionrec", command, ODD]]


def test_a_shell_reads_the_words_of_a_hint():
    words = ["sessionrec", "watch", "a b", "it's", "$HOME", "--to=x"]
    assert shlex.split(shell(*words)) == words
