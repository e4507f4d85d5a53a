"""A sweep in a bucket: a run has one worker, whatever races and dies, and the way leads from a log to a report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import bucket_server
import pytest
import sweeps

from doors.address import Address
from doors.storage import copies
from doors.storage.bucket import Bucket
from experiments.sweep import bucket_leases, lease, sweep_folder
from experiments.sweep.bucket_leases import leases_of
from experiments.sweep.lease import Lost
from experiments.sweep.worker import work
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.errors import InputError

obstore = pytest.importorskip("obstore")


@pytest.fixture
def another(here, monkeypatch):
    """Gives the leases of the same sweep as another process of another machine sees them."""

    def leases():
        bucket_server.as_another_process(monkeypatch)
        return leases_of(copies.opened(str(here), copies.for_workers))

    return leases


def never() -> None:
    raise AssertionError("the run was lost")


def take(leases, run_id: str = "7", on_loss=never):
    return leases.take(run_id, leases.newest().get(run_id, 0), on_loss)


def test_a_run_is_held_by_one_and_goes_on_with_another_when_it_is_released(another):
    first, second = another(), another()
    held = take(first)
    assert held is not None
    assert take(second) is None
    past = second.past("7", second.newest()["7"])
    assert past.is_held
    assert past.worker == held.worker
    with held:
        held.end("released")
    assert take(second) is not None


def test_two_who_saw_the_same_do_not_both_take_it(another):
    first, second = another(), another()
    newest = first.newest().get("7", 0), second.newest().get("7", 0)
    taken = [leases.take("7", number, never) for leases, number in zip((first, second), newest, strict=True)]
    assert [each is None for each in taken] == [False, True]


def test_failures_and_deaths_count_and_are_forgiven(another, monkeypatch):
    leases = another()
    with take(leases) as held:
        held.end("failed", "it is broken")
    take(leases)
    monkeypatch.setattr(bucket_leases.cache, "is_alive", lambda process: False)
    third = take(leases)
    assert (third.past.failures, third.past.deaths, third.past.attempts) == (("it is broken",), 1, 2)
    with third:
        third.end("forgiven")
    assert take(leases).past.attempts == 0


def test_a_lease_without_a_heartbeat_is_stale_by_the_clock_of_the_bucket(another, monkeypatch):
    first, second = another(), another()
    lost = take(first)
    monkeypatch.setattr(bucket_leases, "LEASE_SECONDS", 1.0)
    time.sleep(2.1)  # the bucket's times are in whole seconds
    lost.renew()
    assert take(second) is None, "a heartbeat keeps it"
    time.sleep(2.1)
    assert take(second) is not None
    with pytest.raises(Lost, match="was taken over"):
        lost.renew()


def test_a_lease_that_somebody_deleted_is_lost(another, here):
    held = take(another())
    Bucket(here).delete([here / "leases/7.1"])
    with pytest.raises(Lost, match="was deleted or replaced"):
        held.renew()


def test_the_heartbeat_reports_a_loss(another, monkeypatch, here):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    losses = []
    with take(another(), on_loss=lambda: losses.append(1)):
        Bucket(here).create(here / "leases/7.2", b"{}")
        sweeps.until(lambda: losses, seconds=10)


def test_a_damaged_lease_is_one_of_a_worker_that_died(another, here):
    leases = another()
    Bucket(here).put(here / "leases/7.1", b"{cut")
    past = leases.past("7", leases.newest()["7"])
    assert not past.is_held
    assert f"{here}/leases/7.1 is damaged" in past.faults[0]


WORKER = """
import sys, uuid
from pathlib import Path
from doors.address import address_of
from doors.storage import copies
from doors.storage.bucket import Bucket
from experiments.sweep import worker

worker._POLL_SECONDS_OF_BUCKET = 0.2
address = address_of(sys.argv[1])

def run(config, run_dir, plan, *, stop, write, part=1.0):
    Bucket(address).put(address / f"did/{run_dir.name}/{uuid.uuid4().hex}", b"")
    write(run_dir / "row.json", {"status": "done", "run_id": run_dir.name})

