"""Tests the status of a sweep at a terminal: whole numbers, active runs first, and no line left behind."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.__main__ import main
from experiments.sweep import sweep_folder
from experiments.sweep.lease import Leases
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.files import write_json

DONE = {
    "status": "done", "steps": 4000, "loss_nats_per_item": 4.70257, "rank_nats_per_exposure": 0.42671,
    "rank_baseline_nats_per_exposure": 0.6287, "loss_floor_nats_per_item": 2.4812,
}  # fmt: skip
REASON = "worker HOST:1 said: XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory [in jit(step)]"


@pytest.fixture
def sweep(tmp_path):
    """Returns (folder, run_ids) of a sweep: four settings vary; three runs failed, two are done, one is under way,
    two wait.
    """
    varied = itertools.product((500, 16000), (1e-3, 3e-3), (32, 48))
    configs = [
        replace(
            Config(), {"data.users": users, "optim.learning_rate_peak": rate, "model.width": width, "train.seed": i}
        )
        for i, (users, rate, width) in enumerate(varied)
    ]
    names = [run_id(config) for config in configs]
    sweep_folder.begin(tmp_path, "grid", configs, {})
    rows = [{"status": "failed", "steps": 3, "reason": f"{REASON}\nthe end of its log"}] * 3
    rows += [DONE | {"loss_baseline_nats_per_item": 6.5 + i} for i in range(2)]
    for name, row in zip(names, rows, strict=False):
        sweep_folder.run_dir(tmp_path, name).mkdir(parents=True)
        write_json(sweep_folder.run_dir(tmp_path, name) / "row.json", row)
    line = {"step": 1499, "steps": 4000, "step_seconds_p50": 1.0}
    sweep_folder.run_dir(tmp_path, names[5]).mkdir()
    (sweep_folder.run_dir(tmp_path, names[5]) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with Leases(tmp_path).take(names[5], 0, lambda: None):
        yield tmp_path, names


def test_no_number_is_cut_and_every_reason_is_shown(sweep, monkeypatch, capsys):
    folder, names = sweep
    assert main(["status", str(folder)]) == 0
    in_a_file = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    assert main(["status", str(folder)]) == 0
    on_a_terminal = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    for text in (in_a_file, on_a_terminal):
        assert "…" not in text
        lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
        assert lines[names[3]] == [names[3], "500", "48", "0.003", "3", "4,000", "-", "4.7026", "0.4267", "done"]
        assert lines[names[5]][1:10] == ["16000", "48", "0.001", "5", "1,500", "of", "4,000", "0:41:40", "-"]
        assert text.count(f"failed: {REASON}\nthe end of its log") == 3
        assert "popularity: 6.5000 to 7.5000 nats an item, rank 0.6287 nats an exposure" in text
        assert "known floors: 2.4812 nats an item\n" in text
        assert text.endswith("1 running, 2 waiting, 2 done, 3 failed\n")


def test_a_screen_that_is_too_small_is_left_clean(sweep):
    """The table shows active runs first; lines that it cannot hold do not stay above it when it ends."""
    folder, names = sweep
    terminal, inside = pty.openpty()
    argv = [sys.executable, "-m", "experiments", "status", str(folder), "--follow"]
    screen = {**os.environ, "COLUMNS": "100", "LINES": "10"}
    process = subprocess.Popen(argv, env=screen, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    shown = b""
    while f"{names[0]} failed".encode() not in shown:
        shown += os.read(terminal, 65536)
    assert (
        shown.index(b"1 running")
        < shown.index(f"running on {os.uname().nodename}".encode())
        < shown.index(f"{names[0]} failed".encode())
    )
    time.sleep(0.5)  # until it has drawn and sleeps
    process.send_signal(signal.SIGINT)
    after = b""
    while chunk := _read(terminal):
        after += chunk
    assert process.wait() == 130
    assert names[5].encode() not in after
    assert b"RESOURCE_EXHAUSTED" not in after


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""
