"""Wrong input on the command line gives exit code 2 and one message: what came, what was wanted, what to change."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from experiments.__main__ import COMMANDS, main
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import to_dict


@pytest.fixture
def call(capsys):
    def call(*argv: object) -> tuple[int, str]:
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call, command):
    code, said = call(command, "--help")
    assert code == 0
    assert command in said


def test_help_lists_every_command(call):
    code, said = call("--help")
    assert code == 0
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["trian"], ["trian", "train"]),
        (["train", "nowhere", "--out", "run"], ["nowhere", "sessionrec prepare"]),
        (["train", "nowhere", "--out", "run", "--model.widht", "3"], ["widht"]),
        (["train", "nowhere", "--out", "run", "--model.width", "many"], ["many"]),
        (["train", "nowhere", "--out", "run", "--model.session-encoder", "median"], ["median", "did you mean 'mean'"]),
        (["evaluate", "nowhere"], ["nowhere", "config.json"]),
        (["evaluate", "nowhere", "--mesh", "4x2"], ["--mesh is '4x2'", "such as data=4,model=2"]),
        (["recommend", "nowhere", "--log-users", "1", "--mesh", "modle=2"], ["modle", "did you mean 'model'"]),
        (["sweep", "gird", "--data", "x", "--out", "y"], ["gird", "grid"]),
        (["sweep"], ["which plan", "grid"]),
        (["status", "nowhere"], ["nowhere", "sweep.json"]),
        (["demo", "--size", "huge"], ["huge"]),
    ],
)
def test_wrong_words(call, tmp_path, monkeypatch, argv, names):
    monkeypatch.chdir(tmp_path)
    code, said = call(*argv)
    assert code == 2
    assert "Traceback" not in said
    assert all(name in said for name in names), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--model.heads", "3"], ["--model.heads is 3", "divisor of model.width 64"]),
        (["--data.users", "100000"], ["100000", "training users"]),
        (["--data.rows", "3"], ["--data.rows 3", "use a multiple such as 8"]),
        (["--mesh.data", "64"], ["wants 64 devices"]),
        (["--mesh", "data=4,modell=2"], ["modell", "did you mean 'model'"]),
        (["--mesh", "4x2"], ["--mesh is '4x2'", "such as data=4,model=2"]),
        (["--mesh", "data=4,model=4"], ["wants 16 devices", "use --mesh data=2"]),
        (["--data.side-columns", "categry"], ["categry", "did you mean 'category'"]),
        (["--data.sessions-per-row", "8", "--data.items-per-row", "8"], ["do not fit a row of 8"]),
        (["--train.epochs", "-1"], ["--train.epochs is -1.0"]),
    ],
)
def test_settings_that_cannot_run(call, log, tmp_path, flags, names):
    code, said = call("train", log.path, "--out", tmp_path / "run", *flags)
    assert code == 2
    assert all(name in " ".join(said.split()) for name in names), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"config_version": 99}, ["config_version 99", "this release reads"]),
        ({"modle": {}}, ["modle", "did you mean 'model'"]),
        ({"model": {"widht": 3}}, ["widht", "did you mean 'width'"]),
        ({"model": {"width": "wide"}}, ["'wide'", "wanted int"]),
    ],
)
def test_a_run_folder_of_another_kind(call, tmp_path, change, names):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(Config()) | change))
    code, said = call("evaluate", tmp_path)
    assert code == 2
    assert all(name in " ".join(said.split()) for name in names), said


def test_a_run_folder_cut_short(call, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(Config()))[:-9])
    code, said = call("evaluate", tmp_path)
    assert code == 2
    assert "holds no valid JSON" in said


def test_help_of_train_has_a_line_for_every_choice(call):
    code, said = call("train", "--help-all")
    assert code == 0
    lines = [line.strip("│ ") for line in said.splitlines()]
    for name, kind in typing.get_type_hints(Config).items():
        fields = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {name: kind}
        for field, wanted in fields.items():
            if typing.get_origin(wanted) is typing.Literal:
                for choice in typing.get_args(wanted):
                    assert any(line.startswith(f"{choice}: ") for line in lines), f"{field}: {choice}"
