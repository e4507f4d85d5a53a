"""Runs that are killed or asked to stop, in processes of their own, end with the bits of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from onestep import assert_same_bits

from experiments.sweep.varying import varying
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.runfolder.stopping import STOPPING, StopSignals
from sessionrec_jax.training.checkpoint import newest_whole, steps_in
from sessionrec_jax.training.loop import train

TOLD = re.compile(r"stopped by SIGTERM at step (\d+) of \d+, saved; the same command goes on from there")
NO_FLAG = ("data.path", "data.fingerprint")


def start(config, log, folder: Path, environment: Mapping[str, str] = os.environ) -> subprocess.Popen:
    """Starts a `sessionrec train` that saves all the time."""
    config = replace(config, {"train.checkpoint_every_seconds": 0.02})
    changed = varying([to_dict(Config()), to_dict(config)])[1]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items() if name not in NO_FLAG]
    command = [sys.executable, "-m", "experiments", "train", str(log.path), "--out", str(folder), *flags]
    programs = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs")}
    programs["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(command, env={**environment, **programs}, stderr=subprocess.PIPE, text=True)


def die(process: subprocess.Popen, folder: Path, number: int) -> str:
    """Sends the signal at some moment after the first save of this process. Returns its output."""
    before = newest(folder)
    while process.poll() is None and newest(folder) == before:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(number)
    return process.communicate()[1]


def newest(folder: Path) -> int | None:
    return max(steps_in(folder / "checkpoints"), default=None)


def killed_again_and_again(config, log, folder: Path, kills: int) -> int:
    """Returns how many of the kills came in the middle of a save."""
    in_a_save = 0
    for _ in range(kills):
        process = start(config, log, folder)
        said = die(process, folder, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, said
        in_a_save += bool(list((folder / "checkpoints").glob(".partial-*")))
    return in_a_save


def assert_the_same_run(config, log, folder: Path, calm: Path) -> None:
    resumed, undisturbed = (train(config, log, path, quiet=True) for path in (folder, calm))
    assert_same_bits(resumed.params, undisturbed.params)
    losses = [
        [(line["step"], line["retrieval_nats_per_item"]) for line in map(json.loads, path.read_text().splitlines())]
        for path in (folder / "metrics.jsonl", calm / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == undisturbed.history.steps
    assert resumed.history.counters.target_items == undisturbed.history.counters.target_items
    assert resumed.history.counters.item_slots == undisturbed.history.counters.item_slots


@pytest.mark.slow
def test_three_kills_and_a_stop_leave_no_trace(config, log, tmp_path):
    config = replace(config, {"train.epochs": 4.0, "train.log_every_steps": 1})
    folder = tmp_path / "run"
    killed_again_and_again(config, log, folder, 3)
    process = start(config, log, folder)
    said = die(process, folder, signal.SIGTERM)
    assert process.returncode == 143, said
    assert newest_whole(folder / "checkpoints") == (int(TOLD.search(" ".join(said.split()))[1]), [])
    assert_the_same_run(config, log, folder, tmp_path / "calm")


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(config, log, tmp_path):
    config = replace(config, {"train.epochs": 16.0, "train.log_every_steps": 1})
    assert killed_again_and_again(config, log, tmp_path / "run", 20) > 0
    assert_the_same_run(config, log, tmp_path / "run", tmp_path / "calm")


# The signals themselves.


@pytest.fixture
def received():
    """Records the signals that reach the earlier handler."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_reported_once_and_the_handlers_come_back(received):
    answers = []
    with contextlib.suppress(RuntimeError), StopSignals(again=signal.SIG_IGN) as asked:
        for _ in range(2):  # the second one does what `again` says
            answers.append(asked())
            os.kill(os.getpid(), signal.SIGTERM)
        answers.append(asked())
        raise RuntimeError
    assert answers == [0, signal.SIGTERM, signal.SIGTERM]
    assert received == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_a_signal_that_nobody_asked_for_is_sent_again(received):
    with StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == []
    assert received == [signal.SIGTERM]


@pytest.mark.parametrize("number", STOPPING)
def test_each_signal_of_a_scheduler_a_person_and_a_terminal_is_one_to_stop_at(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with contextlib.suppress(RuntimeError), StopSignals(again=signal.SIG_IGN) as asked:
            os.kill(os.getpid(), number)
            assert asked() == number
            raise RuntimeError
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_a_lost_terminal_saves_and_the_run_goes_on_as_if_nothing_had_been(config, log, tmp_path):
    process = start(config, log, tmp_path / "run")
    said = die(process, tmp_path / "run", signal.SIGHUP)
    assert process.returncode == 128 + signal.SIGHUP, said
    assert re.search(r"stopped by SIGHUP at step \d+ of \d+, saved", said)
    assert newest(tmp_path / "run") is not None


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal, time\nfrom sessionrec_jax.runfolder.stopping import StopSignals\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGTERM
