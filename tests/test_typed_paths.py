"""Tests that a ~ at the start of a typed path is the home folder, inside quotes too, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from doors import tables
from experiments.__main__ import main
from experiments.cli.parsing import JsonFile, parse_flags


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@dataclass(frozen=True)
class Command:
    one: Path
    several: tuple[Path, ...]
    json: JsonFile = None
    default: Path = Path("out")


def test_every_flag_that_is_a_path_expands_a_tilde(home):
    argv = ["--one", "~/a b", "--several", "s3://B/~/x", "a/~", "~", "--json", "~/x.json"]
    found = parse_flags(Command, argv, prog="x", description=None)
    assert found == Command(home / "a b", (Path("s3://B/~/x"), Path("a/~"), home), home / "x.json")
    assert parse_flags(Command, [*argv[:-1], "~nobody known/x"], prog="x", description=None).json == Path(
        "~nobody known/x"
    )


def test_a_pattern_expands_a_tilde(home):
    (home / "b.csv").touch()
    (home / "a.csv").touch()
    assert tables.matching("~/*.csv") == [home / "a.csv", home / "b.csv"]
    assert tables.matching("~/a.csv") == [home / "a.csv"]


def test_a_command_reads_and_writes_at_home(home, capsys):
    (home / "t.csv").write_text("user_id,item_id,timestamp_ms,clicked\n" + "u,i,1600000000000,1\n")
    assert main(["prepare", "table", "--exposures", "~/t.csv", "--out", "~/log"]) == 0
    assert (home / "log" / "prepared.json").is_file()
    (home / "settings.toml").write_text("[model]\nwidht = 3\n")
    assert main(["train", "DATA", "--out", "~/run", "--config", "~/settings.toml"]) == 2
    assert "did you mean 'width'" in " ".join(capsys.readouterr().err.split())
    assert main(["sources", "--json", "~/sources.json"]) == 0
    assert json.loads((home / "sources.json").read_text())
