"""Sweeps: whatever is killed, they end with the same rows; failed runs are rows; wrong folders are refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import _disturbed
import pytest
from sweeps import ENVIRONMENT, command, rows, until

from experiments.__main__ import main
from experiments.plans.grid import Plan
from experiments.plans.sizes import SIZES, sized
from experiments.sweep import sweep_folder, worker
from experiments.sweep.launch.local import Launcher
from experiments.sweep.lease import Leases
from experiments.sweep.varying import varying
from sessionrec_jax.config.settings import CONFIG_VERSION, Config
from sessionrec_jax.config.values import replace, run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.model import count
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.runfolder.files import claim
from sessionrec_jax.training.checkpoint import newest_whole


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def assert_gone(workers: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):  # noqa: PTH110
        assert time.monotonic() < deadline, "workers outlived their sweep"
        time.sleep(0.1)


@pytest.mark.slow  # Ray's and SLURM's tests kill and resume workers of real runs too
def test_a_killed_worker_and_a_killed_sweep_end_with_the_rows_of_an_undisturbed_one(log, tmp_path):
    """A killed worker's run is resumed from its checkpoint. Then the sweep is killed; the same sweep, started again,
    and a worker that is started by hand finish the rest together."""
    subprocess.run(command(log, tmp_path / "calm", epochs=12), env=ENVIRONMENT, check=True, capture_output=True)
    out = tmp_path / "killed"
    sweep = subprocess.Popen(command(log, out, epochs=12), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    until(lambda: any(out.glob("runs/*/checkpoints/[0-9]*")))
    run = next(out.glob("runs/*/checkpoints/[0-9]*")).parent.parent
    holder = json.loads((out / "leases" / f"{run.name}.1").read_text())["worker"]
    os.kill(int(holder.rpartition(":")[2]), signal.SIGKILL)
    first_line = (run / "metrics.jsonl").read_text().splitlines()[0]
    until(lambda: "attempt 2" in (run / "log.txt").read_text())
    time.sleep(random.uniform(0, 4))
    workers = children_of(sweep.pid)
    sweep.kill()
    sweep.wait()
    assert_gone(workers)
    again = (command(log, out, epochs=12), [sys.executable, "-m", "experiments", "worker", str(out)])
    ends = [subprocess.Popen(argv, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for argv in again]
    for said, end in [(end.communicate()[1], end) for end in ends]:
        assert end.returncode == 0, said
    calm = rows(tmp_path / "calm")
    assert len(calm) == 2
    assert all(row["status"] == "done" and row["loss_nats_per_item"] > 0 for row in calm.values())
    assert rows(out) == calm
    assert (run / "metrics.jsonl").read_text().splitlines()[
        0
    ] == first_line  # its seconds would differ if it had started over
    leases = Leases(out)
    assert leases.past(run.name, leases.newest()[run.name]).attempts == 1  # a killed sweep's workers let go
    assert main(["status", str(out), "--follow"]) == 0


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_saves_its_runs_and_counts_no_attempt(log, tmp_path):
    sweep = subprocess.Popen(command(log, tmp_path, epochs=200), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while sweep.poll() is None and len({path.parent for path in tmp_path.glob("runs/*/checkpoints/[0-9]*")}) < 2:
        time.sleep(0.02)
    workers = children_of(sweep.pid)
    sweep.send_signal(signal.SIGTERM)
    said = sweep.communicate(timeout=30)[1]
    assert sweep.returncode == 143, said
    assert "stopped by SIGTERM with 2 runs left; the same command goes on from there" in said
    assert_gone(workers)
    assert rows(tmp_path) == {}
    leases = Leases(tmp_path)
    assert [leases.past(*run).attempts for run in leases.newest().items()] == [0, 0]
    for run in (tmp_path / "runs").iterdir():
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert newest_whole(run / "checkpoints") == (last["step"] + 1, [])  # every step that was taken is saved


@pytest.mark.slow  # test_row_columns.py has the row of such a run, test_together.py its status
def test_a_run_that_fails_is_a_row_without_a_loss(log, tmp_path, capsys):
    diverging = [*command(log, tmp_path)[3:], "--optim.clip-norm", "1e12", "--optim.beta1", "0"]
    diverging[diverging.index("0.01")] = "1000"
    diverging += ["--mesh.data", "1"]
    assert main(diverging) == 1
    assert len(rows(tmp_path)) == 2
    for row in rows(tmp_path).values():
        assert row["status"] == "diverged"
        assert "step" in row["reason"]
        assert "loss_nats_per_item" not in row
    capsys.readouterr()
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"diverged": 2}


def empty_sweep(folder, runs: int) -> list[str]:
    configs = [replace(Config(), {"train.seed": seed, "data.eval_users": 0}) for seed in range(runs)]
    sweep_folder.begin(folder, "grid", configs, {})
    return [run_id(config) for config in configs]


def test_a_run_that_fails_is_tried_again_and_is_then_a_row_with_the_end_of_its_log(tmp_path):
    names = empty_sweep(tmp_path, 3)
    tried = []

    def fails(config, run_dir, plan, *, stop, write):
        """The first one once, the second one always."""
        tried.append(names.index(run_id(config)))
        os.write(2, b"printed to stderr\n")
        if tried[-1] == 1 or tried == [0]:
            raise OSError(f"attempt {len(tried)}")
        write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})

    worker.work(tmp_path, fails, worker.WorkerOptions(retries=2))
    assert sorted(tried) == [0, 0, 1, 1, 1, 2]
    first, second, third = (rows(tmp_path)[name] for name in names)
    assert first["status"] == third["status"] == "done"
    assert (second["status"], second["plan"], second["reason"]) == ("failed", "grid", "OSError: attempt 5")
    assert "loss_nats_per_item" not in second
    assert second["log_tail"].splitlines()[-1] == "OSError: attempt 5"
    assert "printed to stderr" in second["log_tail"]
    sweep_folder.try_failed_again(tmp_path)
    assert set(rows(tmp_path)) == {names[0], names[2]}
    worker.work(tmp_path, fails, worker.WorkerOptions(retries=0))
    assert tried[6:] == [1]  # its attempts are forgiven
    assert rows(tmp_path)[names[1]]["reason"] == "OSError: attempt 7"


def test_a_run_that_takes_its_workers_down_is_a_failed_row(tmp_path):
    (name,), leases = empty_sweep(tmp_path, 1), Leases(tmp_path)
    for died in range(3):
        with leases.take(name, died, lambda: None):
            pass
    worker.work(tmp_path, lambda *_, **__: pytest.fail("a fourth attempt"), worker.WorkerOptions(retries=2))
    assert rows(tmp_path)[name]["status"] == "failed"
    assert rows(tmp_path)[name]["reason"] == "its worker died 3 times; is there enough memory?"


@pytest.mark.slow
def test_a_launcher_that_fails_leaves_its_waiting_runs_alone(tmp_path):
    empty_sweep(tmp_path, 400)
    said = []

    def fail() -> None:
        said.extend(rows(tmp_path))
        if said:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        Launcher(2).launch(tmp_path, _disturbed.sleep, refresh=fail)
    left = rows(tmp_path)
    assert 1 <= len(left) < 200
    time.sleep(0.3)
    assert rows(tmp_path).keys() == left.keys()


@pytest.mark.parametrize("runs", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_no_run_is_lost_or_done_twice_when_workers_are_killed(tmp_path, runs):
    found = _disturbed.disturbed(tmp_path, runs, Launcher(8))
    assert found.kills > runs / 50
    assert found.rows == runs
    assert found.faults == []
    assert found.rows_written <= runs
    assert runs <= found.starts <= runs + found.kills  # a run is taken again where its worker died, and only there


def test_a_folder_holds_one_sweep(tmp_path):
    first, second = Config(), replace(Config(), {"train.seed": 1})
    sweep_folder.begin(tmp_path, "grid", [first], {})
    sweep_folder.begin(tmp_path, "grid", [replace(first, {"train.microbatches": 4})], {})
    assert sweep_folder.read(tmp_path)[1][run_id(first)].train.microbatches == 4  # as it was typed last
    with pytest.raises(InputError, match=r"settings differ \(--train.seed is 0 there and 1 here\)"):
        sweep_folder.begin(tmp_path, "grid", [second], {})


def test_sweeps_and_runs_of_an_older_version_are_refused_with_one_message(tmp_path, capsys):
    empty_sweep(tmp_path / "sweep", 1)
    claim(tmp_path / "run", Config())
    for path in (tmp_path / "sweep" / "sweep.json", tmp_path / "run" / "config.json"):
        path.write_text(path.read_text().replace(f'"config_version": {CONFIG_VERSION}', '"config_version": 2'))
    for subcommand, name in (("worker", "sweep"), ("watch", "sweep"), ("watch", "run")):
        assert (
            main([subcommand, str(tmp_path / name), *(["--to", "tensorboard"] if subcommand == "watch" else [])]) == 2
        )
        message = capsys.readouterr().err
        assert f"has config_version 2; this release reads {CONFIG_VERSION}. Run it again" in message.replace("\n", " ")


def test_diverged_runs_are_not_tried_again(tmp_path):
    names = empty_sweep(tmp_path, 2)
    for name, status in zip(names, ("failed", "diverged"), strict=True):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "row.json").write_text(json.dumps({"status": status, "reason": "it broke"}))
    sweep_folder.try_failed_again(tmp_path)
    assert [state.status for state in sweep_folder.states(tmp_path)[1]] == ["stopped", "diverged"]


def test_the_states_of_runs(tmp_path, capsys):
    names, leases = empty_sweep(tmp_path, 6), Leases(tmp_path)
    _, stopped, running, stale, done, failing = ((tmp_path / "runs" / name) for name in names)
    for folder in (stopped, running, stale, done, failing):
        folder.mkdir(parents=True)
    line = '{"step": 9, "steps": 30, "step_seconds_p50": 0.5}\n'
    (running / "metrics.jsonl").write_text(line + '{"step": 9, "validation_objective": 1}\n{"st')
    for folder in (stopped, stale):
        (folder / "metrics.jsonl").write_text(line)
    (done / "row.json").write_text('{"status": "done", "steps": 11}')
    with leases.take(stale.name, 0, lambda: None):
        pass
    with leases.take(failing.name, 0, lambda: None) as failed:
        failed.end("failed", "OSError: no [room]")
    with leases.take(running.name, 0, lambda: None):
        plan, states = sweep_folder.states(tmp_path)
        assert main(["status", str(tmp_path)]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert main(["status", str(tmp_path), "--json"]) == 0
    assert plan == "grid"
    assert [state.status for state in states] == ["waiting", "stopped", "running", "stale", "done", "stopped"]
    assert [(state.step, state.steps) for state in states[1:5]] == [*[(9, 30)] * 3, (11, 11)]
    assert [state.seconds_left for state in states] == [None, None, 10.0, None, None, None]
    assert "10 of 30" in text
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"waiting": 1, "stopped": 2, "running": 1, "stale": 1, "done": 1}
    assert found["by_run"][failing.name]["failures"] == ["OSError: no [room]"]
    assert found["by_run"][running.name]["worker"].endswith(f":{os.getpid()}")
    assert [found["by_run"][name]["deaths"] for name in names] == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["grid", "--model.width", "9", "--train.epochs", "2"], "--model.width by --sizes, --train.epochs by --epochs"),
        (["paradigm", "--paradigm", "nipp"], "--paradigm by nothing, since each is an arm"),
        (["ablation", "--optim.learning-rate-peak", "0.1"], "--optim.learning-rate-peak by --learning-rates"),
    ],
)
def test_a_setting_that_the_plan_decides_is_refused(log, tmp_path, capsys, argv, message):
    assert main(["sweep", *argv, "--data", str(log.path), "--out", str(tmp_path / "sweep")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "sweep").exists()


def test_a_grid_is_its_product_without_runs_of_too_many_epochs():
    plan = Plan(users=(10, 100), sizes=("xxs", "s"), learning_rates=(1e-3,), epochs=(1.0, 4.0), user_epochs_max=100)
    configs = plan.configs(Config(), 1_000)
    assert len(configs) == len({run_id(config) for config in configs})
    seen = {(config.data.users, config.train.epochs) for config in configs}
    assert seen == {(10, 1.0), (10, 4.0), (100, 1.0)}
    assert [c.data.users for c in Plan().configs(Config(), 1_000)] == [4, 12, 37, 111, 333, 1_000]


def test_the_ladder_climbs():
    specs = [Spec(sized(Config(), size).model, 1_001, (("digit", 10),), 3, 32, 8) for size in SIZES]
    bodies = [count.parameters(spec).body for spec in specs]
    ratios = [large / small for small, large in itertools.pairwise(bodies)]
    assert all(2 < ratio < 5 for ratio in ratios), ratios


def test_labels_are_the_settings_that_vary_and_no_others():
    configs = [to_dict(replace(Config(), change)) for change in (
        {"train.seed": 1, "data.items_per_row": 8}, {"train.seed": 2}, {"train.seed": 2, "paradigm": "nipp_plus"},
    )]  # fmt: skip
    assert varying(configs) == [
        {"paradigm": "nspp", "train.seed": 1},
        {"paradigm": "nspp", "train.seed": 2},
        {"paradigm": "nipp_plus", "train.seed": 2},
    ]
    assert varying(configs[:1]) == [{}]
    assert varying([]) == []


@pytest.mark.parametrize(
    "change", [{"data.users": 0}, {"data.users": 0, "data.fresh": "expected", "data.fresh_sessions": 1000}]
)
def test_the_costliest_run_starts_first(config, change):
    """Also where every run has all users, or draws its sessions, so that no long run is left for the end."""
    widths = {str(width): replace(config, change | {"model.width": width}) for width in (8, 32, 16)}
    assert worker.costliest_first(widths) == ["32", "16", "8"]
    length = "data.fresh_sessions" if "data.fresh" in change else "train.epochs"
    lengths = {str(n): replace(config, change | {length: n}) for n in (2, 8, 4)}
    assert worker.costliest_first(lengths) == ["8", "4", "2"]
