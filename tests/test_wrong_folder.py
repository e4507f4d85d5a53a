"""Tests the messages for a folder of the wrong kind: the command that they name is one that the program accepts."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from doors.files import check_folder, is_not
from experiments.__main__ import COMMANDS, main

MARKS = {
    "a prepared log": "prepared.json",
    "a sweep": "sweep.json",
    "a run": "config.json",
    "an exported model": "model.json",
}


def outputs(message: str) -> list[Path]:
    """Returns the folders that the commands of a message would write."""
    found = []
    for command in re.findall("`([^`]+)`", message):
        words = shlex.split(command)
        assert words[0] == "sessionrec"
        assert words[1] in COMMANDS
        found += [Path(after) for word, after in itertools.pairwise(words) if word in ("--out", "--to")]
    return found


@pytest.mark.parametrize("wanted", MARKS)
@pytest.mark.parametrize("found", [*MARKS, None, "missing", "inside a run"])
def test_the_command_of_a_message_is_accepted(tmp_path, monkeypatch, found, wanted):
    monkeypatch.chdir(tmp_path)
    folder = Path("a folder")
    if found == "inside a run":
        folder.mkdir()
        (folder / MARKS["a run"]).touch()
        folder = folder / "checkpoints"
    elif found != "missing":
        folder.mkdir()
    if found in MARKS:
        (folder / MARKS[found]).touch()
    message = is_not(folder, wanted)
    assert f"is {found}, not {wanted}" in message if found in MARKS and found != wanted else f"not {wanted}" in message
    for out in outputs(message):
        check_folder(out, wanted)
        assert not out.exists()


@pytest.mark.parametrize(
    ("found", "words", "message"),
    [
        ("a run", ["serve", "X", "--port", "0"], "X is a run, not an exported model: `sessionrec export X --to MODEL`"),
        ("a run", ["status", "X"], "X is a run, not a sweep: `sessionrec evaluate X`"),
        ("a prepared log", ["evaluate", "X"], "X is a prepared log, not a run: `sessionrec train X --out RUN`"),
        ("a sweep", ["export", "X", "--to", "M"], "X is a sweep, not a run: its runs are the folders in X/runs"),
        ("an exported model", ["recommend", "X", "--log-users", "1"], "X is an exported model, not a run: "),
        ("a run", ["describe", "X"], "X is a run, not a prepared log: "),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path, monkeypatch, capsys, found, words, message):
    monkeypatch.chdir(tmp_path)
    Path("X").mkdir()
    (Path("X") / MARKS[found]).touch()
    assert main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
