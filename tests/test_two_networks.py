"""Two hosts with addresses of their own, as network namespaces of this machine: they meet, train, lose each other, and
go on. Needs root and `ip`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_deaths import NO_FLAG
from test_hosts import LONGEST_SECONDS, assert_the_same_run, flags_of_xla
from test_hosts import alone as alone  # a fixture
from test_hosts import short as short  # a fixture

from experiments.sweep.varying import varying
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, to_dict

HOSTS = ("sr-left", "sr-right")
LOST_SECONDS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root, and the command ip"),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def network():
    """Two namespaces, connected by one cable: 10.77.0.1 and 10.77.0.2."""
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "sr-l", "netns", HOSTS[0], "type", "veth", "peer", "name", "sr-r", "netns", HOSTS[1])
    except subprocess.CalledProcessError as error:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    for number, (name, cable) in enumerate(zip(HOSTS, ("sr-l", "sr-r"), strict=True), 1):
        files = Path("/etc/netns") / name
        files.mkdir(parents=True, exist_ok=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n10.77.0.1 {HOSTS[0]}\n10.77.0.2 {HOSTS[1]}\n")
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", cable)
        for device in (cable, "lo"):
            ip("-n", name, "link", "set", device, "up")
    yield
    for name in HOSTS:
        ip("netns", "del", name)
        shutil.rmtree(Path("/etc/netns") / name)


def started(config, log, folder: Path) -> list[subprocess.Popen]:
    """Starts the run on both hosts; their words go to files next to the run's folder."""
    changed = varying([to_dict(Config()), to_dict(replace(config, {"mesh.data": 0}))])[1]
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items() if name not in NO_FLAG]
    processes = []
    for index, name in enumerate(HOSTS):
        where = f"coordinator=10.77.0.1:8476,count=2,index={index},timeout_seconds=100"
        where += f",lost_after_seconds={LOST_SECONDS}"
        train = [sys.executable, "-m", "experiments", "train", str(log.path), "--out", str(folder), *settings]
        on_host = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
        with folder.with_name(f"{folder.name}-{index}.txt").open("a") as out:
            environment = os.environ | {"XLA_FLAGS": flags_of_xla(1)}
            processes.append(
                subprocess.Popen([*on_host, *train, "--hosts", where], env=environment, stdout=out, stderr=out)
            )
    return processes


def said(folder: Path) -> list[str]:
    return [folder.with_name(f"{folder.name}-{index}.txt").read_text() for index in (0, 1)]


def codes(processes: list[subprocess.Popen]) -> list[int]:
    try:
        return [process.wait(LONGEST_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_hosts_train_the_run_of_one_also_after_the_cable_was_cut(network, short, alone, log, tmp_path):
    folder = tmp_path / "run"
    first = started(short, log, folder)
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert all(process.poll() is None for process in first), said(folder)
        time.sleep(0.02)
    ip("-n", HOSTS[0], "link", "set", "sr-l", "down")
    cut = time.monotonic()
    assert codes(first) == [1, 1], said(folder)
    assert time.monotonic() - cut < LOST_SECONDS + 10
    ip("-n", HOSTS[0], "link", "set", "sr-l", "up")
    left, right = said(folder)
    assert "process 1 (sr-right, 10.77.0.2) is lost: nothing was heard of it for 5 s" in left
    assert "process 0 (10.77.0.1) is lost" in right
    assert not (folder / "row.json").exists()

    assert codes(started(short, log, folder)) == [0, 0], said(folder)
    assert_the_same_run(folder, alone)
