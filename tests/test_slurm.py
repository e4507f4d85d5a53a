"""Sweeps on the real daemons of a SLURM of two nodes: jobs die or are queued again; each run has one row."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import ENVIRONMENT, attempts, command, end_of, first_line, rows, running, start, until

from experiments.__main__ import main

DAEMONS = ("munged", "slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "srun", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
MISSING += ["submitit"] if importlib.util.find_spec("submitit") is None else []

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")]

TESTS = Path(__file__).parent
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=10
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=1
PartitionName=low Nodes=n[0-1] Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=n[0-1] PriorityTier=2
"""
DISTURBED = """
import sys
from pathlib import Path
from _disturbed import disturbed
from experiments.sweep.launch.slurm import Launcher

found = disturbed(Path(sys.argv[1]), 20, Launcher(workers=2))
print(found.rows, found.rows_written, found.starts, *found.faults)
"""
SLEEPING = """
import sys
from pathlib import Path
from experiments.__main__ import exit_code
from experiments.sweep.launch.slurm import Launcher
from experiments.sweep.worker_options import WorkerOptions
from sweeps import begin_sleeping, sleep_long

begin_sleeping(Path(sys.argv[1]), 3)
how = {"options": WorkerOptions(retries=0), "refresh": lambda: None, "report": print}
sys.exit(exit_code(lambda: Launcher(workers=2).launch(Path(sys.argv[1]), sleep_long, **how)))
"""


def free_ports() -> list[int]:
    """Returns three ports in a row, of which the first is surely free."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
    return [port, port + 1, port + 2]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory):
    """Starts SLURM's daemons; gives the environment of its commands."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    configuration = CONFIGURATION.format(host=socket.gethostname(), user=user, folder=folder, ports=free_ports())
    (folder / "slurm.conf").write_text(configuration)
    environment = ENVIRONMENT | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS.parent / "benchmarks", TESTS))),
    }
    files = {"--socket": "munge", "--pid-file": "munged.pid", "--log-file": "munged.log", "--seed-file": "seed"}
    files["--key-file"] = "key"
    munged = ["munged", "--foreground", "--force", *(f"{flag}={folder / name}" for flag, name in files.items())]
    programs = [munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", "n0"], ["slurmd", "-D", "-N", "n1"]]
    with (folder / "said").open("w") as said:
        running = [
            subprocess.Popen(argv, env=environment, stdout=said, stderr=said, start_new_session=True)
            for argv in programs
            if not time.sleep(0.3)
        ]
    sinfo = ["sinfo", "--noheader", "--partition=low", "--states=idle", "--format=%D"]
    until(lambda: subprocess.run(sinfo, env=environment, capture_output=True, text=True).stdout.strip() == "2", 30)
    yield environment
    for daemon in reversed(running):
        daemon.terminate()
        daemon.wait(timeout=30)


@pytest.fixture
def slurm(daemons):
    """The environment of a SLURM with an empty queue."""
    yield daemons
    output_of(daemons, "scancel", "--me")
    until(lambda: not output_of(daemons, "squeue", "--noheader"))


def output_of(environment, *argv: str) -> str:
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout


def job_of(pid: int) -> str:
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(each.partition("=")[2] for each in environ if each.startswith("SLURM_JOB_ID="))


@pytest.mark.slow
def test_a_worker_that_dies_or_is_out_of_time_is_resumed(log, tmp_path, slurm):
    """One worker is killed, the other is warned that its time is up."""
    sweep = start(command(log, tmp_path, epochs=6, launcher="--launcher slurm --workers 2"), slurm)
    until(lambda: sweep.poll() is not None or len(running(tmp_path)) == 2)
    assert sweep.poll() is None, end_of(sweep)
    (killed, pid), (warned, other) = running(tmp_path).items()
    first = [first_line(tmp_path, name) for name in (killed, warned)]
    job = job_of(other)
    output_of(slurm, "scancel", "--signal=USR2", job)  # SLURM sends it before the time limit
    os.kill(pid, signal.SIGKILL)
    until(lambda: " Restarts=1 " in output_of(slurm, "scontrol", "show", "job", job))
    code, said = end_of(sweep)
    assert code == 0, said
    assert [row["status"] for row in rows(tmp_path).values()] == ["done", "done"]
    assert [first_line(tmp_path, name) for name in (killed, warned)] == first
    assert attempts(tmp_path) == {killed: 1, warned: 0}


def test_a_preempted_worker_is_queued_again_and_a_sweep_that_is_asked_to_stop_cancels_its_jobs(tmp_path, slurm):
    sweep = start([sys.executable, "-c", SLEEPING, str(tmp_path)], slurm)
    until(lambda: len(list(tmp_path.glob("runs/*/log.txt"))) == 2)
    output_of(slurm, "sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    restarts = ("squeue", "--noheader", "--array", "--partition=low", "--Format=RestartCnt")
    until(lambda: output_of(slurm, *restarts).split() == ["1", "1"])
    assert sorted(attempts(tmp_path).values()) == [0, 0]
    sweep.send_signal(signal.SIGTERM)
    code, said = end_of(sweep)
    assert code == 143, said
    assert "stopped by SIGTERM with 3 runs left" in said
    assert output_of(slurm, "squeue", "--noheader", "--partition=low") == ""


def test_no_run_is_lost_or_done_twice_when_workers_are_killed(tmp_path, slurm):
    argv = [sys.executable, "-c", DISTURBED, str(tmp_path)]
    done = subprocess.run(argv, env=slurm, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout.split()
    written, taken = map(int, done[1:])  # and no faults
    assert len(rows(tmp_path)) == int(done[0]) == 20
    assert written <= 20 <= taken


def test_a_refusal_by_sbatch_is_repeated_in_its_words(log, tmp_path, slurm):
    code, said = end_of(start(command(log, tmp_path, launcher="--launcher slurm --partition none"), slurm))
    assert code == 2
    assert said.startswith("error: no job: sbatch: error: invalid partition specified: none")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--slurm qos", "--slurm qos; wanted NAME=VALUE"),
        ("--time 1", "--time 1; wanted at least 5"),
        ("--address 10.0.0.1:6379", "--address: options of --launcher ray, but --launcher is slurm"),
    ],
)
def test_wrong_flags_end_with_one_message(log, tmp_path, capsys, flags, message):
    assert main(command(log, tmp_path / "sweep", launcher=f"--launcher slurm {flags}")[3:]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
