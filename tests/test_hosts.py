"""Processes that train together: the run of one process, whoever is asked to stop, and in however many it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from onestep import by_name
from test_deaths import NO_FLAG

from experiments.__main__ import main
from experiments.sweep.varying import varying
from sessionrec_jax.config.rules import check_hosts
from sessionrec_jax.config.settings import Config, Hosts
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.row import run
from sessionrec_jax.serving.load import restore
from sessionrec_jax.training.checkpoint import damage_of, steps_in
from sessionrec_jax.training.loop import train

LOSSES = ("retrieval_nats_per_item", "rank_nats_per_term", "validation_objective")
NOT_THE_RUNS = ("seconds", "per_second", "flops_utilization", "commit")
LONGEST_SECONDS = 300


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        return asked.getsockname()[1]


def flags_of_xla(devices: int) -> str:
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])


class Together:
    """Processes of `sessionrec train` that name each other, with `devices` devices each; their output goes to files."""

    def __init__(self, config, log, folder: Path, processes: int, devices: int, *flags: str, hosts: str = ""):
        changed = varying([to_dict(Config()), to_dict(replace(config, {"mesh.data": 0}))])[1]
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items() if name not in NO_FLAG]
        train = [sys.executable, "-m", "experiments", "train", str(log.path), "--out", str(folder), *settings, *flags]
        where = f"coordinator=localhost:{free_port()},count={processes}"
        self.folder, self.said, self.processes = folder, [], []
        for index in range(processes):
            self.said.append(folder.with_name(f"{folder.name}-{index}.txt"))
            with self.said[-1].open("w") as out:
                programs = {"JAX_COMPILATION_CACHE_DIR": str(folder.with_name(f"programs-{devices}-{index}"))}
                programs["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
                environment = os.environ | programs | {"XLA_FLAGS": flags_of_xla(devices)}
                command = [*train, "--hosts", f"{where},index={index},timeout_seconds=100,lost_after_seconds=10{hosts}"]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))

    def until(self, lines: int) -> None:
        """Waits until they have logged `lines` lines."""
        metrics = self.folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            if any(process.poll() is not None for process in self.processes):
                self.end()
                pytest.fail(self.words())
            time.sleep(0.02)

    def codes(self) -> list[int]:
        try:
            return [process.wait(LONGEST_SECONDS) for process in self.processes]
        finally:
            self.end()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def words(self) -> str:
        return "\n".join(path.read_text() for path in self.said)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def short(config):
    few = {"train.epochs": 0.5, "train.log_every_steps": 1, "data.eval_users": 40, "data.eval_seen": "masked",
           "train.validations": 6}  # fmt: skip
    return replace(config, few)


@pytest.fixture(scope="module")
def alone(short, log, tmp_path_factory):
    """The folder of the same run in one process on two devices."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    run(replace(short, {"mesh.data": 2}), folder, "train", quiet=True)
    return folder


def assert_the_same_training(folder: Path, alone: Path) -> None:
    for name in LOSSES:
        curves = [[line[name] for line in lines_of(path) if name in line] for path in (folder, alone)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-5), name
    ours, theirs = (by_name(jax.device_get(restore(path).params)) for path in (folder, alone))
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)


def assert_the_same_run(folder: Path, alone: Path) -> None:
    assert_the_same_training(folder, alone)
    rows = [json.loads((path / "row.json").read_text()) for path in (folder, alone)]
    rows = [{name: value for name, value in row.items() if not any(x in name for x in NOT_THE_RUNS)} for row in rows]
    assert rows[0].keys() == rows[1].keys()
    for name, value in rows[1].items():
        near = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert rows[0][name] == near, name


def stop_together(config: Config, log, folder: Path, lines: int) -> None:
    """Trains in two processes, of which one is asked to stop after `lines` lines of the log."""
    stopped = Together(config, log, folder, 2, 1)
    stopped.until(lines)
    stopped.processes[1].send_signal(signal.SIGTERM)
    assert stopped.codes() == [143, 143], stopped.words()
    (at,) = {int(step) for step in re.findall(r"stopped by SIGTERM at step (\d+)", stopped.words())}
    assert max(steps_in(folder / "checkpoints")) == at
    assert damage_of(folder / "checkpoints", at) is None
    assert not (folder / "row.json").exists()


def test_two_processes_stop_together_and_one_goes_on_with_their_run(config, log, tmp_path):
    """A model without layers, which is not evaluated; the next test has all of a run."""
    small = replace(config, {"model.layers": 0, "train.epochs": 3.0, "train.log_every_steps": 1})
    stop_together(small, log, tmp_path / "run", lines=2)
    for name in ("run", "alone"):
        train(replace(small, {"mesh.data": 2}), log, tmp_path / name, quiet=True)
    assert_the_same_training(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_two_processes_that_stopped_have_the_row_of_one(short, alone, log, tmp_path):
    folder = tmp_path / "run"
    stop_together(short, log, folder, lines=5)  # a validation is among them
    run(replace(short, {"mesh.data": 2}), folder, "train", quiet=True)
    assert_the_same_run(folder, alone)


@pytest.mark.slow
def test_two_processes_write_the_row_of_one(short, alone, log, tmp_path):
    both = Together(short, log, tmp_path / "run", 2, 1)
    assert both.codes() == [0, 0], both.words()
    assert_the_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_then_four_then_one_process_are_one_run(short, log, tmp_path):
    longer = replace(short, {"train.epochs": 2.0})
    alone, folder = tmp_path / "alone", tmp_path / "run"
    run(replace(longer, {"mesh.data": 4}), alone, "train", quiet=True)
    for processes, devices, lines, asked in ((2, 2, 10, 0), (4, 1, 30, 3)):
        some = Together(longer, log, folder, processes, devices)
        some.until(lines)
        some.processes[asked].send_signal(signal.SIGTERM)
        assert some.codes() == [143] * processes, some.words()
    run(replace(longer, {"mesh.data": 4}), folder, "train", quiet=True)
    assert_the_same_run(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=2,model=2", "data=1,fsdp=4", "data=1,model=4"])
def test_a_mesh_whose_other_axes_lie_across_processes_is_the_same_run(mesh, short, log, tmp_path):
    alone = tmp_path / "alone"
    run(replace(short, {"mesh.data": 4}), alone, "train", quiet=True)
    both = Together(short, log, tmp_path / "run", 2, 2, "--mesh", mesh)
    assert both.codes() == [0, 0], both.words()
    assert_the_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)])
