"""Sweeps on a Ray cluster of three nodes: workers and a node are killed; each run resumes and has one row."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ENVIRONMENT, attempts, command, end_of, first_line, rows, running, start, until

from experiments.__main__ import main
from experiments.sweep.launch.ray import Launcher
from sessionrec_jax.errors import InputError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"),
]

TESTS = Path(__file__).parent
# The environment of the nodes: it says what their workers import and how they compile.
NODES = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS.parent / "benchmarks")))}
DISTURBED = """
import sys
from pathlib import Path
from _disturbed import disturbed
from experiments.sweep.launch.ray import Launcher

found = disturbed(Path(sys.argv[2]), 16, Launcher(sys.argv[1]))
print(found.rows, found.rows_written, found.starts, *found.faults)
"""


class Cluster:
    def __init__(self):
        program = [sys.executable, str(TESTS / "ray_cluster.py")]
        self._process = subprocess.Popen(
            program, env=NODES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def kill_a_node(self) -> None:
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "killed\n"

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def cluster():
    found = Cluster()
    yield found
    found.end()


@pytest.mark.slow
def test_a_killed_worker_is_resumed_and_a_stopped_sweep_saves(log, tmp_path, cluster):
    argv = command(log, tmp_path, epochs=6, launcher=f"--launcher ray --address {cluster.address}")
    sweep = start(argv)
    until(lambda: sweep.poll() is not None or len(running(tmp_path)) == 2)
    assert sweep.poll() is None, end_of(sweep)
    killed, pid = running(tmp_path).popitem()
    first = first_line(tmp_path, killed)
    os.kill(pid, signal.SIGKILL)
    until(lambda: "attempt 2" in (tmp_path / "runs" / killed / "log.txt").read_text())
    sweep.send_signal(signal.SIGTERM)
    code, said = end_of(sweep)
    assert code == 143, said
    assert "stopped by SIGTERM with" in said
    assert attempts(tmp_path) == {name: int(name == killed) for name in attempts(tmp_path)}
    code, said = end_of(start(argv))
    assert code == 0, said
    assert [row["status"] for row in rows(tmp_path).values()] == ["done", "done"]
    assert first_line(tmp_path, killed) == first


@pytest.mark.slow  # test_sweep.py kills workers of this machine
def test_no_run_is_lost_or_done_twice_when_workers_and_a_node_are_killed(tmp_path, cluster):
    argv = [sys.executable, "-c", DISTURBED, cluster.address, str(tmp_path)]
    sweep = subprocess.Popen(argv, env=NODES, stdout=subprocess.PIPE, text=True)
    until(lambda: len(rows(tmp_path)) >= 3)
    cluster.kill_a_node()
    printed = sweep.communicate(timeout=300)[0].split()
    assert sweep.returncode == 0
    written, taken = map(int, printed[1:])  # and no faults
    assert len(rows(tmp_path)) == int(printed[0]) == 16
    assert written <= 16 <= taken


def test_the_resources_of_a_task():
    def asked(*nodes, **flags):
        return Launcher(**flags)._wanted(list(nodes))

    assert asked({"CPU": 2.0}, {"CPU": 8.0}, cpus=8) == {"num_cpus": 8, "num_gpus": 0, "resources": {}}
    assert asked({"CPU": 2.0}, {"CPU": 8.0, "GPU": 4.0})["num_gpus"] == 1
    assert asked({"CPU": 8.0, "GPU": 4.0}, gpus=0)["num_gpus"] == 0
    assert asked({"CPU": 8.0, "TPU": 4.0}, tpus=4)["resources"] == {"TPU": 4}
    with pytest.raises(InputError, match=r"wants 4 CPU, 2 GPU; no node .* Its nodes have 2 CPU, 4 GPU; 8 CPU"):
        asked({"CPU": 2.0, "GPU": 4.0}, {"CPU": 8.0}, cpus=4, gpus=2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--address 127.0.0.1:1", "no Ray cluster to join there"),
        ("--cpus 0", "--cpus 0; wanted at least 1"),
        ("--workers 2", "--workers: options of --launcher local, but --launcher is ray"),
    ],
)
def test_wrong_flags_end_with_one_message(log, tmp_path, capsys, flags, message):
    argv = command(log, tmp_path / "sweep", launcher=f"--launcher ray {flags}")
    assert main(argv[3:]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
