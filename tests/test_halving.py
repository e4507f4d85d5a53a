"""Halving drops the worse learning rates, and changes no bit of the runs that it keeps."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os

import jax
import pytest
from onestep import assert_same_bits
from sweeps import TIMES, rows

from experiments.__main__ import main
from experiments.plans import rates
from experiments.plans.grid import Plan
from experiments.plans.learning_rate import Plan as LearningRatePlan
from experiments.sweep import halving, sweep_folder, worker
from experiments.sweep.lease import Leases
from experiments.sweep.worker_options import WorkerOptions
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.resolve import without_facts_of_log
from sessionrec_jax.errors import InputError
from sessionrec_jax.row import run
from sessionrec_jax.row_columns import DROPPED, EVERY_ROW
from sessionrec_jax.runfolder.files import VALIDATED, read_json, write_json
from sessionrec_jax.training.checkpoint import load, steps_in
from sessionrec_jax.training.loop import train
from sessionrec_jax.training.step import initial_state

OBJECTIVES = {0.001: 3.0, 0.002: 2.0, 0.004: 1.0, 0.008: 2.5, 0.016: 4.0}
"""Validation objectives of `scripted`: rates of a cell with seeds, worst first, are .016, .001, .008, .002, .004."""
KEPT = {0.002, 0.004}


@pytest.fixture(scope="module")
def tiny(config):
    return replace(config, {"data.users": 40, "train.epochs": 1.0, "data.eval_users": 20, "train.log_every_steps": 5})


# --- one run ---------------------------------------------------------------------------------------------------------


def test_a_run_that_stops_at_its_parts_is_the_uninterrupted_run(tiny, log, tmp_path):
    whole = run(tiny, tmp_path / "whole", "grid", quiet=True)
    found = [run(tiny, tmp_path / "parts", "grid", quiet=True, part=part) for part in halving.PARTS]
    assert read_json(tmp_path / "parts" / VALIDATED) == dict(zip(map(str, halving.PARTS), found, strict=True))
    assert [each["step"] for each in found] == [round(part * whole["steps"]) for part in halving.PARTS]
    assert found[0]["flops_spent"] < found[1]["flops_spent"] < whole["flops_train"]
    assert not (tmp_path / "parts" / "row.json").exists()
    row = run(tiny, tmp_path / "parts", "grid", quiet=True)
    own = ("validation_objective", "loss_nats_per_item", *(name for name in whole if name not in TIMES))
    assert {name: row[name] for name in own} == {name: whole[name] for name in own}
    like = train(tiny, log, tmp_path / "like", quiet=True)
    assert_same_bits(*(last_params(tmp_path / name, like) for name in ("whole", "parts")))
    lines = [losses(tmp_path / name) for name in ("whole", "parts")]
    assert lines[0] == lines[1]  # also the mean over the steps before and after a stop


def last_params(run_dir, model):
    folder = run_dir / "checkpoints"
    state = initial_state(model.config, model.spec, model.catalogue, model.mesh)
    return jax.device_get(load(folder, steps_in(folder)[-1], state)[0].params)


def losses(run_dir) -> list[tuple]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        tuple(line[name] for name in ("step", "steps", "retrieval_nats_per_item", "learning_rate")) for line in lines
    ]


def test_a_part_that_is_done_is_not_trained_again(tiny, tmp_path):
    """A worker may die between the checkpoint and the validation."""
    first = run(tiny, tmp_path / "run", "grid", quiet=True, part=0.25)
    (tmp_path / "run" / VALIDATED).unlink()
    assert run(tiny, tmp_path / "run", "grid", quiet=True, part=0.25) == first


# --- the decision ----------------------------------------------------------------------------------------------------


def cell_of(seeds=(0,), tried=tuple(OBJECTIVES)) -> dict[str, Config]:
    rule = {"optim.learning_rate_rule": "halving"}
    made = [
        replace(Config(), rule | {"optim.learning_rate_peak": rate, "train.seed": seed})
        for rate, seed in itertools.product(tried, seeds)
    ]
    return {run_id(config): config for config in made}


def scripted(config, run_dir, plan, *, stop, write, part=1.0):
    """A run that trains nothing: its validations are OBJECTIVES. The steps are 100."""
    del stop, plan
    objective = OBJECTIVES[config.optim.learning_rate_peak]
    if part == 1:
        write(run_dir / "row.json", {"run_id": run_id(config), "status": "done"})
        return
    path = run_dir / VALIDATED
    before = read_json(path) if path.exists() else {}
    assert str(part) not in before  # no part is trained twice
    found = {"step": round(100 * part), "steps": 100, "flops_spent": 1e6 * part, "validation_objective": objective}
    write(path, before | {str(part): found})


def begun(out, configs: dict[str, Config]):
    sweep_folder.begin(out, "grid", list(configs.values()), {"report.json": {}})
    return out


def statuses(out, configs) -> dict[tuple[float, int], str]:
    found = {}
    for name, row in rows(out).items():
        config = configs[name]
        found[config.optim.learning_rate_peak, config.train.seed] = row["status"]
    return found


def expected(seeds=(0,)) -> dict[tuple[float, int], str]:
    return {(rate, seed): "done" if rate in KEPT else "dropped" for rate in OBJECTIVES for seed in seeds}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_better_half_goes_on_and_a_dropped_run_says_what_it_cost(tmp_path, seeds):
    configs = cell_of(seeds)
    worker.work(begun(tmp_path, configs), scripted)
    assert statuses(tmp_path, configs) == expected(seeds)
    parts = {0.016: 0.25, 0.001: 0.25, 0.008: 0.5}  # five rates, then three, then two
    names = {column.name for column in (*EVERY_ROW, *DROPPED)} | {"reason"}
    for name, row in rows(tmp_path).items():
        if row["status"] == "dropped":
            part = parts[configs[name].optim.learning_rate_peak]
            assert row["steps_taken"] == 100 * part
            assert (row["flops_spent"], row["flops_saved"]) == (1e6 * part, pytest.approx(1e6 * (1 - part)))
            assert row["learning_rate_rule"] == "halving"
            assert names - set(TIMES) == row.keys() - set(TIMES)
    saved = halving.saved_flops(rows(tmp_path).values())
    assert saved == pytest.approx(halving.expected_savings(list(configs.values()), [1e6] * len(configs)))
    assert saved == pytest.approx(2e6 * len(seeds))  # 2 of 5 at a quarter, 1 of 3 at a half


def test_a_rate_is_judged_by_the_mean_over_its_seeds(tmp_path, monkeypatch):
    """One bad seed does not drop a rate from its seed alone."""
    configs = cell_of(seeds=(0, 1), tried=(0.001, 0.002, 0.004))
    worst = {(0.001, 0): 1.0, (0.001, 1): 9.0, (0.002, 0): 2.0, (0.002, 1): 2.0, (0.004, 0): 3.0, (0.004, 1): 3.0}

    def by_seed(config, run_dir, plan, *, stop, write, part=1.0):
        monkeypatch.setitem(
            OBJECTIVES, config.optim.learning_rate_peak, worst[config.optim.learning_rate_peak, config.train.seed]
        )
        scripted(config, run_dir, plan, stop=stop, write=write, part=part)

    worker.work(begun(tmp_path, configs), by_seed)
    assert {rate for (rate, _), status in statuses(tmp_path, configs).items() if status == "dropped"} == {0.001}


def test_a_diverged_run_is_dropped_first_and_nobody_waits_for_it(tmp_path):
    configs = cell_of()

    def diverging(config, run_dir, plan, *, stop, write, part=1.0):
        if config.optim.learning_rate_peak == 0.004:
            write(run_dir / "row.json", {"run_id": run_id(config), "status": "diverged", "reason": "nan"})
        else:
            scripted(config, run_dir, plan, stop=stop, write=write, part=part)

    worker.work(begun(tmp_path, configs), diverging)
    found = statuses(tmp_path, configs)
    assert found[0.004, 0] == "diverged"
    assert {rate for (rate, _), status in found.items() if status == "done"} == {0.002, 0.008}


def test_a_run_waits_until_its_whole_cell_has_validated(tmp_path):
    configs = cell_of(tried=(0.001, 0.002, 0.004))
    begun(tmp_path, configs)
    first, second, third = configs
    for name in (first, second):
        worker.work(tmp_path, scripted, only=name, waits=False)
    assert halving.next_of(tmp_path, configs, first) == halving.Next(waits=True)
    assert halving.next_of(tmp_path, configs, third) == halving.Next(0.25)
    sweep_folder.run_dir(tmp_path, third).mkdir(parents=True)
    scripted(configs[third], sweep_folder.run_dir(tmp_path, third), "", stop=None, write=write_json, part=0.25)
    assert halving.next_of(tmp_path, configs, first).dropped.endswith("0.002, 0.004 validated better")
    assert halving.next_of(tmp_path, configs, third) == halving.Next()  # two rates stay, so it stops no more


def test_runs_of_another_cell_do_not_wait_for_it(tmp_path):
    configs = cell_of() | {
        run_id(other): other for other in (replace(each, {"model.width": 32}) for each in cell_of().values())
    }
    begun(tmp_path, configs)
    narrow = [name for name, config in configs.items() if config.model.width != 32]
    for _ in range(3):
        for name in narrow:
            worker.work(tmp_path, scripted, only=name, waits=False)
    assert statuses(tmp_path, configs) == expected()


def dying(config, run_dir, plan, *, stop, write, part=1.0):
    """Dies at its first attempt at each part, before or after the part is done."""
    mark = run_dir / f"died-{part}"
    if not mark.exists():
        mark.touch()
        if int(run_id(config), 16) % 2:
            scripted(config, run_dir, plan, stop=stop, write=write, part=part)
        os._exit(9)
    scripted(config, run_dir, plan, stop=stop, write=write, part=part)


@pytest.mark.slow
def test_killed_workers_leave_the_decisions_to_others(tmp_path):
    configs = cell_of(seeds=(0, 1))
    begun(tmp_path, configs)
    context = multiprocessing.get_context("forkserver")  # each process is forked before jax has threads
    context.set_forkserver_preload([__name__])
    while len(rows(tmp_path)) < len(configs):
        several = [
            context.Process(target=worker.work, args=(tmp_path, dying, WorkerOptions(retries=9))) for _ in range(3)
        ]
        for each in several:
            each.start()
        for each in several:
            each.join()
    assert statuses(tmp_path, configs) == expected((0, 1))
    leases = Leases(tmp_path)
    assert sum(leases.past(*each).deaths for each in leases.newest().items()) > 0


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_with_halving_trains_its_runs_side_by_side(tiny, log, tmp_path):
    """In one program, at each part, and a kept run has the loss of the run alone."""
    plan = Plan(
        sizes=("8x1x1",), users=(40,), epochs=(1.0,), learning_rates=(1e-3, 1e-2, 1e-1), halving=True, law="none"
    )
    layout = plan.lay_out(without_facts_of_log(tiny), log)
    sweep_folder.begin(tmp_path / "sweep", "grid", layout.configs, layout.files)
    worker.work(tmp_path / "sweep", options=WorkerOptions(together=3))
    found = rows(tmp_path / "sweep")
    assert sorted(row["status"] for row in found.values()) == ["done", "done", "dropped"]
    assert {row["learning_rate_rule"] for row in found.values()} == {"halving"}
    kept = next(config for config in layout.configs if found[run_id(config)]["status"] == "done")
    alone = run(replace(kept, {"optim.learning_rate_rule": "tuned"}), tmp_path / "alone", "grid", quiet=True)
    assert found[run_id(kept)]["loss_nats_per_item"] == pytest.approx(alone["loss_nats_per_item"], rel=1e-5)
    assert main(["status", str(tmp_path / "sweep")]) == 0


@pytest.mark.parametrize("plan", ["grid", "learning_rate", "paradigm", "isoflop"])
def test_halving_with_one_rate_is_refused(plan, log, tmp_path, capsys):
    argv = ["sweep", plan, "--data", str(log.path), "--out", str(tmp_path / "sweep"), "--halving"]
    assert main([*argv, "--learning-rates", "1e-2"]) == 2
    assert "--halving drops learning rates, but there is only one, 0.01; give several" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_halving_of_rates_that_were_found_is_refused(log, tmp_path):
    with pytest.raises(InputError, match="--learning-rates-from gives each size one"):
        Plan(halving=True, learning_rates_from=tmp_path / "rates.json").lay_out(Config(), log)


def test_the_best_rate_among_the_kept_ones_may_not_be_at_an_end_of_the_tried_ones():
    assert rates.best("s", [(0.002, 2.0), (0.004, 1.0)], dropped=[0.001, 0.008]) == 0.004
    with pytest.raises(InputError, match=r"is at 0.004, an end of the rates.*add 0.008"):
        rates.best("s", [(0.002, 2.0), (0.004, 1.0)], dropped=[0.001])


def test_the_plan_learning_rate_concludes_from_the_kept_rates(log, tmp_path):
    plan = LearningRatePlan(sizes=("8x1x1",), learning_rates=tuple(OBJECTIVES), halving=True)
    layout = plan.lay_out(Config(), log)
    sweep_folder.begin(tmp_path, "learning_rate", layout.configs, layout.files)

    def done(config, run_dir, plan, *, stop, write, part=1.0):
        scripted(config, run_dir, plan, stop=stop, write=write, part=part)
        if part == 1:
            objective = OBJECTIVES[config.optim.learning_rate_peak]
            write(run_dir / "row.json", {"run_id": run_id(config), "status": "done", "validation_objective": objective})

    worker.work(tmp_path, done)
    plan.conclude(tmp_path, sweep_folder.states(tmp_path)[1])
    assert read_json(tmp_path / rates.FILE)["learning_rate_peak"] == {"xxs": 0.004}
