"""Tests typed paths: a ~ at the start is the home folder, inside quotes too, and a name that is no text is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from doors import tables
from doors.errors import InputError
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


def test_a_name_that_this_process_cannot_read_is_no_damage_and_the_cure_helps(log, tmp_path):
    shutil.copytree(log.path, tmp_path / "Größe 2")
    command = [sys.executable, "-m", "experiments", "describe", str(tmp_path / "Größe 2")]
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = subprocess.run(command, capture_output=True, env=ascii_only, check=False)
    assert said.returncode == 2
    assert b"this process reads names as ascii" in said.stderr
    assert b"damaged" not in said.stderr
    cured = subprocess.run(command, capture_output=True, env=ascii_only | {"PYTHONUTF8": "1"}, check=False)
    assert cured.returncode == 0, cured.stderr


@pytest.mark.parametrize("read", [tables.scan_csv, tables.read_parquet, tables.scan_ipc, tables.scan_ndjson])
def test_a_table_whose_name_is_not_in_utf8_is_refused(home, read):
    name = os.fsdecode(b"\xff.csv")
    Path(name).touch()
    with pytest.raises(InputError, match="this name is not in UTF-8; rename it"):
        read(Path(name))
