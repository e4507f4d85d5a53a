"""A run that begins from a longer run's checkpoint is the same run done whole, whatever was killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from onestep import assert_same_bits
from sweeps import ENVIRONMENT, SMALL, TIMES, end_of, rows, running, start, until
from test_checkpoint import flip, train_until

from experiments.__main__ import main
from experiments.sweep import sweep_folder, worker
from experiments.sweep.lease import Leases
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.errors import InputError
from sessionrec_jax.row import run
from sessionrec_jax.training.checkpoint import steps_in
from sessionrec_jax.training.loop import train

SHARED = ("trunk", "steps_shared", "flops_spent")
STEP = 14
"""The cooldown of `short` starts here."""


@pytest.fixture(scope="module")
def long(config):
    change = {"optim.schedule": "cooldown", "optim.warmup_steps": 3, "train.epochs": 1.0, "train.log_every_steps": 4}
    return replace(config, change | {"train.checkpoints_at": (STEP,)})


@pytest.fixture(scope="module")
def short(long):
    change = {"train.epochs": 0.5, "train.checkpoints_at": (), "train.begins_from": f"trunk/checkpoints/{STEP}"}
    return replace(long, change)


@pytest.fixture(scope="module")
def folder(long, log, tmp_path_factory):
    """A folder with the finished trunk."""
    folder = tmp_path_factory.mktemp("runs")
    train(long, log, folder / "trunk", quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(short, log, tmp_path_factory):
    """The short run done whole: the result of train, and its row."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    alone = replace(short, {"train.begins_from": ""})
    return train(alone, log, run_dir, quiet=True), run(alone, run_dir, "train", quiet=True)


def test_a_branch_is_the_same_run_done_whole_and_its_row_says_what_it_took(short, long, whole, folder):
    assert STEP in steps_in(folder / "trunk" / "checkpoints")  # it stays, although newer ones came
    row = run(short, folder / "branch", "train", quiet=True)
    assert {name: value for name, value in row.items() if name not in (*TIMES, *SHARED)} == {
        name: value for name, value in whole[1].items() if name not in (*TIMES, *SHARED)
    }
    assert (row["trunk"], row["steps_shared"]) == (run_id(long), STEP)
    assert (whole[1]["trunk"], whole[1]["steps_shared"]) == (None, 0)
    assert whole[1]["flops_spent"] == row["flops_train"]
    assert row["flops_spent"] / row["flops_train"] == pytest.approx(1 - STEP / row["steps"], rel=0.1)
    lines = [json.loads(line) for line in (folder / "branch" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == STEP + 1  # with the steps of the trunk since its last line


def test_a_branch_that_was_stopped_needs_its_trunk_no_longer(short, whole, folder, log, tmp_path):
    shutil.copytree(folder / "trunk", tmp_path / "trunk")
    train_until(STEP + 2, short, log, tmp_path / "branch", first=STEP)
    shutil.rmtree(tmp_path / "trunk")
    branch = train(short, log, tmp_path / "branch", quiet=True)
    assert_same_bits(branch.params, whole[0].params)
    assert branch.history.counters.steps_shared == STEP


@pytest.mark.parametrize("way", ["missing", "damaged"])
def test_a_branch_without_a_whole_checkpoint_takes_all_steps_itself(way, short, whole, folder, log, tmp_path, capfd):
    if way == "damaged":
        shutil.copytree(folder / "trunk", tmp_path / "trunk")
        flip(tmp_path / "trunk" / "checkpoints" / str(STEP) / "progress.json", 5)
    branch = train(short, log, tmp_path / "branch", quiet=True)
    assert_same_bits(branch.params, whole[0].params)
    assert branch.history.counters.steps_shared == 0
    assert "no whole checkpoint" in capfd.readouterr().err


def test_a_trunk_that_was_stopped_at_its_branch_step_still_saves_it(short, long, whole, log, tmp_path):
    train_until(STEP - 1, long, log, tmp_path / "trunk")
    train_until(STEP + 1, long, log, tmp_path / "trunk", first=STEP - 1)
    assert STEP in steps_in(tmp_path / "trunk" / "checkpoints")
    assert_same_bits(train(short, log, tmp_path / "branch", quiet=True).params, whole[0].params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.seed": 1}, "settings differ in more than --train.epochs"),
        ({"train.epochs": 2.0}, "wanted a run of at least 2 epochs"),
        (
            {"train.epochs": 0.25},
            r"the cooldown of a run of \d+ steps starts at step \d+; wanted a checkpoint from bef",
        ),
    ],
)
def test_a_checkpoint_of_other_steps_is_refused(change, message, short, folder, log):
    with pytest.raises(InputError, match=message):
        train(replace(short, change), log, folder / "other", quiet=True)
    shutil.rmtree(folder / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.begins_from": "trunk"}, "--train.begins-from is trunk; wanted a checkpoint, such as"),
        ({"optim.schedule": "cosine"}, "under --optim.schedule cosine with --optim.warmup-steps 3 the first steps dep"),
        ({"optim.warmup_steps": 0}, "wanted cooldown, and --optim.warmup-steps above 0"),
        ({"train.validations": 2}, "--train.validations is 2, whose places depend on the length"),
    ],
)
def test_a_beginning_that_cannot_be_shared_is_refused(change, message, short):
    with pytest.raises(InputError, match=message):
        check(replace(short, change))


