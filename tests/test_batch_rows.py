"""`data.rows 0`: rows that follow from the log, one value for all runs of a plan, and warnings of runs too short."""

from __future__ import annotations

import dataclasses

import pytest

from experiments.cli import dryrun
from experiments.plans import PLANS
from sessionrec_jax.config.rules import doubts
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.batches import Packer, shape_of, train_windows
from sessionrec_jax.data.resolve import resolve, without_facts_of_log
from sessionrec_jax.errors import InputError
from sessionrec_jax.row import identity
from sessionrec_jax.training.loop import train

TINY = {"data.sessions_per_row": 8, "model.width": 8, "model.layers": 1, "model.id_width": 8, "model.side_width": 4}


def steps_of_epoch(config: Config, log) -> int:
    return len(Packer(train_windows(config, log), shape_of(config, 1), 1.0, config.train.seed))


@pytest.mark.parametrize("paradigm", ["nspp", "nipp", "nipp_plus"])
@pytest.mark.parametrize("settings", [{}, {"data.window": 2}, {"data.items_per_row": 96}, {"data.users": 40}])
def test_an_epoch_has_enough_steps(log, paradigm, settings):
    alpha = 0.0 if paradigm == "nipp" else 1.0
    asked = replace(Config(), TINY | settings | {"paradigm": paradigm, "loss.alpha": alpha})
    config = resolve(asked, log)
    rows = config.data.rows
    assert rows & (rows - 1) == 0
    assert 1 <= rows <= 32
    assert config.data.rows_auto
    steps = steps_of_epoch(config, log)
    assert steps >= 64 or rows == 1
    assert rows == 32 or steps < 2 * 64 * 1.2  # no smaller than it has to be
    assert resolve(config, log) == config


def test_a_log_too_small_for_that_has_batches_of_one_row(log):
    assert resolve(replace(Config(), {"data.users": 4}), log).data.rows == 1


def test_rows_that_are_given_stay(log):
    config = resolve(replace(Config(), {"data.rows": 24}), log)
    assert (config.data.rows, config.data.rows_auto) == (24, False)


def test_the_run_is_named_by_its_rows_and_not_by_their_origin(log):
    chosen = resolve(replace(Config(), TINY), log)
    given = resolve(replace(Config(), TINY | {"data.rows": chosen.data.rows}), log)
    assert run_id(chosen) == run_id(given)
    assert identity(chosen, "train")["batch_rows"] == chosen.data.rows


def test_another_log_chooses_again(log):
    chosen = resolve(replace(Config(), TINY), log)
    assert without_facts_of_log(chosen).data == dataclasses.replace(
        Config().data, path=str(log.path), sessions_per_row=8
    )
    given = resolve(replace(Config(), TINY | {"data.rows": 2}), log)
    assert without_facts_of_log(given).data.rows == 2


def test_rows_of_the_log_that_do_not_spread_say_so(log):
    config = resolve(replace(Config(), {"data.users": 4}), log)
    with pytest.raises(
        InputError, match=r"rows 1 \(chosen automatically.* over 8 devices; .* such as 8, or --mesh data=1"
    ):
        shape_of(config, 8)


def test_rows_are_the_same_on_any_number_of_devices(log):
    """So a run goes on on others: its folder takes it, because the id is the same."""
    one, two = (resolve(replace(Config(), TINY | {"mesh.data": devices}), log) for devices in (1, 2))
    assert one.data == two.data
    assert run_id(one) == run_id(two)


# Plans.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grid", {}),
        ("history", {}),
        ("isoflop", {"sizes": ("xxs", "xs"), "epochs": 8.0, "budgets": (4e8, 2e8)}),
        ("catalogue", {}),
        ("paradigm", {"encoders": ("transformer",), "seeds": (0,)}),
        ("ablation", {"tables": ("history",), "seeds": (0,)}),
    ],
)
def test_all_runs_of_a_plan_have_the_rows_of_its_smallest_data(log, wide_log, name, options):
    options |= {"logs": (wide_log.path,)} if name == "catalogue" else {}
    base = replace(Config(), TINY | {"data.path": str(log.path)})
    configs = PLANS.find(name)(**options).lay_out(base, log).configs
    logs = {log.fingerprint: log, wide_log.fingerprint: wide_log}
    asked = [replace(config, {"data.rows": 0}) for config in configs]
    own = {resolve(config, logs[config.data.fingerprint]).data.rows for config in asked}
    (rows,) = {config.data.rows for config in configs}
    assert rows == min(own)
    assert all(config.data.rows_auto for config in configs)


def test_a_plan_keeps_rows_that_are_given(log):
    base = replace(Config(), TINY | {"data.path": str(log.path), "data.rows": 4})
    assert {config.data.rows for config in PLANS.find("grid")().lay_out(base, log).configs} == {4}


# Warnings.


@pytest.mark.parametrize(
    ("settings", "steps", "parts"),
    [
        ({}, 1, ["takes 1 optimizer steps: fewer than 100", "and its warm-up is no full step", "raise --train.epochs"]),
        ({"data.rows": 8}, 99, ["fewer than 100", "lower --data.rows (now 8) or raise --train.epochs (now 8)"]),
        ({"optim.warmup_fraction": 0.001}, 500, ["takes 500 optimizer steps: its warm-up is no full step"]),
    ],
)
def test_a_run_that_can_hardly_learn_says_so(settings, steps, parts):
    doubt = doubts(replace(Config(), {"data.rows": 1} | settings), steps)
    assert all(part in doubt for part in parts), doubt


@pytest.mark.parametrize(("settings", "steps"), [({}, 100), ({"optim.warmup_fraction": 0.0}, 200)])
def test_a_run_that_can_learn_says_nothing(settings, steps):
    assert doubts(replace(Config(), settings), steps) is None


def test_training_warns(config, log, tmp_path, capsys):
    train(replace(config, {"train.epochs": 0.1}), log, tmp_path / "run")
    assert "warning: the run takes" in capsys.readouterr().err


def test_a_dry_run_warns_of_its_shortest_run(capsys):
    configs = [replace(Config(), {"data.rows": 1, "train.epochs": epochs}) for epochs in (1.0, 2.0, 4.0)]
    dryrun.warn_of_short_runs(configs, [{"steps": steps} for steps in (120, 60, 30)], "--epochs")
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 runs can hardly learn. Of the shortest: the run takes 30 optimizer steps" in said
    assert "raise --epochs (now 4)" in said
    dryrun.warn_of_short_runs(configs, [{"steps": 120}] * 3, "--epochs")
    assert capsys.readouterr().err == ""
