"""`-v` shows what the libraries log, also in the workers that a command starts."""

from __future__ import annotations

import logging
import os

import pytest

from experiments.__main__ import main
from experiments.verbose import VARIABLE, environment, show_and_remove


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch):
    """Puts the root logger into the state of a new process, and restores it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv(VARIABLE, "")
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("argv", [["-v", "train"], ["train", "-v"], ["train", "--verbose"]])
def test_records_are_shown_on_stderr_without_control_characters(argv, capsys):
    assert show_and_remove(argv) == ["train"]
    logging.getLogger("jax").info("meet at %s", "10.0.0.1\x1b[2J")
    shown = capsys.readouterr()
    assert "jax: meet at 10.0.0.1\\x1b[2J" in shown.err
    assert shown.out == ""


def test_without_the_flag_no_record_is_shown(capsys):
    assert show_and_remove(["train"]) == ["train"]
    logging.getLogger("jax").info("quiet")
    assert "quiet" not in capsys.readouterr().err
    assert environment() == {}


def test_a_process_that_the_command_starts_shows_them_too(capsys):
    assert main(["-v", "--version"]) == 0
    assert environment() == {VARIABLE: "1"}
    assert os.environ[VARIABLE] == "1"
