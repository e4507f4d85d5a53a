"""Mirrors of a sweep hold what its runs hold, each step once, even if lines are rewritten or `watch` starts again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.sweep import sweep_folder
from experiments.watch import live
from experiments.watch.runs import runs_of, values
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import MetricsLog, claim, write_json

STEPS, EVERY = 40, 5
ROW = {"status": "done", "steps": STEPS, "loss_nats_per_item": 2.5, "loss_nats_per_item_stderr": 0.1, "width": 32}


@pytest.fixture
def sweep(tmp_path) -> tuple[Path, list[Path]]:
    """A sweep of three seeds, and its run folders: the first one is running, the others wait."""
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(3)]
    sweep_folder.begin(tmp_path / "sweep", "seeds", configs, {})
    folders = [sweep_folder.run_dir(tmp_path / "sweep", run_id(config)) for config in configs]
    claim(folders[0], configs[0])
    return tmp_path / "sweep", folders


def train(folder: Path, first: int, last: int) -> None:
    """Logs the steps [first, last) as the loop does, with a validation at each line of a whole ten; steps from `first`
    on that are in the file already are rewritten."""
    folder.mkdir(parents=True, exist_ok=True)
    log = MetricsLog(folder / "metrics.jsonl", first, STEPS, EVERY)
    for step in range(first, last):
        log.add(step, 1e-3, (float(step), 1.0, 0.0, 0.0), lambda: {"sessions_per_second": time.perf_counter()})
        if (step + 1) % 10 == 0:
            log.add_validation(step, {"validation_objective": 1.0 / (step + 1)})


def finish(folder: Path, **columns) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "row.json", {"run_id": folder.name, **ROW, **columns})


def held(folder: Path) -> dict[str, dict[int, float]]:
    """{name: {step: number}} of the run's own files."""
    [run] = [run for run in runs_of(folder.parent.parent) if run.name == folder.name]
    news = run.poll()
    found: dict[str, dict[int, float]] = {}
    for line in news.lines if news else ():
        for name, value in values(line).items():
            assert line["step"] not in found.setdefault(name, {})
            found[name][line["step"]] = value
    return found


def test_a_poll_returns_what_is_new_and_says_what_was_rewritten(sweep):
    run, folder = runs_of(sweep[0])[0], sweep[1][0]
    assert run.poll() is None
    train(folder, 0, 10)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "re')  # the rest is not written yet
    assert [line["step"] for line in run.poll().lines] == [4, 9, 9]
    assert run.poll() is None
    train(folder, 10, 20)
    news = run.poll()
    assert not news.rewritten  # the half line had not been read
    assert [line["step"] for line in news.lines] == [14, 19, 19]
    train(folder, 15, 25)
    news = run.poll()
    assert news.rewritten
    assert [line["step"] for line in news.lines] == [4, 9, 9, 14, 19, 19, 24]
    finish(folder, status="failed", reason="no memory")
    assert run.poll().row["status"] == "failed"
    (folder / "row.json").unlink()  # it is tried again
    assert run.poll() is None
    assert not run.has_row
    finish(folder)
    assert run.poll().row["status"] == "done"


