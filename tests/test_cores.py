"""A worker that a scheduler started keeps to its number of cores, and no two to the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from experiments.sweep.launch.cores import keep_to

os.sched_getaffinity = lambda _: set(range(4))
os.sched_setaffinity = lambda _, cores: print(*sorted(cores), flush=True)
keep_to(int(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def kept(tmp_path):
    """Starts a process on a machine with four cores; gives it and its cores, or no cores if it has all."""
    processes = []

    def keep(count: int):
        argv, environment = [sys.executable, "-c", PROGRAM, str(count)], os.environ | {"TMPDIR": str(tmp_path)}
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, [int(core) for core in process.stdout.readline().split()]

    yield keep
    for process in processes:
        process.communicate()


def test_each_process_has_its_own_cores_and_frees_them_when_it_dies(kept):
    first, cores = kept(2)
    assert cores == [0, 1]
    assert kept(1)[1] == [2]
    assert kept(2)[1] == []  # one is left, which is too few
    assert kept(4)[1] == []  # all, and it is not asked to share them
    first.kill()
    first.wait()
    assert kept(2)[1] == [0, 1]
