"""`sessionrec train --config FILE` reads settings from a file, and `sessionrec config` prints one."""

from __future__ import annotations

import json

import pytest

from experiments.__main__ import main
from experiments.cli import train
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.settings_file import read_settings, to_toml
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.errors import InputError

CHANGED = replace(
    Config(),
    {
        "paradigm": "nipp",
        "model.width": 24,
        "model.session_encoder": "mean",
        "model.remat": False,
        "optim.learning_rate_peak": 1e-05,
        "data.side_columns": ("category", 'a "quoted" näme\\'),
        "train.checkpoints_at": (5, 10),
        "train.epochs": 2.0,
    },
)


class Started(Exception):
    """Stands for the training, with its settings."""


@pytest.fixture
def settings_of(monkeypatch, tmp_path):
    """A function of flags: the Config that `sessionrec train` trains with."""

    def started(log, out, config, quiet):
        raise Started(config)

    monkeypatch.setattr("sessionrec_jax.train", started)

    def settings_of(*flags: object) -> Config:
        with pytest.raises(Started) as caught:
            train.main(["DATA", "--out", str(tmp_path / "run"), *map(str, flags)])
        return caught.value.args[0]

    return settings_of


def test_all_settings_survive_a_file_of_toml(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(CHANGED))
    assert read_settings(path) == CHANGED


FILES = {
    "a.toml": 'paradigm = "nipp"\nmodel.width = 24\n[train]\nepochs = 2\n',
    "a.yaml": "paradigm: nipp\nmodel: {width: 24}\ntrain: {epochs: 2}\n",
    "a.json": '{"paradigm": "nipp", "model": {"width": 24}, "train": {"epochs": 2}}',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_changes_the_defaults_and_flags_win_over_it(settings_of, tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    wanted = {"paradigm": "nipp", "model.width": 24, "train.epochs": 2.0}
    assert settings_of("--config", tmp_path / name) == replace(Config(), wanted)
    flags = ("--model.width", 32, f"--config={tmp_path / name}", "--mesh", "data=2", "--train.seed", 3)
    changes = {"model.width": 32, "mesh.data": 2, "train.seed": 3}
    assert settings_of(*flags) == replace(Config(), wanted | changes)


def test_the_settings_of_a_run_suit_another_log(settings_of, tmp_path, capsys):
    """Facts of the run's log are left out: from its folder, from its config.json, and in what `config` prints."""
    of_log = {"data.path": "old", "data.fingerprint": "f", "data.items_per_row": 9}
    of_log |= {"data.rows": 4, "data.rows_auto": True, "data.eval_users": 500, "data.eval_users_auto": True}
    (tmp_path / "config.json").write_text(json.dumps(to_dict(replace(CHANGED, of_log))))
    assert main(["config", str(tmp_path)]) == 0
    (tmp_path / "printed.toml").write_text(capsys.readouterr().out)
    for path in (tmp_path, tmp_path / "config.json", tmp_path / "printed.toml"):
        assert replace(settings_of("--config", path), {"data.path": ""}) == CHANGED


def test_without_a_run_the_defaults_are_printed(tmp_path, capsys):
    assert main(["config"]) == 0
    (tmp_path / "a.toml").write_text(capsys.readouterr().out)
    assert read_settings(tmp_path / "a.toml") == Config()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "model.widht = 3", "did you mean 'width'"),
        ("a.toml", "modle.width = 3", "did you mean 'model'"),
        ("a.toml", "model.width = 'wide'", "wanted int"),
        ("a.toml", "model.width = ", "not valid TOML"),
        ("a.toml", "model = 3", "wanted an object"),
        ("a.toml", "config_version = 99", "config_version 99"),
        ("a.yaml", "model: [1", "not valid YAML"),
        ("a.yaml", "- model", "wanted a JSON object"),
        ("a.json", "{", "no valid JSON"),
        ("a.ini", "", "no file of settings"),
        ("a.toml", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, capsys, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["train", "DATA", "--out", str(tmp_path / "run"), "--config", str(tmp_path / name)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert name in said
    assert not (tmp_path / "run").exists()


def test_config_without_a_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="names no file"):
        train.main(["DATA", "--out", str(tmp_path / "run"), "--config"])