def curves(folder: Path) -> Callable[[], dict[str, dict[int, float]]]:
    """Returns a function that reads one run as a TensorBoard that stays open does."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra tensorboard is not installed"
    ).EventAccumulator(str(folder), size_guidance={"scalars": 0})

    def read() -> dict[str, dict[int, float]]:
        accumulator.Reload()
        found: dict[str, dict[int, float]] = {}
        for name in accumulator.Tags()["scalars"]:
            events = accumulator.Scalars(name)
            found[name] = {event.step: event.value for event in events}
            assert len(found[name]) == len(events), f"{name}: a step is there twice"
        return found

    return read


def same(shown: dict[str, dict[int, float]], run: dict[str, dict[int, float]]) -> None:
    """Event files hold float32."""
    assert {name: list(points) for name, points in shown.items()} == {
        name: list(points) for name, points in run.items()
    }
    for name, points in run.items():
        np.testing.assert_array_equal(list(shown[name].values()), np.float32(list(points.values())))


def test_event_files_hold_what_the_runs_hold(sweep, tmp_path, capsys):
    """Read afresh, and by a TensorBoard that was open all the time."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    folder, runs = sweep
    out = tmp_path / "board"

    def shown(run: Path) -> Path:
        return out / f"seed_{runs.index(run)}-{run.name}"

    def watch() -> None:
        assert main(["watch", str(folder), "--to", "tensorboard", "--out", str(out)]) == 0

    train(runs[0], 0, 25)
    watch()
    is_open = curves(shown(runs[0]))
    same(is_open(), held(runs[0]))
    for first, last in ((15, 22), (22, STEPS)):  # killed at 25, resumed at 15, stopped at 22, resumed there
        train(runs[0], first, last)
        watch()
        watch()
        same(is_open(), held(runs[0]))
        same(curves(shown(runs[0]))(), held(runs[0]))
    finish(runs[0])
    train(runs[1], 0, 12)
    finish(runs[1], status="diverged", reason="nan", loss_nats_per_item=None)
    watch()
    test_metrics = {"loss_nats_per_item": {STEPS: 2.5}}
    same(curves(shown(runs[0]))(), held(runs[0]) | test_metrics)
    same(is_open(), held(runs[0]) | test_metrics)
    same(curves(shown(runs[1]))(), held(runs[1]))
    assert not shown(runs[2]).exists()
    assert "2 of 3 runs have a row" in capsys.readouterr().err
    [file] = shown(runs[0]).glob("events*")
    with file.open("ab") as cut_short:
        cut_short.write(b"half a record")  # the command was killed
    watch()
    same(curves(shown(runs[0]))(), held(runs[0]) | test_metrics)
    same(is_open(), held(runs[0]) | test_metrics)


