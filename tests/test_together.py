"""Runs side by side in one program: each is the run that it would be alone, whoever its neighbours are."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from onestep import assert_same_bits, by_name

from experiments.__main__ import main
from experiments.sweep import sweep_folder, worker
from experiments.sweep.lease import Leases
from sessionrec_jax import row
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stopped
from sessionrec_jax.serving.load import restore
from sessionrec_jax.training.checkpoint import newest_whole
from sessionrec_jax.training.loop import train, train_together

WILD = {"optim.learning_rate_peak": 1e3}
LOSSES = ("retrieval_nats_per_item", "rank_nats_per_term", "validation_objective")


@pytest.fixture(scope="module")
def configs(config):
    """Four runs of one program: other seeds, rates, a prior, a longer warm-up, a cooldown."""
    base = replace(config, {"train.epochs": 2.0, "train.log_every_steps": 1, "model.layers": 0})
    return [replace(base, {"train.seed": seed} | change) for seed, change in enumerate((
        {"optim.learning_rate_peak": 5e-3},
        {"optim.table_prior": 10.0, "train.seed": 0},
        {"optim.warmup_fraction": 0.5, "optim.schedule": "cooldown"},
        {"optim.learning_rate_peak": 2e-2},
    ))]  # fmt: skip


@pytest.fixture(scope="module")
def alone(configs, log, tmp_path_factory):
    """Each run trained by itself: the result of train, and the folder."""
    folders = [tmp_path_factory.mktemp("alone") / "run" for _ in configs]
    return [(train(config, log, folder, quiet=True), folder) for config, folder in zip(configs, folders, strict=True)]


@pytest.fixture(scope="module")
def together(configs, log, tmp_path_factory):
    """The first three trained side by side."""
    folders = [tmp_path_factory.mktemp("together") / "run" for _ in range(3)]
    return list(zip(side_by_side(configs[:3], folders, log), folders, strict=True))


def side_by_side(configs, folders, log, **how):
    return train_together(list(zip(configs, folders, strict=True)), log, quiet=True, **how)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses_of(folder: Path) -> list[tuple]:
    return [tuple(line.get(name, 0.0) for name in ("step", "learning_rate", *LOSSES)) for line in lines_of(folder)]


def assert_same_run(one, other, rel: float = 1e-4) -> None:
    """To rounding: every line of the log, the parameters, what was seen; (what train returned, folder) each."""
    (trained, folder), (wanted, wanted_folder) = one, other
    lines, wanted_lines = losses_of(folder), losses_of(wanted_folder)
    assert [line[:2] for line in lines] == [line[:2] for line in wanted_lines]
    for line, wanted_line in zip(lines, wanted_lines, strict=True):
        assert line[2:] == pytest.approx(wanted_line[2:], rel=rel)
    for name, leaf in by_name(trained.params).items():
        np.testing.assert_allclose(leaf, by_name(wanted.params)[name], atol=2e-3, err_msg=name)
    for name in ("target_sessions", "target_items", "items", "item_slots"):
        assert getattr(trained.history.counters, name) == getattr(wanted.history.counters, name), name
    assert (trained.history.steps, trained.step) == (wanted.history.steps, wanted.step)


# As alone.


def test_runs_together_are_those_runs_alone(together, alone):
    steps = [trained.history.steps for trained, _ in together]
    assert min(steps) > 15
    for one, other in zip(together, alone[:3], strict=True):
        assert_same_run(one, other)
        assert (one[0].history.counters.runs_together, other[0].history.counters.runs_together) == (3, 1)
    assert losses_of(together[0][1]) != losses_of(together[1][1])


def test_a_member_s_folder_is_that_of_a_run_alone(together, alone):
    for (trained, folder), (_, wanted) in zip(together, alone[:3], strict=True):
        assert {path.name for path in folder.iterdir()} == {path.name for path in wanted.iterdir()}
        newest = trained.history.steps, []
        assert newest_whole(folder / "checkpoints") == newest_whole(wanted / "checkpoints") == newest
        assert_same_bits(restore(folder).params, trained.params)


@pytest.mark.slow
def test_the_other_ways_to_step_are_those_of_a_run_alone(config, log, tmp_path):
    """Sparse updates, dropout and parts, on two devices, the batch spread over them."""
    change = {"optim.table_update": "sparse", "model.dropout": 0.1, "train.microbatches": 2, "mesh.data": 2}
    both = [replace(config, change | {"train.log_every_steps": 1, "train.seed": seed}) for seed in (3, 4)]
    trained = side_by_side(both, [tmp_path / "a", tmp_path / "b"], log)[1]
    wanted = train(both[1], log, tmp_path / "alone", quiet=True)
    assert_same_run((trained, tmp_path / "b"), (wanted, tmp_path / "alone"))


# Neighbours.


def test_a_neighbour_s_seed_rate_and_divergence_change_no_bit_of_a_run(configs, together, alone, log, tmp_path):
    reported = []
    group = [configs[0], replace(configs[1], WILD), configs[3]]
    folders = [tmp_path / str(place) for place in range(3)]
    trained = side_by_side(group, folders, log, diverged=lambda place, error: reported.append((place, error.step)))
    assert_same_bits(trained[0].params, together[0][0].params)
    assert losses_of(folders[0]) == losses_of(together[0][1])
    assert_same_run((trained[2], folders[2]), alone[3])
    assert trained[1] is None
    ((place, step),) = reported
    assert place == 1
    assert lines_of(folders[1])[-1]["step"] == step - 1


# Killed and stopped.


def die_at(step: int):
    """A Stop that looks to the loop like the end of the process."""
    looks = itertools.count()

    def look() -> int:
        if next(looks) >= step:
            raise ConnectionAbortedError
        return 0

    return nullcontext(look)


def stop_at(step: int):
    """A Stop that asks to stop once the loop has looked `step` times."""
    looks = itertools.count()
    return nullcontext(lambda: signal.SIGTERM if next(looks) >= step else 0)


@pytest.mark.slow
def test_members_go_on_alone_or_with_others_and_a_run_alone_joins(configs, alone, log, tmp_path):
    folders = [tmp_path / str(place) for place in range(4)]
    saving = [replace(config, {"train.checkpoint_every_seconds": 0.01}) for config in configs[:3]]
    with pytest.raises(ConnectionAbortedError):
        side_by_side(saving, folders[:3], log, stop=die_at(6))
    assert all(0 < newest_whole(folder / "checkpoints")[0] < 6 for folder in folders[:3])
    assert [lines_of(folder)[-1]["step"] for folder in folders[:3]] == [4, 4, 4]  # past the checkpoint, maybe
    with pytest.raises(Stopped, match=r"by SIGTERM at step (\d) of \d+, at step \1 of \d+, at step \1 of \d+, saved"):
        side_by_side(configs[:3], folders[:3], log, stop=stop_at(4))
    with pytest.raises(Stopped, match="at step 4 of"):
        train(configs[3], log, folders[3], quiet=True, stop=stop_at(4))
    trained = [train(configs[0], log, folders[0], quiet=True), *side_by_side(configs[1:], folders[1:], log)]
    for of_run in zip(trained, folders, strict=True):
        assert_same_run(of_run, alone[folders.index(of_run[1])])
    assert [each.history.counters.runs_together for each in trained] == [3, 3, 3, 3]
    assert_same_bits(
        side_by_side(configs[1:], folders[1:], log)[2].params, trained[3].params
    )  # they have ended: nothing moves


# Refused.


def test_runs_of_several_programs_are_refused(configs, log, tmp_path):
    other = replace(configs[1], {"model.width": 16})
    with pytest.raises(InputError, match="may differ in seed, learning rate and table prior alone"):
        side_by_side([configs[0], other], [tmp_path / "a", tmp_path / "b"], log)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["sweep", "seeds", "--data", "nowhere", "--out", "here"], ["worker", "here"]])
@pytest.mark.parametrize(("given", "message"), [("0", "--together 0; wanted at least 1"), ("two", "two")])
def test_a_wrong_number_is_refused(command, given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--together", given]) == 2
    assert message in capsys.readouterr().err


# In a sweep.


def rows(sweep_dir: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep_dir.glob("runs/*/row.json")}


def attempts(sweep_dir: Path) -> list[int]:
    """That the runs have used up."""
    leases = Leases(sweep_dir)
    return [leases.past(*run).attempts for run in leases.newest().items()]


def alone_at_once(config, run_dir, plan, *, stop, write):
    write(run_dir / "row.json", {"run_id": run_id(config), "status": "done", "alone": True})


@pytest.mark.slow  # the runs of a group alone are in a quick test
def test_a_sweep_s_groups_end_with_the_rows_of_single_runs(configs, log, tmp_path):
    """With validations, and the parameters of the best of them."""
    watched = {"train.validations": 2, "train.evaluated": "best", "data.eval_users": 20}
    group = [replace(of, watched | change) for of, change in zip(configs[:3], ({}, WILD, {}), strict=True)]
    other, sweep_dir = replace(group[0], {"model.width": 16}), tmp_path / "sweep"
    sweep_folder.begin(sweep_dir, "seeds", [*group, other], {})
    worker.work(sweep_dir, alone_at_once, worker.WorkerOptions(together=8))
    found = [rows(sweep_dir)[run_id(config)] for config in (*group, other)]
    assert [of["status"] for of in found] == ["done", "diverged", "done", "done"]
    assert [of.get("runs_together") for of in found] == [3, None, 3, None]
    assert found[3]["alone"]
    assert "loss_nats_per_item" not in found[1]
    assert set(attempts(sweep_dir)) == {0}
    assert "together with others" in (sweep_dir / "runs" / run_id(group[2]) / "log.txt").read_text()
    wanted = row.run(group[2], tmp_path / "alone", "seeds", quiet=True)
    assert found[2].keys() == wanted.keys()
    for name in ("loss_nats_per_item", "rank_auc", "validation_objective", "best_step", "flops_train", "steps"):
        assert found[2][name] == pytest.approx(wanted[name], rel=1e-3), name


def test_what_fails_together_is_done_alone_and_costs_no_attempt(configs, tmp_path, monkeypatch, capfd):
    sweep_folder.begin(tmp_path, "seeds", configs, {})
    asked = []

    def fails(jobs, plan, *, quiet, stop):
        asked.append(len(jobs))
        raise MemoryError("the device is full")

    monkeypatch.setattr(row, "run_together", fails)
    worker.work(tmp_path, alone_at_once, worker.WorkerOptions(retries=0, together=3))
    assert asked == [3]  # the fourth had nobody left
    assert all(of["alone"] for of in rows(tmp_path).values())
    assert len(rows(tmp_path)) == 4
    assert set(attempts(tmp_path)) == {0}
    assert "3 runs failed together, each is now done alone: MemoryError: the device is full" in capfd.readouterr().err


def test_a_run_on_its_last_attempt_is_alone_and_one_that_is_held_is_left(configs, tmp_path, monkeypatch):
    sweep_folder.begin(tmp_path, "seeds", configs, {})
    leases, names = Leases(tmp_path), [run_id(config) for config in configs]
    for died in range(2):
        with leases.take(names[1], died, lambda: None):
            pass
    groups = []

    def at_once(jobs, plan, *, quiet, stop):
        groups.append([names.index(job.run_dir.name) for job in jobs])
        for job in jobs:
            job.write(job.run_dir / "row.json", {"status": "done", "alone": False})
        held.end("released")

    monkeypatch.setattr(row, "run_together", at_once)
    with leases.take(names[2], 0, lambda: None) as held:
        worker.work(tmp_path, alone_at_once, worker.WorkerOptions(retries=2, together=4))
    assert groups == [[0, 3]]
    assert [rows(tmp_path)[name]["alone"] for name in names] == [False, True, True, False]


def test_the_row_of_a_run_that_another_worker_has_taken_is_not_written(configs, tmp_path, monkeypatch):
    sweep_folder.begin(tmp_path, "seeds", configs[:3], {})
    names = [run_id(config) for config in configs[:3]]

    def taken_over(jobs, plan, *, quiet, stop):
        shutil.copy(tmp_path / "leases" / f"{names[0]}.1", tmp_path / "leases" / f"{names[0]}.2")
        for job in jobs:
            job.write(job.run_dir / "row.json", {"status": "done", "alone": False})

    monkeypatch.setattr(row, "run_together", taken_over)
    worker.work(tmp_path, alone_at_once, worker.WorkerOptions(together=3))
    assert [rows(tmp_path)[name]["alone"] for name in names] == [True, False, False]