# A sweep of trunk and branches.


def test_a_branch_waits_for_its_trunk_s_checkpoint_or_its_end(tmp_path):
    cooldown = replace(Config(), {"optim.schedule": "cooldown", "optim.warmup_steps": 3})
    trunks = [replace(cooldown, {"train.seed": seed}) for seed in (0, 1)]
    branches = [
        replace(trunk, {"train.epochs": 1.0, "train.begins_from": f"{run_id(trunk)}/checkpoints/7"}) for trunk in trunks
    ]
    sweep_folder.begin(tmp_path, "cooldown", [*branches, *trunks], {})
    order = []

    def do(config, run_dir, plan, *, stop, write):
        """The trunk of seed 0 saves; that of seed 1 fails."""
        order.append((config.train.seed, bool(config.train.begins_from)))
        if order[-1] == (0, False):
            assert not any(sweep_folder.is_ready(tmp_path, branch) for branch in branches)
            (run_dir / "checkpoints" / "7").mkdir(parents=True)
            assert [sweep_folder.is_ready(tmp_path, branch) for branch in branches] == [True, False]
        if order[-1] == (1, False):
            raise OSError
        write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})

    worker.work(tmp_path, do, worker.WorkerOptions(retries=1))
    assert sorted(order) == [(0, False), (0, True), (1, False), (1, False), (1, True)]
    assert order.index((1, True)) > max(place for place, each in enumerate(order) if each == (1, False))


@pytest.mark.slow  # three runs, each done twice; the tests above state the same of single runs
def test_two_workers_one_of_them_killed_end_with_the_rows_of_whole_runs(log, tmp_path, capsys):
    out, calm = tmp_path / "sweep", tmp_path / "calm"
    command = [sys.executable, "-m", "experiments", "sweep", "cooldown", "--data", str(log.path), "--out", str(out)]
    options = "--epochs 0.5 1 2 --sizes xxs --learning-rates 0.01 --law none --workers 2"
    sweep = start([*command, *options.split(), *SMALL.split()])
    until(lambda: running(out))
    (trunk, holder) = next(iter(running(out).items()))
    os.kill(holder, signal.SIGKILL)
    code, said = end_of(sweep)
    assert code == 0, said
    leases = Leases(out)
    assert leases.past(trunk, leases.newest()[trunk]).attempts == 1
    configs = sweep_folder.read(out)[1].values()
    alone = [replace(config, {"train.begins_from": "", "train.checkpoints_at": ()}) for config in configs]
    sweep_folder.begin(calm, "cooldown", alone, {})
    subprocess.run([sys.executable, "-m", "experiments", "worker", str(calm)], env=ENVIRONMENT, check=True)
    found, wanted = rows(out), rows(calm)
    assert [row["trunk"] for row in found.values() if row["run_id"] != trunk] == [trunk, trunk]
    assert all(row["steps_shared"] > 0.7 * row["steps"] for row in found.values() if row["run_id"] != trunk)
    for each in (*found.values(), *wanted.values()):
        for name in SHARED:
            del each[name]
    assert found == wanted
    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    assert "saved by shared steps" in capsys.readouterr().out
