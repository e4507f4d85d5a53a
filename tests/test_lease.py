"""Leases: one holder at a time, by the file server's clock; a loser writes nothing; failed attempts are counted."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.sweep import lease, sweep_folder, worker
from experiments.sweep.lease import LEASE_SECONDS, Leases, Lost
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import run_id
from sessionrec_jax.errors import InputError

RACE = """
import os, sys, time
from pathlib import Path
from experiments.sweep.lease import Leases

leases, newest, start = Leases(Path(sys.argv[1])), int(sys.argv[2]), time.monotonic() + 0.3
for _ in range(16):
    if os.fork() == 0:
        while time.monotonic() < start:
            pass
        won = [run for run in range(20) if leases.take(str(run), newest, None) is not None]
        os.write(1, "".join(f"{run}\\n" for run in won).encode())
        os._exit(0)
for _ in range(16):
    os.wait()
"""


@pytest.fixture
def elsewhere(monkeypatch):
    """Every look comes from another machine: heartbeats alone show a death, not locks."""
    machines = itertools.count()
    monkeypatch.setattr(lease, "_machine", lambda folder: str(next(machines)))


@pytest.fixture
def server(monkeypatch):
    """A file server with a clock of its own."""

    class Server:
        now = time.time()

    def touched(path):
        os.utime(path, (Server.now, Server.now))
        return Server.now

    monkeypatch.setattr(lease, "_touched", touched)
    return Server


def take(leases, run="run"):
    return leases.take(run, leases.newest().get(run, 0), lambda: None)


def past(leases, run="run"):
    return leases.past(run, leases.newest().get(run, 0))


@pytest.mark.parametrize("newest", [0, 1])
def test_one_of_sixteen_processes_gets_a_free_or_a_stale_lease(tmp_path, newest):
    for run in map(str, range(20 * newest)):
        with take(Leases(tmp_path), run):
            pass  # its holder died
    program = [sys.executable, "-c", RACE, str(tmp_path), str(newest)]
    won = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(map(int, won)) == list(range(20))


@pytest.mark.parametrize("off_by", [-1e8, 0.0, 1e8])
def test_the_clock_of_the_file_server_decides(tmp_path, server, elsewhere, off_by):
    server.now = time.time() + off_by
    leases = Leases(tmp_path)
    with take(leases) as held:
        for _ in range(3):
            server.now += LEASE_SECONDS - 1
            assert past(leases).is_held
            assert take(leases) is None
            held.renew()
        server.now += LEASE_SECONDS + 1
        assert not past(leases).is_held
        with take(leases) as taken_over:
            assert taken_over.past.deaths == 1
            with pytest.raises(Lost, match="taken over by"):
                held.renew()
            assert take(leases) is None


def test_a_holder_that_finds_out_late_writes_no_row(tmp_path, server, elsewhere):
    sweep_folder.begin(tmp_path, "grid", [Config()], {})
    row = tmp_path / "runs" / run_id(Config()) / "row.json"
    others, there = [], []

    def pauses(config, run_dir, plan, *, stop, write):
        server.now += LEASE_SECONDS + 1
        with take(Leases(tmp_path), run_id(config)) as other:
            others.append(other)
            try:
                write(row, {"by": "the one that paused"})
            finally:
                there.append(row.exists())

    worker.work(tmp_path, pauses, refresh=lambda: row.write_text('{"by": "the other"}'))
    assert len(others) == 1
    assert there == [False]
    assert row.read_text() == '{"by": "the other"}'


def test_a_heartbeat_that_finds_the_loss_calls_on_loss(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    lost = []
    leases = Leases(tmp_path)
    with leases.take("run", 0, lambda: lost.append(True)):
        (tmp_path / "leases" / "run.2").write_text('{"worker": "other:1"}')
        deadline = time.monotonic() + 10
        while not lost and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lost == [True]


@pytest.mark.parametrize(
    ("endings", "deaths", "failures"),
    [
        ((), 0, ()),
        (("died", "died"), 2, ()),
        (("released", "died", "released"), 1, ()),
        (("failed 1", "released", "died", "failed 2"), 1, ("failed 2", "failed 1")),
        (("failed 1", "died", "forgiven"), 0, ()),
        (("failed 1", "forgiven", "died", "failed 2"), 1, ("failed 2",)),
    ],
)
def test_the_ends_of_generations_are_counted(tmp_path, endings, deaths, failures):
    leases = Leases(tmp_path)
    for ending in endings:
        with take(leases) as held:
            assert past(leases).is_held
            if ending != "died":
                held.end(ending.split()[0], ending if ending.startswith("failed") else None)
    found = past(leases)
    assert (found.deaths, found.failures, found.attempts) == (deaths, failures, deaths + len(failures))
    assert not found.is_held
    assert (found.worker is not None) == (endings[-1:] == ("died",))


def test_a_killed_process_is_known_to_be_dead_at_once_and_a_stopped_one_is_not(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom experiments.sweep.lease import Leases\n"
        "with Leases(Path(sys.argv[1])).take('run', 0, None):\n    print('taken', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "taken\n"
    leases = Leases(tmp_path)
    holder.send_signal(signal.SIGSTOP)
    assert past(leases).is_held
    holder.kill()
    holder.communicate()
    assert not past(leases).is_held
    assert past(leases).deaths == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_the_file_system_knows_no_locks_heartbeats_decide(tmp_path, server, monkeypatch, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    leases = Leases(tmp_path)
    with take(leases):
        pass
    assert past(leases).is_held  # it died, and nobody can know yet
    server.now += LEASE_SECONDS + 1
    assert not past(leases).is_held


def test_a_file_system_without_hard_links_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InputError, match="no hard links"):
        take(Leases(tmp_path))
    assert Leases(tmp_path).newest() == {}