def test_the_hparams_page_has_the_settings_that_vary(sweep, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    folder, runs = sweep
    train(runs[1], 0, 5)
    assert main(["watch", str(folder), "--to", "tensorboard", "--out", str(tmp_path / "board")]) == 0
    page, run = (
        EventAccumulator(str(path)) for path in (tmp_path / "board", next((tmp_path / "board").glob("seed_*")))
    )
    experiment = metadata.parse_experiment_plugin_data(_plugin_data(page, metadata.EXPERIMENT_TAG))
    assert [setting.name for setting in experiment.hparam_infos] == ["train.seed"]
    assert experiment.metric_infos[0].name.tag == "loss_nats_per_item"
    session = metadata.parse_session_start_info_plugin_data(_plugin_data(run, metadata.SESSION_START_INFO_TAG))
    assert session.hparams["train.seed"].number_value == 1
    assert session.group_name == runs[1].name


def _plugin_data(accumulator, tag: str) -> bytes:
    accumulator.Reload()
    return accumulator.SummaryMetadata(tag).plugin_data.content


def test_it_follows_until_every_run_has_a_row_and_it_watches_a_single_run(sweep, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    folder, runs = sweep
    command = [sys.executable, "-m", "experiments", "watch", "--to", "tensorboard", "--follow"]
    train(runs[0], 0, 25)
    follower = subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True)
    assert "tensorboard --logdir" in follower.stderr.readline()
    assert "0 of 3 runs have a row; 25 steps mirrored" in follower.stderr.readline()
    assert main(["watch", str(folder), "--to", "tensorboard"]) == 2  # one at a time
    train(runs[0], 15, 30)
    finish(runs[1], status="failed", reason="no memory")
    assert "1 of 3 runs have a row; 30 steps mirrored" in follower.stderr.readline()
    follower.send_signal(signal.SIGINT)
    assert "the same command continues from here" in follower.communicate(timeout=30)[1]
    assert follower.returncode == 0
    same(curves(folder / "tensorboard" / f"seed_0-{runs[0].name}")(), held(runs[0]))
    for run in runs:
        train(run, 30, STEPS)
        finish(run)
    assert main(["watch", str(folder), "--to", "tensorboard", "--follow"]) == 0
    assert main(["watch", str(runs[0]), "--to", "tensorboard", "--follow"]) == 0
    same(curves(runs[0] / "tensorboard" / runs[0].name)(), held(runs[0]) | {"loss_nats_per_item": {STEPS: 2.5}})


def test_wandb_files_hold_each_step_of_a_run_once(sweep, tmp_path, monkeypatch):
    """Offline: a folder for each call that found something new, which `wandb sync` joins."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, runs = sweep

    def watch() -> None:
        assert main(["watch", str(folder), "--to", "wandb", "--out", str(tmp_path), "--project", "p"]) == 0

    train(runs[0], 0, 20)
    watch()
    before = held(runs[0])
    train(runs[0], 10, STEPS)
    watch()
    finish(runs[0])
    watch()
    watch()
    steps, summary = _offline(tmp_path, runs[0].name)
    assert [step for step, _ in steps] == [4, 9, 14, 19, 24, 29, 34, 39]  # 19 was held back, for its validation
    own = held(runs[0])
    for step, logged in steps:
        held_then = before if step < 19 else own  # whose speeds are those of the first time
        assert {name: value for name, value in logged.items() if not name.startswith("_")} == {
            name: points[step] for name, points in held_then.items() if step in points
        }
    assert summary["loss_nats_per_item"] == 2.5
    assert summary["status"] == "done"


def _offline(out: Path, name: str) -> tuple[list[tuple[int, dict[str, float]]], dict[str, object]]:
    """([(step, what was logged)], summary) of all offline folders of a run."""
    from wandb.proto import wandb_internal_pb2

    steps, summary = [], {}
    for path in sorted(out.glob(f"wandb/offline-run-*-{name}/*.wandb"), key=os.path.getmtime):
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                logged = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                steps.append((record.history.step.num, logged))
            if record.HasField("summary"):
                summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    return steps, summary


def _records(raw: bytes) -> Iterator[bytes]:
    """Yields the records of a W&B file, which is a log of LevelDB (doc/log_format.md) after seven bytes."""
    found, at = b"", 7
    while at < len(raw):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", raw, at + 4)
        found += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield found
            found = b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tensorboard"], "neither a sweep"),
        (["--to", "tensorboard", "--project", "p"], "--project belongs to --to wandb"),
    ],
)
def test_wrong_input_is_one_message(arguments, message, tmp_path, capsys):
    assert main(["watch", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_a_missing_extra_is_named_with_its_command(extra, sweep, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, f"{extra}.compat.proto", None)
    assert main(["watch", str(sweep[0]), "--to", extra]) == 2
    assert f"pip install 'sessionrec-jax[{extra}]'" in capsys.readouterr().err


# --- train --log-to --------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path):
    """Returns the folder of a run that has not begun, and its Config."""
    return tmp_path / "RUN", replace(Config(), {"train.seed": 3})


def test_a_run_is_mirrored_while_it_trains(run_folder, monkeypatch, capsys):
    """The first lines are shown before the run ends; at the end everything is."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    folder, config = run_folder
    monkeypatch.setattr(live, "SECONDS", 0.02)
    shown = folder / "tensorboard" / run_id(config)
    with live.mirrored_while(folder, "tensorboard"):
        claim(folder, config)
        train(folder, 0, 20)
        deadline = time.monotonic() + 60
        while not (shown / "mirrored.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        train(folder, 20, STEPS)
        finish(folder)
    [run] = runs_of(folder)
    news = run.poll()
    steps = {line["step"] for line in news.lines}
    assert set(curves(shown)()["retrieval_nats_per_item"]) == steps
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_mirror_does_not_end_the_run(run_folder, monkeypatch, capsys):
    folder, config = run_folder

    class Broken:
        def __init__(self, *_):
            raise RuntimeError("no network")

    monkeypatch.setattr(live, "SECONDS", 0.02)
    monkeypatch.setattr(live, "TensorBoard", Broken)
    with live.mirrored_while(folder, "tensorboard"):
        claim(folder, config)
        time.sleep(0.5)
    err = capsys.readouterr().err
    assert "no network" in err
    assert f"`sessionrec watch {folder} --to tensorboard` tries again" in err


def test_a_run_that_never_began_is_not_mirrored(run_folder, monkeypatch, capsys):
    monkeypatch.setattr(live, "SECONDS", 0.02)
    with pytest.raises(ZeroDivisionError), live.mirrored_while(run_folder[0], "tensorboard"):
        _ = 1 / 0
    assert capsys.readouterr().err == ""
    assert not run_folder[0].exists()


def test_a_program_that_is_missing_is_an_error_before_the_run(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install 'sessionrec-jax\\[wandb\\]'"):
        live.check_installed("wandb")


@pytest.mark.slow
def test_train_logs_to_tensorboard(log, tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    small = (
        "--data.rows 8 --model.width 8 --model.layers 1 --loss.negatives 32 --train.epochs 1 -q --log-to tensorboard"
    )
    run = tmp_path / "RUN"
    assert main(["train", str(log.path), "--out", str(run), *small.split()]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "NDCG@50" in printed.out
    [shown] = [path.parent for path in run.glob("tensorboard/*/mirrored.json")]
    row = json.loads((run / "row.json").read_text())
    assert curves(shown)()["ndcg_at_50"] == {row["steps"]: pytest.approx(row["ndcg_at_50"])}
