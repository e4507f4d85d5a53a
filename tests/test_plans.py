"""Plans: each lays out runs that can carry its law and cost what they say, or is refused with the runs to add."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from experiments.cli import dryrun
from experiments.plans import PLANS, rates, register_plan
from experiments.plans.identifiable import judge
from experiments.plans.scaling_plan import ScalingPlan, around_values
from experiments.plans.sizes import around, size_of, sized
from experiments.plans.theory import _counting_curve
from experiments.sweep.cost import CostEstimate, exact_steps
from experiments.sweep.lease import Past
from experiments.sweep.probe import StepCost, _measure
from experiments.sweep.sweep_folder import RunState
from scaling.errors import Refusal
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id, to_dict
from sessionrec_jax.data.batches import Packer, shape_of, train_catalogue, train_windows
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.synthetic.known import known_truth
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.row import flops_train, identity
from sessionrec_jax.training.optim import cooldown_start

SMALL = {
    "data.rows": 1, "data.sessions_per_row": 32, "model.id_width": 8, "model.side_width": 4, "loss.negatives": 32,
    "mesh.data": 1,
}  # fmt: skip
OPTIONS: dict[str, dict] = {
    "isoflop": {"epochs": 32.0, "sizes": ("xxs", "xs", "s"), "budgets": (4e9, 2e9, 1e9)},  # a small log needs help
}


def plan_of(name: str, **options):
    return PLANS.find(name)(**OPTIONS.get(name, {}) | options)


@pytest.fixture(scope="module")
def base(log):
    return replace(Config(), SMALL | {"data.path": str(log.path)})


def judged(plan, base, log):
    layout = plan.lay_out(base, log)
    more = lambda: plan.wider(base, log).lay_out(base, log).configs  # noqa: E731
    return judge(layout.files["report.json"], layout.configs, CostEstimate(), more, floor_is_known=True)


LAID_OUT = [
    # The Bayes learner counts the two million sessions of fresh_data for each of several layouts.
    pytest.param(name, marks=pytest.mark.slow if name == "fresh_data" else ())
    for name in PLANS
    if name not in ("paradigm", "ablation")
]


@pytest.mark.parametrize("name", LAID_OUT)
def test_a_plan_lays_out_each_run_once_and_its_defaults_carry_its_law(name, log, wide_log, base):
    plan = plan_of(name, **({"logs": (wide_log.path,)} if name == "catalogue" else {}))
    layout = plan.lay_out(base, log)
    assert len({run_id(config) for config in layout.configs}) == len(layout.configs) > 1
    assert all(config.data.fingerprint and config.data.items_per_row for config in layout.configs)
    report = layout.files["report.json"]
    has_law = "law" in {field.name for field in dataclasses.fields(plan)}
    assert ("law" in report) == has_law
    if has_law:
        assert judged(plan, base, log).law == report["law"]
        without = plan_of(name, law="none").lay_out(base, log)
        assert "law" not in without.files["report.json"]
        assert without.configs == layout.configs


def test_a_plan_whose_runs_score_the_shown_alone_is_read_by_the_rank_loss(log, base):
    layout = plan_of("grid").lay_out(replace(base, {"data.eval_candidates": "shown"}), log)
    report = layout.files["report.json"]
    assert report["loss"] == "rank_paired_nats_per_exposure"  # the log's truth is known
    assert report["baseline"].startswith("rank_")
    assert report["floor_column"].startswith("rank_")
    theory = layout.files["theory.json"]
    truth = known_truth(log)
    assert (theory["exponent"], theory["floor"]) == (truth.data_exponent, truth.rank_floor_nats_per_exposure)
    sizes, excess = zip(*theory["curve"], strict=True)
    cost = CostEstimate()
    assert set(sizes) == {cost.row(config)["sessions_unique"] for config in layout.configs}
    assert list(excess) == sorted(excess, reverse=True)


def test_the_counting_curve_of_the_whole_log_equals_the_curve_of_its_exposure_table(log, base):
    """All users, held-out ones too: one way from the arrays that training reads, the other from the table."""
    truth = known_truth(log)
    process = truth.process
    table = process.exposures(0, process.users)
    anchors = table.filter(feedback="anchor").select("user_id", pl.col("session_id") + 1, anchor="item_id")
    shown = table.filter(pl.col("clicked").is_not_null()).join(anchors, on=["user_id", "session_id"])
    excess = truth.bayes_excess_after(*(shown[name].to_numpy() for name in ("anchor", "item_id", "clicked")))
    everyone = np.arange(log.arrays().users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.plans.theory.train_users", lambda config, prepared: everyone)
        [[sessions, found]] = _counting_curve([resolve(base, log)], log, truth)
    assert found == pytest.approx(excess)
    assert sessions < len(shown)


def test_the_truth_gives_alpha_for_the_body_size_and_nothing_for_other_axes(log, base):
    truth = known_truth(log)
    digits_only = replace(base, {"model.id_width": 0})
    of_size = plan_of("unlimited_data").lay_out(digits_only, log).files["theory.json"]
    assert (of_size["exponent"], of_size["floor"]) == (truth.process.alpha, truth.retrieval_floor_nats_per_item)
    for name in ("unlimited_data", "epochs"):  # with an ID table that stores the facts, or of another axis
        assert "theory.json" not in plan_of(name).lay_out(base, log).files


@dataclasses.dataclass(frozen=True)
class ToyPlan(ScalingPlan):
    """Two batch sizes."""

    rows: tuple[int, ...] = (4, 8)

    def changes(self, base, users):
        return [{"data.rows": rows} for rows in self.rows]


def test_a_plan_from_outside_this_repository_is_run_by_name(monkeypatch, capsys):
    monkeypatch.setattr(PLANS, "_added", {})
    register_plan("toy", ToyPlan)
    assert [config.data.rows for config in PLANS.find("toy")().configs(Config(), 100)] == [4, 8]
    assert main(["sweep", "toy", "--help"]) == 0
    assert "--rows" in capsys.readouterr().out
    with pytest.raises(InputError, match="already a plan named 'grid'"):
        register_plan("grid", ToyPlan)


def spent(config: Config, log) -> float:
    """Returns FLOPs by the windows in the rows that the run will read."""
    cut = train_windows(config, log)
    packer = Packer(cut, shape_of(config, 1), config.train.epochs, config.train.seed)
    window_P, _ = packer._rows(0, len(packer) * config.data.rows)
    items, sessions = (int(of_W[window_P].sum()) for of_W in (cut.items_W, cut.last_W - cut.first_W))
    spec = spec_of(config, log, train_catalogue(config, log))
    return flops_train(config, spec, items=items, sessions=sessions, steps=len(packer))


def test_the_runs_of_a_budget_spend_it(log, base):
    plan = plan_of("isoflop", epochs=8.0, budgets=(5e8, 1e9))
    configs = plan.lay_out(base, log).configs
    assert [size_of(config) for config in configs] == 2 * ["xxs", "xs", "s"]
    for config, budget in zip(configs, 3 * [5e8] + 3 * [1e9], strict=True):
        assert spent(config, log) == pytest.approx(budget, rel=0.01)
        assert spent(config, log) == pytest.approx(CostEstimate().row(config)["flops_train"], rel=0.01)
    with pytest.raises(InputError, match=r"size xxs wants .* users for 1e\+12 FLOPs in 4 epochs; the log has"):
        plan_of("isoflop", epochs=4.0, budgets=(1e12,)).lay_out(base, log)
    with pytest.raises(InputError, match=r"takes \d+ steps for 1e\+07 FLOPs"):
        plan_of("isoflop", epochs=4.0, budgets=(1e7,)).lay_out(base, log)


def test_a_plan_of_one_size_is_refused_for_a_law_in_n_with_runs_that_cure_it(log, base):
    plan = plan_of("grid", law="chinchilla", users=(20, 40, 80, 120))
    with pytest.raises(Refusal, match=r"cannot identify chinchilla.*Cured by \d runs more: size") as refused:
        judged(plan, base, log)
    cured = plan_of("grid", law="chinchilla", users=(20, 40, 80, 120), sizes=("xs", "s", "m", "l"))
    assert "size s users" not in str(refused.value).partition("Cured by")[2]
    assert judged(cured, base, log).identifies


def test_the_advised_values_make_a_refused_plan_pass_at_its_own_rates(log, base):
    users = (20, 40, 80)
    plan = plan_of("grid", users=users, sizes=("8x1x1",), learning_rates=(1e-2, 2e-2))
    with pytest.raises(Refusal, match=r"Cured by \d runs more") as refused:
        judged(plan, base, log)
    advice = str(refused.value).partition("Cured by")[2]
    assert "rate" not in advice
    more = tuple(map(int, re.findall(r"users (\d+)", advice)))
    assert more
    assert not set(more) & set(users)
    assert judged(dataclasses.replace(plan, users=(*users, *more)), base, log).identifies


def test_the_shorter_runs_of_a_cooldown_begin_from_the_longest_one_before_their_own_cooldown(log, base):
    plan = plan_of("cooldown", sizes=("xxs", "xs"), seeds=(0, 1), epochs=(0.25, 1.0, 0.5))
    layout = plan.lay_out(base, log)
    trunks = {run_id(config): config for config in layout.configs if not config.train.begins_from}
    assert {(size_of(trunk), trunk.train.seed, trunk.train.epochs) for trunk in trunks.values()} == {
        (size, seed, 1.0) for size in ("xxs", "xs") for seed in (0, 1)
    }
    (warmup_steps,) = {config.optim.warmup_steps for config in layout.configs}
    assert warmup_steps == round(0.05 * min(exact_steps(config, log) for config in layout.configs))
    for branch in layout.configs:
        if branch.train.begins_from:
            trunk = trunks[branch.train.begins_from.partition("/")[0]]
            assert branch.train.steps_shared in trunk.train.checkpoints_at
            assert branch.train.steps_shared == cooldown_start(branch.optim, exact_steps(branch, log))
            assert replace(branch, {"train.epochs": 1.0, "train.begins_from": ""}) == replace(
                trunk, {"train.checkpoints_at": ()}
            )
    d = {config.train.epochs: CostEstimate().row(config)["sessions_unique"] for config in layout.configs}
    assert d[0.25] == pytest.approx(d[0.5] / 2, rel=0.1) == pytest.approx(d[1.0] / 4, rel=0.1)


def arguments(log, out, *more: str) -> list[str]:
    settings = (f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())
    return ["sweep", "grid", "--data", str(log.path), "--out", str(out), *settings, *more]


def test_a_refused_plan_and_a_dry_run_write_nothing(log, tmp_path, capsys, monkeypatch):
    assert main(arguments(log, tmp_path / "sweep", "--users", "20", "40")) == 2
    assert "cannot identify power_floor: power_floor has 2 free parameters" in capsys.readouterr().err
    probed = []

    def probe(config: Config, workers: int) -> StepCost:
        probed.append(size_of(config))
        return StepCost(0.01 * len(probed), 2.0, 2**20 * len(probed), 2**20, "a device")

    monkeypatch.setattr(dryrun, "probe", probe)
    assert main(arguments(log, tmp_path / "sweep", "--sizes", "xxs", "xs", "s", "--dry-run", "--workers", "2")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert probed == ["xxs", "s"]
    assert "10 ms a step" in out
    assert "6 s of compiling 3 programs" in out
    assert "These runs identify power_floor" in out
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_says_what_shared_steps_save(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dryrun, "probe", lambda config, workers: StepCost(0.01, 2.0, 2**20, 2**20, "a device"))
    argv = arguments(log, tmp_path / "sweep", "--sizes", "xxs", "--law", "none", "--epochs", "1", "0.5", "--dry-run")
    assert main(["sweep", "cooldown", *argv[2:]]) == 0
    out = " ".join(capsys.readouterr().out.split())
    total, saved = (
        float(re.search(pattern, out)[1]) for pattern in (r"2 runs: (\S+) FLOPs", r"(\S+) of the FLOPs are")
    )
    assert saved == pytest.approx(0.8 * 0.5 / 1.5 * total, rel=0.05)
    assert "1 run begins from a longer run's checkpoint" in out


@pytest.mark.slow
def test_the_cost_of_a_run_is_measured_on_its_own_step(config, log):
    cost = _measure(config)
    assert 0 < cost.step_seconds < 2
    assert cost.log_bytes > 5 * len(log.arrays().item_N)
    assert cost.step_bytes > 4 * CostEstimate().row(config)["params_total"]


# Learning rates.


@pytest.mark.parametrize("best", [2.1e-3, 4.7e-3])
def test_the_best_rate_is_that_of_a_planted_parabola(best):
    def planted(rate: float) -> float:
        return 2.0 + 0.05 * math.log(rate / best) ** 2

    tried = [7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2]
    assert rates.best("s", [(rate, planted(rate)) for rate in tried]) == pytest.approx(best, rel=2e-3)
    assert rates.best("s", [(r, planted(r)) for r in tried] + [(2.4e-2, None)]) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ([1.0, 2.0, 3.0], "add 0.0005 to --learning-rates"),
        ([3.0, 2.0, 1.0], "add 0.008 to --learning-rates"),
        ([3.0, 2.0, None], "add 0.00283 to --learning-rates"),
        ([None, None, None], "try lower rates than 0.001"),
    ],
)
def test_a_best_rate_at_an_end_is_refused_with_the_rate_to_add(objectives, message):
    with pytest.raises(InputError, match=message):
        rates.best("s", zip((1e-3, 2e-3, 4e-3), objectives, strict=True))


def test_tuned_rates_are_read_by_other_plans_and_their_rows_say_so(log, base, tmp_path):
    tuned = plan_of("learning_rate", sizes=("xs", "s"), learning_rates=(1e-3, 2e-3, 4e-3))
    runs = [
        RunState(run_id(config), to_dict(config), "done", Past(), {"validation_objective": objective})
        for config, objective in zip(tuned.lay_out(base, log).configs, (3.0, 2.0, 3.0, 3.1, 2.0, 2.1), strict=True)
    ]
    assert re.search("xs 0.002 with 1 rows, s 0.00.* with 1 rows", tuned.conclude(tmp_path, runs))
    file = tmp_path / rates.FILE
    found = json.loads(file.read_text())["learning_rate_peak"]
    assert found["xs"] == pytest.approx(2e-3)
    assert 2e-3 < found["s"] < 4e-3
    configs = plan_of("grid", sizes=("xs", "s"), learning_rates_from=file, users=(20, 40)).configs(base, 160)
    assert {(size_of(c), c.optim.learning_rate_peak) for c in configs} == set(found.items())
    assert {identity(c, "grid")["learning_rate_rule"] for c in configs} == {"tuned"}
    alone = plan_of("grid", sizes=("xs",), learning_rates=(2e-3,), users=(20,)).configs(base, 160)
    assert identity(alone[0], "grid")["learning_rate_rule"] == "fixed"
    assert run_id(alone[0]) in {run_id(config) for config in configs}
    for options, settings, message in (
        ({"sizes": ("m",)}, {}, "no rate for the size 'm'"),
        ({"sizes": ("s",)}, {"model.sequence_encoder": "hstu"}, "model.sequence_encoder was transformer and is hstu"),
        ({"sizes": ("s",), "learning_rates": (1e-3,)}, {}, "give one"),
        ({"sizes": ("s",)}, {"data.rows": 2}, "has batches of 1 rows for the size s, but --data.rows is 2; leave"),
    ):
        with pytest.raises(InputError, match=message):
            plan_of("grid", learning_rates_from=file, **options).configs(replace(base, settings), 160)
    runs[0] = dataclasses.replace(runs[0], status="failed", row={})
    with pytest.raises(InputError, match="1 runs failed"):
        tuned.conclude(tmp_path, runs)


def test_rates_and_rows_are_tuned_together_and_read_together(log, base, tmp_path):
    base = replace(base, {"data.rows": 0})
    tuned = plan_of("learning_rate", sizes=("xs", "s"), learning_rates=(1e-3, 2e-3, 4e-3), rows=(2, 4))
    best = {("xs", 2): (2.0, 2e-3), ("xs", 4): (2.1, 1e-3), ("s", 2): (1.9, 4e-3), ("s", 4): (1.8, 2e-3)}

    def planted(config: Config) -> float:
        lowest, rate = best[size_of(config), config.data.rows]
        return lowest + 0.1 * math.log(config.optim.learning_rate_peak / rate) ** 2

    configs = tuned.lay_out(base, log).configs
    runs = [RunState(run_id(c), to_dict(c), "done", Past(), {"validation_objective": planted(c)}) for c in configs]
    tuned.conclude(tmp_path, runs)  # the other rows have their lowest objective at an end, which is no matter
    file = tmp_path / rates.FILE
    assert json.loads(file.read_text())["rows"] == {"xs": 2, "s": 4}
    found = plan_of("epochs", sizes=("s", "xs"), learning_rates_from=file, law="none").lay_out(base, log).configs
    assert {(size_of(c), c.data.rows, c.optim.learning_rate_peak) for c in found} == {("xs", 2, 2e-3), ("s", 4, 2e-3)}
    with pytest.raises(InputError, match="both say how many rows"):
        tuned.lay_out(replace(base, {"data.rows": 2}), log)


# Settings.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unlimited_data", {"epochs": 2.0}, "no session is seen twice"),
        ("cooldown", {"epochs": (1.0, 2.0)}, "--epochs is 2 at most; wanted at most 1, .* or --law none"),
        ("cooldown", {"epochs": (0.01, 1.0)}, "a warm-up of 1 steps and a cooldown of 1 do not fit into a run of 1 st"),
        ("seeds", {"seeds": (3,)}, "one seed shows no noise"),
        ("history", {"sizes": ("xs", "s")}, "law of one size"),
        ("catalogue", {}, "wanted --logs of other catalogues"),
        ("grid", {"sizes": ("tiny",)}, "unknown size 'tiny'"),
    ],
)
def test_what_a_plan_cannot_do_is_refused(name, options, message, log, base):
    with pytest.raises(InputError, match=message):
        plan_of(name, **options).lay_out(base, log)


def test_a_size_may_be_named_by_its_numbers():
    config = sized(Config(), "24x3x2")
    assert (config.model.width, config.model.layers, config.model.heads) == (24, 3, 2)
    assert size_of(config) == "24x3x2"
    assert size_of(sized(Config(), "8x1x1")) == "xxs"
    with pytest.raises(InputError, match=r"unknown size '24x3'; .*or WIDTHxLAYERSxHEADS such as 24x1x2"):
        sized(Config(), "24x3")


def test_sizes_around_some_reach_past_both_ends_of_them():
    assert around(["xs", "s"]) == ("xxs", "xs", "s", "m", "l")
    assert around(["24x1x2", "40x1x2"]) == ("xs", "24x1x2", "s", "40x1x2", "m", "l")
    assert around(["4xl"]) == ("3xl", "4xl")


def test_values_around_some_hold_the_given_ones_and_stay_within_the_limits():
    assert around_values((10, 100), 1, 500) == (1, 10, 32, 100, 500)
    assert around_values((8,), 1, 10_000) == (1, 3, 8, 24, 72)