worker.work(Path(sys.argv[1]), run)
"""


def test_two_workers_do_each_run_once(here):
    runs = 12
    folder = copies.opened(str(here))
    sweep_folder.begin(folder, "grid", [replace(Config(), {"train.seed": seed}) for seed in range(runs)], {})
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(here)]) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    found = Bucket(here).list(here)
    assert len([name for name in found if name.startswith("did/")]) == runs
    assert len([name for name in found if name.endswith("/row.json")]) == runs
    assert [state.status for state in sweep_folder.states(copies.opened(str(here)))[1]] == ["done"] * runs


def test_a_server_without_conditions_gets_no_worker(here, monkeypatch):
    put = obstore.put
    monkeypatch.setattr("obstore.put", lambda *args, mode=None, **options: put(*args, **options))
    sweep_folder.begin(copies.opened(str(here)), "grid", [Config()], {})
    with pytest.raises(InputError, match="its server ignores If-None-Match"):
        work(Path(str(here)))
    assert [*Bucket(here).list(here)] == ["sweep.json"]


def test_an_idle_worker_asks_the_bucket_twice_a_look(another, monkeypatch):
    """A put that asks for the time, and a listing with all rows, checkpoints and leases."""
    leases = another()
    take(leases)
    leases.past("7", leases.newest()["7"])
    asked = []
    for name in ("put", "get", "list", "head", "delete"):
        call = getattr(obstore, name)
        monkeypatch.setattr(f"obstore.{name}", lambda *a, _n=name, _c=call, **k: asked.append(_n) or _c(*a, **k))
    assert take(leases) is None
    assert asked == ["put", "list"]


# The whole way.


def sessionrec(*argv: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *argv], env=environment(), capture_output=True, text=True, timeout=900
    )
    assert check in (None, done.returncode), done.stderr[-4000:]
    return done


def environment() -> dict[str, str]:
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def row_of(address: Address) -> dict:
    row = json.loads(Bucket(address).get(address / "row.json"))
    return {name: value for name, value in row.items() if name not in sweeps.TIMES}


SMALL = "--model.width 8 --model.layers 1 --train.epochs 6 --data.rows 4 --train.log-every-steps 1"
SMALL += " --train.checkpoint-every-seconds 0.3"


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_the_bucket_and_ends_like_one_that_was_not(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, killed = str(here / "DATA"), here / "KILLED"
    sessionrec("prepare", "synthetic", "--users", "200", "--base", "4", "--depth", "2", "--out", data, "--quiet")
    train = ("train", data, *SMALL.split(), "--data.eval-users", "20", "--quiet")
    sessionrec(*train, "--out", "calm")
    process = subprocess.Popen([sys.executable, "-m", "experiments", *train, "--out", str(killed)], env=environment())
    bucket = Bucket(killed)
    sweeps.until(lambda: any(name.endswith(".zip") for name in bucket.list(killed)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "row.json" not in bucket.list(killed)
    first_line = bucket.get(killed / "metrics.jsonl").splitlines()[0]
    sessionrec(*train, "--out", str(killed))
    assert bucket.get(killed / "metrics.jsonl").splitlines()[0] == first_line, "it started over"
    calm = {k: v for k, v in json.loads(Path("calm/row.json").read_text()).items() if k not in sweeps.TIMES}
    assert row_of(killed) == calm
    here_, there = (sessionrec("evaluate", out, "--json", "-").stdout for out in ("calm", str(killed)))
    assert here_ == there
    answers = sessionrec("recommend", str(killed), "--log-users", "3", "--k", "5").stdout.splitlines()
    assert [len(json.loads(line)["items"]) for line in answers] == [5, 5, 5]
    assert not list(Path("home/sessionrec/processes").glob("[0-9a-f]*/s3")), "a copy outlived its process"


@pytest.mark.slow
def test_a_sweep_of_two_workers_is_killed_and_ends_with_the_rows_of_one_on_a_disk(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, out = here / "DATA", here / "SWEEP"
    sessionrec("prepare", "synthetic", "--users", "200", "--base", "4", "--depth", "2", "--out", str(data), "--quiet")
    plan = "--users 20 30 45 70 100 --sizes xxs --epochs 4 --learning-rates 1e-2 --data.eval-users 20"
    sweep = ["sweep", "grid", "--data", str(data), *plan.split(), *sweeps.SMALL.split(), "--quiet", "--workers", "2"]
    sessionrec(*sweep, "--out", "calm")
    process = subprocess.Popen([sys.executable, "-m", "experiments", *sweep, "--out", str(out)], env=environment())
    bucket = Bucket(out)
    sweeps.until(lambda: any(name.endswith(".zip") for name in bucket.list(out)))
    holders = [json.loads(bucket.get(out / name)) for name in bucket.list(out) if re.search(r"leases/\w+\.1$", name)]
    os.kill(int(holders[0]["worker"].rpartition(":")[2]), signal.SIGKILL)  # the sweep starts another
    time.sleep(3)
    process.terminate()
    assert process.wait(120) in (143, 0)
    sessionrec(*sweep, "--out", str(out))
    names = [path.name for path in Path("calm/runs").iterdir()]
    assert len(names) == 5
    calm = sweeps.rows(Path("calm"))
    assert {name: row_of(out / f"runs/{name}") for name in names} == calm
    assert "5 done" in sessionrec("status", str(out)).stdout
    fits = [json.loads(sessionrec("fit", where, "--json", "-").stdout) for where in ("calm", str(out))]
    assert fits[0]["data_hash"] == fits[1]["data_hash"]
    assert fits[1]["source"] == str(out)
    sessionrec("report", str(out))
    assert Path("SWEEP.html").is_file()