def test_where_one_is_lost_the_others_end(number, lost, short, log, tmp_path):
    both = Together(replace(short, {"train.epochs": 8.0}), log, tmp_path / "run", 2, 1)
    both.until(3)
    both.processes[lost].send_signal(number)
    sent = time.monotonic()
    code = both.processes[1 - lost].wait(LONGEST_SECONDS)
    assert time.monotonic() - sent < 30
    assert code not in (0, 2)
    assert re.search(rf"process {lost} \(.*\) is lost|another task died", both.said[1 - lost].read_text())
    both.end()


AGREE = """
import sys
from sessionrec_jax.config.settings import Hosts
from sessionrec_jax.errors import InputError
from sessionrec_jax.devices.processes import (
    commit_together, gather, joined, max_over_processes, on_process_zero,
)

index = int(sys.argv[2])
done = []


def outcome(work):
    try:
        return work()
    except (InputError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def fails():
    raise OSError("no finish")


def refused():
    raise InputError("not this")


with joined(Hosts(sys.argv[1], 2, index, timeout_seconds=30.0)):
    part = OSError("No space left") if index else None
    print(outcome(lambda: commit_together("whole", None, lambda: done.append("whole"))))
    print(outcome(lambda: commit_together("part", part, lambda: done.append("part"))))
    print(outcome(lambda: commit_together("finish", None, fails)))
    shared = on_process_zero(lambda: [1, None, "a"])
    print(shared, outcome(lambda: on_process_zero(refused)), outcome(lambda: on_process_zero(fails)))
    print(gather(b"ab" * index), max_over_processes(10 - index), done)
"""


def test_both_processes_report_what_goes_wrong_in_one():
    environment = os.environ | {"XLA_FLAGS": flags_of_xla(1)}
    program = [sys.executable, "-c", AGREE, f"localhost:{free_port()}"]
    both = [
        subprocess.Popen([*program, index], env=environment, stdout=subprocess.PIPE, text=True) for index in ("0", "1")
    ]
    said = [process.communicate(timeout=LONGEST_SECONDS)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    zero, one = ([line for line in lines if not line.startswith("[Gloo]")] for lines in said)
    shared = "[1, None, 'a'] InputError: not this OSError: no finish"
    failure = "OSError: No space left"
    assert zero == ["None", f"OSError: {failure}", "OSError: no finish", shared, "[b'', b'ab'] 10 ['whole']"]
    assert one == ["None", failure, "OSError: OSError: no finish", shared, "[b'', b'ab'] 10 []"]


@pytest.mark.slow
def test_all_processes_report_what_fails_on_process_0(short, log, tmp_path):
    folder = tmp_path / "run"
    run(replace(short, {"mesh.data": 1, "train.seed": 1}), folder, "train", quiet=True)
    both = Together(short, log, folder, 2, 1)
    assert both.codes() == [2, 2], both.words()
    assert all("its settings differ" in " ".join(path.read_text().split()) for path in both.said)


@pytest.mark.slow
def test_processes_that_do_not_meet_end(short, log, tmp_path):
    begun = time.monotonic()
    alone = Together(short, log, tmp_path / "run", 1, 1, hosts=",count=2,timeout_seconds=5")
    assert alone.codes() == [2]
    assert time.monotonic() - begun < 60
    assert "1 of 2 processes did not come to localhost within 5 s: missing index 1" in alone.words()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("autos", "--hosts is 'autos'; expected auto, or coordinator=HOST:PORT,count=N,index=I"),
        ("coordinator=a:1,cuont=2", "--hosts names 'cuont'; did you mean 'count'"),
        ("coordinator=a,count=2,index=0", "coordinator is 'a'; wanted HOST:PORT"),
        ("coordinator=a:1,count=2,index=2", "index is 2; wanted from 0 to 1"),
        ("coordinator=a:1,index=0", "count is 0; wanted the number of processes"),
        ("coordinator=auto,count=2", "count is 2; wanted left out, since the launcher sets it"),
        ("count=2,index=0", "count is 2; wanted left out, since there is no coordinator"),
    ],
)
def test_wrong_hosts_end_with_a_message(given, message, tmp_path, capsys):
    assert main(["train", "nowhere", "--out", str(tmp_path / "run"), "--hosts", given]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_missing_launcher_is_reported(tmp_path):
    known = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JAX_COORDINATOR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    command = [
        sys.executable,
        "-m",
        "experiments",
        "train",
        "nowhere",
        "--out",
        str(tmp_path / "run"),
        "--hosts",
        "auto",
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "--hosts auto: coordinator_address should be defined. Wanted a launcher that jax knows: srun" in ended.stderr


def test_the_defaults_are_one_process():
    assert check_hosts(Hosts()) == Hosts()
    with pytest.raises(InputError, match=r"lost_after_seconds is 0.0; wanted 1 or more"):
        check_hosts(Hosts(lost_after_seconds=0.0))
