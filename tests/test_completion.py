"""The completion scripts: names of commands, of plans and sources, and flags."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from experiments.__main__ import COMMANDS, main
from experiments.cli import completion
from experiments.plans import PLANS

ASK = """
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _sessionrec; echo "${COMPREPLY[*]}"; }
"""


@pytest.fixture
def asked(capsys, monkeypatch, tmp_path):
    """Returns a function: the words that bash offers for the last word, by the script of these commands."""

    def asked(*words: str, commands: tuple[str, ...]) -> list[str]:
        monkeypatch.setattr("experiments.__main__.COMMANDS", commands)
        assert main(["completion", "bash"]) == 0
        script = capsys.readouterr().out
        typed = " ".join(f'"{word}"' for word in ("sessionrec", *words))
        done = subprocess.run(
            ["bash", "-uc", f"{script}{ASK}ask {typed}"], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        return done.stdout.split()

    return asked


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", "--sp"], ["--split"]),
        (["evaluate", "--help-"], ["--help-all"]),
        (["evaluate", "runs/"], []),  # bash goes on with files
        (["unknown", "--j"], []),
    ],
)
def test_bash_offers_commands_and_flags(asked, words, offered):
    assert asked(*words, commands=("evaluate", "status", "completion")) == offered


def test_bash_offers_plans_and_their_flags(asked, monkeypatch):
    monkeypatch.setattr(completion, "_SECOND", {"sweep": ("grid", "seeds")})
    assert asked("sweep", "gr", commands=("sweep", "completion")) == ["grid"]
    assert asked("sweep", "grid", "gr", commands=("sweep", "completion")) == []
    assert asked("sweep", "grid", "--launch", commands=("sweep", "completion")) == ["--launcher"]
    assert "grid" in PLANS


def test_zsh_loads_the_completions_of_bash(capsys, monkeypatch):
    monkeypatch.setattr("experiments.__main__.COMMANDS", ("completion",))
    assert main(["completion", "bash"]) == 0
    bash = capsys.readouterr().out
    assert main(["completion", "zsh"]) == 0
    zsh = capsys.readouterr().out
    assert zsh.endswith(bash)
    assert "bashcompinit" in zsh
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-fc", f"{zsh}\n[[ -n ${{_comps[sessionrec]}} ]]"], check=True)


@pytest.mark.slow
def test_the_whole_script_knows_every_command(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert f"        {command}) flags=" in script
    assert "--model.sequence-encoder" in script
