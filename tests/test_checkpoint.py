"""Checkpoints: damaged ones are not used, a full disk is reported, and as many stay as the settings say."""

from __future__ import annotations

import errno
import itertools
import json
import random
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from hostile import files_of_at_most
from onestep import assert_same_bits, by_name

from experiments.__main__ import main
from sessionrec_jax import row
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.data.batches import shape_of
from sessionrec_jax.errors import InputError, NotSaved
from sessionrec_jax.runfolder.files import claim
from sessionrec_jax.runfolder.stopping import Stopped
from sessionrec_jax.serving.load import restore
from sessionrec_jax.training import checkpoint, crew
from sessionrec_jax.training.checkpoint import Checkpoints, damage_of, load, newest_whole, steps_in
from sessionrec_jax.training.loop import train

STATE = {"a": np.arange(30_000, dtype=np.float32), "b": np.ones((2, 2), np.float32)}


def stop_at(step: int, first: int = 0):
    """A Stop that asks to stop at `step`: the loop looks once per step, from `first` on."""
    now = itertools.count(first)
    return nullcontext(lambda: signal.SIGTERM if next(now) >= step else 0)


def train_until(step: int, config, log, folder: Path, first: int = 0) -> None:
    with pytest.raises(Stopped, match=f"at step {step} of .*goes on from there"):
        train(config, log, folder, quiet=True, stop=stop_at(step, first))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def short(config):
    return replace(config, {"train.epochs": 4.0, "train.log_every_steps": 1})


@pytest.fixture(scope="module")
def whole(short, log, tmp_path_factory):
    """The result of an undisturbed run, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(short, log, folder, quiet=True), folder


@pytest.fixture(scope="module")
def halfway(short, log, tmp_path_factory):
    """A folder with the checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("runs") / "halfway"
    train_until(10, short, log, folder)
    train_until(20, short, log, folder, first=10)
    return folder


@pytest.fixture
def two(tmp_path):
    """A folder with two checkpoints of STATE, of steps 1 and 2."""
    with Checkpoints(tmp_path / "two", kept=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, {"step": step})
    return tmp_path / "two"


# Another number of devices.


@pytest.mark.parametrize("devices", [(2, 1), pytest.param((8, 4, 1, 8), marks=pytest.mark.slow)], ids=str)
def test_on_other_numbers_of_devices_the_loss_curve_is_that_of_one(devices, short, whole, log, tmp_path):
    undisturbed, calm = whole
    first, folder = 0, tmp_path / "run"
    for number, step in zip(devices[:-1], (10, 20, 30), strict=False):
        train_until(step, replace(short, {"mesh.data": number}), log, folder, first)
        first = step
    moved = train(replace(short, {"mesh.data": devices[-1]}), log, folder, quiet=True)
    curves = [[line["retrieval_nats_per_item"] for line in lines_of(path)] for path in (folder, calm)]
    assert len(curves[0]) == undisturbed.history.steps > 35
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0] != curves[1]  # or all of it ran on one device
    for name, leaf in by_name(moved.params).items():
        np.testing.assert_allclose(leaf, by_name(undisturbed.params)[name], atol=2e-3, err_msg=name)
    assert moved.history.counters.target_items == undisturbed.history.counters.target_items


# Stopped and started again.


def test_a_stopped_run_saves_its_step_and_ends_as_if_it_had_not_stopped(short, whole, log, tmp_path):
    undisturbed, calm = whole
    uneven = replace(short, {"train.log_every_steps": 7})
    train_until(10, uneven, log, tmp_path)
    assert newest_whole(tmp_path / "checkpoints") == (10, [])
    resumed = train(uneven, log, tmp_path, quiet=True)
    assert_same_bits(resumed.params, undisturbed.params)
    losses = [line["rank_nats_per_term"] for line in lines_of(calm)]
    means = [line["rank_nats_per_term"] for line in lines_of(tmp_path)]
    assert means[1] == pytest.approx(np.mean(losses[7:14]), rel=0.02)  # steps from before the stop and after it
    assert [line["step"] for line in lines_of(tmp_path)[:3]] == [6, 13, 20]


