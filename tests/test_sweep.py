"""Sweeps: killed and typed again they end with the same rows; failed runs are rows; wrong folders are refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from experiments import sweepfolder
from experiments.__main__ import main
from experiments.base import SIZES, sized
from experiments.grid import Plan
from experiments.varying import varying
from sessionrec_jax import count
from sessionrec_jax.checkpoint import newest_whole
from sessionrec_jax.config import Config
from sessionrec_jax.config_values import replace, run_id, to_dict
from sessionrec_jax.errors import InputError

PLAN = "--users 40 80 --sizes xxs --learning-rates 0.01 --workers 2 --law none"
SMALL = (
    "--data.rows 4 --data.sessions-per-row 16 --model.id-width 8 --model.side-width 4 --loss.negatives 32 "
    "--train.log-every-steps 1 --train.checkpoint-every-seconds 0.2"
)
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
OF_THE_CLOCK = (
    "wall_seconds", "compile_seconds", "sessions_per_second", "items_per_second", "model_flops_utilization",
    "peak_flops_per_second_measured", "peak_flops_per_second_measured_bfloat16", "commit",
)  # fmt: skip


def command(log, out, epochs: int = 3) -> list[str]:
    sweep = [sys.executable, "-m", "experiments", "sweep", "grid", "--data", str(log.path), "--out", str(out)]
    return [*sweep, *PLAN.split(), "--epochs", str(epochs), *SMALL.split()]


def rows(out) -> dict[str, dict]:
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/row.json")}
    return {name: {k: v for k, v in row.items() if k not in OF_THE_CLOCK} for name, row in found.items()}


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def assert_gone(workers: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):  # noqa: PTH110
        assert time.monotonic() < deadline, "workers outlived their sweep"
        time.sleep(0.1)


def test_a_killed_sweep_ends_with_the_rows_of_an_undisturbed_one(log, tmp_path):
    subprocess.run(command(log, tmp_path / "calm"), env=ENVIRONMENT, check=True, capture_output=True)
    moment = random.SystemRandom().uniform(2.0, 12.0)
    sweep = subprocess.Popen(command(log, tmp_path / "killed"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    time.sleep(moment)
    workers = children_of(sweep.pid)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert_gone(workers)
    subprocess.run(command(log, tmp_path / "killed"), env=ENVIRONMENT, check=True, capture_output=True)
    calm = rows(tmp_path / "calm")
    assert len(calm) == 2
    assert all(row["status"] == "done" and row["loss_nats_per_item"] > 0 for row in calm.values())
    assert rows(tmp_path / "killed") == calm, f"killed after {moment:.2f} s"
    assert main(["status", str(tmp_path / "killed")]) == 0


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
    assert [path.read_text().strip() for path in tmp_path.glob("runs/*/attempts.json")] == ["0", "0"]
    for run in (tmp_path / "runs").iterdir():
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert newest_whole(run / "checkpoints") == (last["step"] + 1, [])  # every step that was taken is saved


def test_a_run_that_fails_is_a_row_without_a_loss(log, tmp_path, capsys):
    diverging = [*command(log, tmp_path)[3:], "--optim.clip-norm", "1e30", "--optim.beta1", "0"]
    diverging[diverging.index("0.01")] = "1e25"
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


def test_a_worker_that_dies_again_and_again_leaves_a_failed_row(tmp_path, monkeypatch):
    from experiments.launch import local

    config = Config()
    run_dir = tmp_path / "runs" / run_id(config)
    run_dir.mkdir(parents=True)
    told = []
    for attempts, rows_told in ((local.ATTEMPTS - 1, 0), (local.ATTEMPTS, 1)):
        (run_dir / "attempts.json").write_text(str(attempts))
        local._give_up_on_killer(config, tmp_path, "grid", told.append)
        assert len(told) == rows_told
    assert told[0]["status"] == "failed"
    assert "killed 3 times" in json.loads((run_dir / "row.json").read_text())["reason"]


def test_a_launcher_that_fails_leaves_its_waiting_runs_alone(tmp_path):
    from experiments.launch import local

    configs = [replace(Config(), {"train.seed": seed, "data.path": "nowhere"}) for seed in range(400)]

    def fail(row) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        local.launch(configs, tmp_path, "grid", 1, fail)
    assert 1 <= len(rows(tmp_path)) < 200


def test_a_folder_holds_one_sweep(tmp_path):
    first, second = Config(), replace(Config(), {"train.seed": 1})
    sweepfolder.begin(tmp_path, "grid", [first], {})
    sweepfolder.begin(tmp_path, "grid", [first], {})
    with pytest.raises(InputError, match="settings differ"):
        sweepfolder.begin(tmp_path, "grid", [second], {})
    another = pytest.raises(InputError, match="another `sessionrec sweep`")
    with sweepfolder.launching(tmp_path), another, sweepfolder.launching(tmp_path):
        pass


def test_failed_runs_are_tried_again_and_diverged_ones_are_not(tmp_path):
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(2)]
    sweepfolder.begin(tmp_path, "grid", configs, {})
    for config, status in zip(configs, ("failed", "diverged"), strict=True):
        folder = tmp_path / "runs" / run_id(config)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        (folder / "row.json").write_text(json.dumps({"status": status}))
    sweepfolder.forget_failures(tmp_path)
    assert [state.status for state in sweepfolder.states(tmp_path)[1]] == ["begun", "diverged"]


def test_the_states_of_runs(tmp_path):
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(3)]
    sweepfolder.begin(tmp_path, "grid", configs, {})
    begun, done = (tmp_path / "runs" / run_id(config) for config in configs[1:])
    for folder, config in ((begun, configs[1]), (done, configs[2])):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (begun / "metrics.jsonl").write_text('{"step": 7}\n{"step": 9}\n{"st')
    (done / "row.json").write_text('{"status": "done", "steps": 11}')
    plan, states = sweepfolder.states(tmp_path)
    assert plan == "grid"
    assert [(state.status, state.step) for state in states] == [("waiting", None), ("begun", 9), ("done", 11)]


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


def test_a_plan_is_its_product_less_what_costs_too_much():
    plan = Plan(users=(10, 100), sizes=("xxs", "s"), learning_rates=(1e-3,), epochs=(1.0, 4.0), user_epochs_max=100)
    configs = plan.configs(Config(), 1_000)
    assert len(configs) == len({run_id(config) for config in configs})
    seen = {(config.data.users, config.train.epochs) for config in configs}
    assert seen == {(10, 1.0), (10, 4.0), (100, 1.0)}
    assert [c.data.users for c in Plan().configs(Config(), 1_000)] == [4, 12, 37, 111, 333, 1_000]


def test_the_ladder_climbs():
    bodies = [count.parameters(sized(Config(), size).model, 1_001, (("digit", 10),), 3, 32).body for size in SIZES]
    ratios = [large / small for small, large in itertools.pairwise(bodies)]
    assert all(2 < ratio < 5 for ratio in ratios), ratios


def test_runs_are_told_apart_by_what_varies_and_nothing_else():
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
