"""A preparation that fills the disk, or is killed at any moment, leaves nothing that reads as a log."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from contract import assert_same_log
from grid import mostly_slow

from experiments.__main__ import main
from sessionrec_jax.data import side_information, store
from sessionrec_jax.data.preparation import card, external_sort, rejected
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.errors import InputError

PROCESS = synthetic.Options(users=30, base=4, depth=2, seed=3)
OTHER = synthetic.Options(users=20, base=4, depth=2, seed=4)
ARGV = ("prepare", "synthetic", "--users", "30", "--base", "4", "--depth", "2", "--seed", "3")


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yields a folder and a function that fills its disk: a tmpfs where one may be mounted, else a limit for every
    file.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # half a file of it would stay
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    with suppress(OSError):
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def fill() -> None:
        if not is_mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
            return
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    try:
        yield folder, fill
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


STAGES = {
    "runs": (external_sort, "write_run"),
    "log": (store, "write_part"),
    "the log's metadata": (store, "finish_log"),
    "tables": (side_information, "code_side"),
    "rejected rows": (rejected, "write"),
    "card": (card, "write"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_told_in_one_message_and_nothing_is_left(disk, stage, monkeypatch, capsys):
    folder, fill = disk
    module, name = STAGES[stage]
    original = getattr(module, name)

    def on_a_full_disk(*args, **kwargs):
        fill()
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, on_a_full_disk)
        assert main([*ARGV, "--out", str(folder / "log")]) == 1
    errors = capsys.readouterr().err
    assert errors.count("error:") == 1
    assert re.search("log could not be written: (no space left|file too large).* Make room and type the same", errors)
    assert "Traceback" not in errors
    assert {path.name for path in folder.iterdir()} <= {"filler"}


def test_a_full_disk_while_a_log_is_replaced_leaves_the_old_one(disk, monkeypatch, capsys):
    folder, fill = disk
    before = prepare(synthetic.read(PROCESS), folder / "log", Settings())
    with monkeypatch.context() as patch:
        patch.setattr(card, "write", lambda *_: fill() or (folder / "log" / "x").write_bytes(bytes(10_000)))
        assert main([*ARGV, "--users", "20", "--out", str(folder / "log"), "--overwrite"]) == 1
    assert "Make room" in capsys.readouterr().err
    assert store.open_log(folder / "log").fingerprint == before.fingerprint


def test_rejected_rows_that_find_no_room_leave_no_half_a_file(disk, monkeypatch, capsys):
    folder, fill = disk
    original = rejected.write
    monkeypatch.setattr(rejected, "write", lambda *args: fill() or original(*args))
    rows = [(user, 1, "noon", 1) for user in range(20_000)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp_ms", "clicked"], orient="row").write_csv(
        folder.parent / "log.csv"
    )
    argv = ("prepare", "table", "--exposures", str(folder.parent / "log.csv"), "--out", str(folder / "log"))
    assert main([*argv]) == 1
    assert "Make room" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} <= {"filler"}


# --- a kill ----------------------------------------------------------------------------------------------------------

KILLED_AFTER = [
    ("sessionrec_jax.data.preparation.external_sort", "write_run"),
    ("sessionrec_jax.data.store", "write_part"),
    ("sessionrec_jax.data.side_information", "code_side"),
    ("sessionrec_jax.data.preparation.card", "write"),
    ("sessionrec_jax.data.mapped", "write"),
    ("pathlib", "Path.rename"),  # of the old log, before the new one has its name
    ("shutil", "rmtree"),
]


def _die_after(out: Path, name: tuple[str, str]) -> None:
    """Prepares and kills the process when that function returns."""
    home, attribute = importlib.import_module(name[0]), name[1]
    if "." in attribute:
        home, attribute = getattr(home, attribute.partition(".")[0]), attribute.partition(".")[2]
    original = getattr(home, attribute)

    def last(*args, **kwargs):
        original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, attribute, last)
    prepare(synthetic.read(PROCESS), out, Settings(), overwrite=True)


def _die_at_call(out: Path, number: int) -> None:
    """Prepares and kills the process at the call of that number, counting all calls of Python."""
    made = 0

    def count(frame, event, argument) -> None:
        nonlocal made
        made += event in ("call", "c_call")
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(count)  # of the threads to come
    sys.setprofile(count)
    prepare(synthetic.read(PROCESS), out, Settings(), overwrite=True)


@pytest.fixture(scope="module")
def processes():
    """A server that has imported everything forks the processes before polars has threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "experiments.cli.prepare", "sessionrec_jax.data.sources.synthetic"])
    return context


def dies_and_leaves_nothing_half_done(processes, folder: Path, target: Callable[..., None], how: Any) -> bool:
    """Prepares over an old log, which is there, or whole again after the next preparation."""
    out = folder / "log"
    before = prepare(synthetic.read(OTHER), out, Settings(), overwrite=True)
    process = processes.Process(target=target, args=(out, how))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    whole = prepare(synthetic.read(PROCESS), folder / "whole" / "log", Settings(), overwrite=True)
    for path in folder.iterdir():
        with suppress(InputError):
            assert store.open_log(path).fingerprint in (before.fingerprint, whole.fingerprint)
            assert store.open_log(path).card()["users"] == len(store.read_records(path))
    again = prepare(synthetic.read(PROCESS), out, Settings(), overwrite=True)
    assert_same_log(again, whole)
    assert sorted(path.name for path in folder.iterdir()) == ["log", "whole"]
    return process.exitcode != 0


@pytest.mark.parametrize("name", mostly_slow(KILLED_AFTER, quick=KILLED_AFTER[1::2]), ids=lambda name: name[1])
def test_a_kill_leaves_nothing_half_done_and_the_next_clears_up(processes, tmp_path, name):
    assert dies_and_leaves_nothing_half_done(processes, tmp_path, _die_after, name)


def test_a_replacement_that_was_killed_half_way_leaves_the_old_log_to_a_failing_next(processes, tmp_path):
    before = prepare(synthetic.read(OTHER), tmp_path / "log", Settings())
    process = processes.Process(target=_die_after, args=(tmp_path / "log", ("pathlib", "Path.rename")))
    process.start()
    process.join(120)
    assert not (tmp_path / "log").exists()
    with pytest.raises(InputError, match="leave none of the"):
        prepare(synthetic.read(PROCESS), tmp_path / "log", Settings(split="held_out_users", test_users=99))
    assert store.open_log(tmp_path / "log").fingerprint == before.fingerprint


@pytest.mark.slow
def test_kills_at_random_moments_leave_nothing_half_done(processes, tmp_path):
    random, most = Random(0), 210_000
    moments = [round(most ** random.uniform(0.4, 1)) for _ in range(40)]
    kills = [dies_and_leaves_nothing_half_done(processes, tmp_path, _die_at_call, moment) for moment in moments]
    assert sum(kills) > 30