def test_checkpoints_of_another_run_are_refused(short, halfway, log, tmp_path):
    other = replace(short, {"train.seed": 1})
    train_until(5, other, log, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(halfway / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(InputError, match=r"its checkpoints are those of run \w+, its config.json that of run"):
        train(other, log, tmp_path, quiet=True)


# Damage.


@pytest.mark.parametrize("way", mostly_slow(["flipped", "truncated", "half-written"], quick=["half-written"]))
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    way, short, halfway, whole, log, tmp_path, capfd
):
    folder = tmp_path / "run"
    shutil.copytree(halfway, folder)
    newest = folder / "checkpoints" / "20"
    largest = max(newest.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    if way == "flipped":
        flip(largest, largest.stat().st_size // 2)
    elif way == "truncated":
        largest.write_bytes(largest.read_bytes()[:-1])
    else:
        shutil.rmtree(newest / "state")
        (newest / "manifest.json").unlink()
    resumed = train(short, log, folder, quiet=True)
    printed = capfd.readouterr().err
    assert printed.count("the checkpoint of step 20 is damaged (") == 1
    assert "that of step 10 is used" in printed
    assert_same_bits(resumed.params, whole[0].params)
    assert [line["step"] for line in lines_of(folder)] == list(range(resumed.history.steps))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "10",
        str(resumed.history.steps),
        "damaged-20",
    ]


def test_damage_anywhere_in_any_file_is_found(two):
    for path in [path for path in (two / "2").rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            flip(path, place)
            harmless = path.name == "manifest.json" and json_of(path) == json.loads(content)  # a space for a newline
            assert harmless or damage_of(two, 2) is not None, (path, place)
            path.write_bytes(content)
        path.write_bytes(content[: len(content) // 2])
        assert damage_of(two, 2) is not None, path
        path.unlink()
        assert damage_of(two, 2) is not None, path
        path.write_bytes(content)
    assert damage_of(two, 2) is None


def json_of(path: Path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def test_a_run_without_a_whole_checkpoint_is_refused_and_stays(short, halfway, log, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(halfway, folder)
    for step in (10, 20):
        (folder / "checkpoints" / str(step) / "progress.json").write_text("{}")
    message = (
        r"none of its checkpoints is whole \(step 20: .*progress.json.*step 10: .*delete the folder to train again"
    )
    with pytest.raises(InputError, match=message):
        row.run(short, folder, "train", quiet=True)
    assert steps_in(folder / "checkpoints") == [10, 20]
    with pytest.raises(InputError, match=message):
        restore(folder)


def test_what_a_killed_save_left_is_no_checkpoint_and_goes(two):
    (two / "2").rename(two / ".partial-2")
    with Checkpoints(two, kept=2) as checkpoints:
        _, progress = checkpoints.restore(jax.tree.map(jnp.asarray, STATE))
    assert progress == {"step": 1}
    assert [path.name for path in two.iterdir()] == ["1"]


# A full disk.


def until_still(folder: Path) -> None:
    """Nothing has come or gone in it for half a second."""
    before = None
    while (now := sorted(folder.rglob("*"))) != before:
        before = now
        time.sleep(0.5)


def test_a_save_that_finds_no_room_says_so_once_and_the_one_before_stays_whole(two, capfd):
    noise = {"a": np.random.default_rng(0).random(300_000), "b": STATE["b"]}
    with (
        files_of_at_most(200_000),
        pytest.raises(NotSaved, match=r"step 3 could not be written: .*same command again; it goes on from step 2"),
        Checkpoints(two, kept=2) as checkpoints,
    ):
        checkpoints.save(3, noise, {"step": 3})
    assert capfd.readouterr().err == ""
    assert newest_whole(two) == (2, [])
    until_still(two)  # Orbax writes on for a moment after its failure is reported
    with Checkpoints(two, kept=2) as checkpoints:  # clears what that left
        assert sorted(path.name for path in two.iterdir()) == ["1", "2"]
        checkpoints.save(3, noise, {"step": 3})
    assert newest_whole(two) == (3, [])


def test_a_full_disk_ends_a_command_with_exit_code_1_and_one_message(short, log, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    claim(tmp_path / "settings", short)
    argv = ["--config", str(tmp_path / "settings" / "config.json"), "--train.epochs", "0.1"]
    assert main(["train", str(log.path), "--out", str(tmp_path / "run"), *argv]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "no space left on its disk. Make room and type the same command again; it goes on from the start" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "run" / "config.json").exists()


# Validation, and what is kept.


def test_the_last_n_and_the_best_stay(tmp_path):
    with Checkpoints(tmp_path, kept=2) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, STATE, {}, best=2 if step >= 2 else None)
        checkpoints.save(6, STATE, {"again": True}, best=2)  # takes the place of the one of this step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]
    assert newest_whole(tmp_path) == (6, [])
    assert load(tmp_path, 6, jax.tree.map(jnp.asarray, STATE))[1] == {"again": True}


@pytest.fixture(scope="module")
def validated(short, log, tmp_path_factory):
    """Few users, a high rate: the validation is best long before the end."""
    few = {"train.validations": 5, "data.users": 20, "train.epochs": 30.0, "optim.learning_rate_peak": 0.1}
    config, folder = replace(short, few), tmp_path_factory.mktemp("runs") / "validated"
    return config, train(config, log, folder, quiet=True), folder


def validations_of(folder: Path) -> list[dict]:
    return [line for line in lines_of(folder) if "validation_objective" in line]


def test_validations_are_evenly_spread_and_the_best_is_kept(validated):
    _, trained, folder = validated
    found = validations_of(folder)
    assert [line["step"] + 1 for line in found] == [-(-trained.history.steps * k // 5) for k in range(1, 6)]
    best = min(found, key=lambda line: line["validation_objective"])
    assert trained.history.best == (best["step"] + 1, best["validation_objective"])
    assert best is not found[-1]
    assert set(steps_in(folder / "checkpoints")) >= {trained.history.best.step, trained.history.steps}
    assert trained.step == trained.history.steps == restore(folder).step


@pytest.mark.slow  # a stop near a validation, and the best of several, have quick tests
def test_validation_changes_nothing_and_goes_on_after_a_stop(validated, log, tmp_path):
    config, trained, folder = validated
    assert_same_bits(trained.params, train(replace(config, {"train.validations": 0}), log, tmp_path / "none").params)
    train_until(trained.history.best.step, config, log, tmp_path / "run")  # it saves, and validates when it goes on
    assert len(validations_of(tmp_path / "run")) < len(validations_of(folder))
    resumed = train(config, log, tmp_path / "run", quiet=True)
    assert resumed.history.best == trained.history.best
    assert validations_of(tmp_path / "run") == validations_of(folder)


def test_a_run_that_is_stopped_between_a_validation_and_its_checkpoint_repeats_no_line(
    short, log, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    config = replace(short, {"train.validations": 2, "train.epochs": 1.0, "data.users": 60})
    record = crew.Member.add_validation
    with monkeypatch.context() as patched:
        patched.setattr(crew.Member, "add_validation", lambda self, values: (record(self, values), killed()))
        with pytest.raises(Killed):
            train(config, log, tmp_path / "RUN", quiet=True)
    train(config, log, tmp_path / "RUN", quiet=True)
    keys = [("steps" in line, line["step"]) for line in lines_of(tmp_path / "RUN")]
    assert len(keys) == len(set(keys))
    assert sum(not trained for trained, _ in keys) == 2


def test_the_best_parameters_are_those_of_the_best_step(validated, log, tmp_path):
    config, trained, _ = validated
    best = train(replace(config, {"train.evaluated": "best"}), log, tmp_path, quiet=True)
    assert best.step == trained.history.best.step < trained.history.steps == best.history.steps
    restored = restore(tmp_path)
    assert restored.step == best.step
    assert shape_of(restored.config, restored.mesh.size) == best.shape
    assert_same_bits(restored.params, best.params)
    assert to_dict(restored.config)["train"]["evaluated"] == "best"
