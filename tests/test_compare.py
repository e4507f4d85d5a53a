"""Tests comparisons: intervals cover, differences are paired by user, and the arms of a plan spend the stated FLOPs."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from experiments.plans import ablation, paradigm
from experiments.sweep.comparison import PER_USER, compare, estimate
from experiments.sweep.cost import flops_per_epoch
from sessionrec_jax.config.values import from_dict, replace, run_id
from sessionrec_jax.errors import InputError

USERS = 400


# Intervals.


@pytest.mark.parametrize("between_seeds", [0.0, 0.5])
def test_the_interval_covers_the_truth_in_nineteen_of_twenty(between_seeds):
    """Draws new users and new seeds each time; both differ."""
    rng = np.random.default_rng(0)
    times, hits = 600, 0
    for _ in range(times):
        n_U = rng.integers(1, 4, 150).astype(float)
        user_U = rng.normal(size=150)
        x_SU = n_U * (0.3 + user_U + between_seeds * rng.normal(size=(3, 1)) + 0.3 * rng.normal(size=(3, 150)))
        found = estimate(x_SU, n_U)
        hits += found.low <= 0.3 <= found.high
    assert 0.92 < hits / times <= 0.985


def test_without_variance_there_is_no_doubt():
    found = estimate(np.zeros((2, 5)), np.ones(5))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


# Sweep folders.


def write_run(sweep, name: str, validation: float, x_U: np.ndarray, n_U: np.ndarray | None = None) -> None:
    folder = sweep / "runs" / name
    folder.mkdir(parents=True)
    n_U = np.ones(len(x_U)) if n_U is None else n_U
    row = {
        "run_id": name, "status": "done", "validation_ndcg_at_50": validation,
        "learning_rate_peak": 0.001, "table_prior": 10.0 if name[0] == "b" else 0.0,
        "ndcg_at_50": float(x_U.sum() / n_U.sum()), "ndcg_at_50_stderr": 0.1, "epochs": 3.0, "flops_train": 2e12,
        "params_body": 1234,
    }  # fmt: skip
    (folder / "row.json").write_text(json.dumps(row))
    frame = pl.DataFrame({"user": np.arange(len(x_U)), "metric": ["ndcg_at_50"] * len(x_U), "x": x_U, "n": n_U})
    frame.with_columns(pl.col("x", "n").cast(pl.Float32)).write_parquet(folder / PER_USER)  # as row.py writes it


def write_plan(sweep, arms: dict[str, dict[str, list[str]]]) -> None:
    cells = [
        {"table": "t", "budget": "equal epochs", "arm": arm, "is_reference": place == 0, "runs": runs}
        for place, (arm, runs) in enumerate(arms.items())
    ]
    plan = {"select_by": "validation_ndcg_at_50", "arms": cells}
    (sweep / "comparison.json").write_text(json.dumps(plan))


@pytest.fixture
def sweep(tmp_path):
    """Makes three arms of two seeds and two trials: a is the reference, b is better by .02 for every user, c is
    the same.
    """
    rng = np.random.default_rng(1)
    user_U = rng.uniform(0, 1, USERS)
    arms = {arm: {str(seed): [f"{arm}{seed}{trial}" for trial in "xy"] for seed in (0, 1)} for arm in "abc"}
    for arm, lift in (("a", 0.0), ("b", 0.02), ("c", 0.0)):
        for seed in (0, 1):
            noise_U = 0.01 * rng.normal(size=USERS)
            write_run(tmp_path, f"{arm}{seed}x", 0.5, user_U + lift + noise_U)
            write_run(tmp_path, f"{arm}{seed}y", 0.4, user_U + 1.0)  # better on test, worse on validation
    write_plan(tmp_path, arms)
    return tmp_path


def test_arms_are_chosen_on_validation_and_compared_user_by_user(sweep):
    a, b, c = compare(sweep, ("ndcg_at_50",))
    assert a.is_reference
    assert a.differences["ndcg_at_50"] is None
    gain, none = b.differences["ndcg_at_50"], c.differences["ndcg_at_50"]
    assert gain.value == pytest.approx(0.02, abs=0.002)
    assert gain.low > 0.015  # without the users' own spread, which is thirty times as large
    assert gain.p < 1e-3
    assert none.low < 0 < none.high
    assert none.p > 0.05
    wide = a.values["ndcg_at_50"]
    assert wide.high - wide.low > 5 * (gain.high - gain.low)
    assert a.values["ndcg_at_50"].value < 1  # not the trial that is best on test


def test_the_rates_and_priors_that_were_chosen_are_in_the_table(sweep):
    assert [(line.learning_rates, line.table_priors) for line in compare(sweep, ("ndcg_at_50",))] == [
        ((0.001, 0.001), prior) for prior in ((0.0, 0.0), (10.0, 10.0), (0.0, 0.0))
    ]
    out = sweep / "table.md"
    assert main(["compare", str(sweep), "--metrics", "ndcg_at_50", "--out", str(out)]) == 0
    heads, *arms = [
        line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ") and "---" not in line
    ]
    assert [heads[-2:], *(arm[-2:] for arm in arms)] == [
        ["rate", "prior |"], *(["0.001", prior] for prior in ("0 |", "10 |", "0 |"))
    ]  # fmt: skip


@pytest.mark.parametrize("lift", [-20.25, -0.25, 0.25, 10.25, 120.25])
def test_the_table_prints_every_number_as_it_is(tmp_path, lift):
    for seed in (0, 1):
        write_run(tmp_path, f"a{seed}", 0.5, np.full(USERS, lift))
    write_plan(tmp_path, {"a": {"0": ["a0"], "1": ["a1"]}})
    out = tmp_path / "table.md"
    assert main(["compare", str(tmp_path), "--metrics", "ndcg_at_50", "--out", str(out)]) == 0
    (cell,) = [line.split(" | ")[1] for line in out.read_text().splitlines() if line.startswith("| a ")]
    assert float(cell.split()[0]) == lift


def test_a_row_without_the_prior_is_compared(sweep):
    """Rows of earlier versions do not say it."""
    for path in sweep.glob("runs/*/row.json"):
        row = json.loads(path.read_text())
        del row["table_prior"]
        path.write_text(json.dumps(row))
    assert {line.table_priors for line in compare(sweep, ("ndcg_at_50",))} == {()}


def test_the_p_of_each_difference_is_corrected_for_the_number_of_arms(sweep):
    lines = compare(sweep, ("ndcg_at_50",))
    single = [line for line in lines if line.arm in "ac"]
    write_plan(sweep, {arm: {str(s): [f"{arm}{s}x"] for s in (0, 1)} for arm in "ac"})
    alone = compare(sweep, ("ndcg_at_50",))[1].differences["ndcg_at_50"].p
    p_b, p_c = (line.differences["ndcg_at_50"].p for line in lines[1:])
    assert single[1].differences["ndcg_at_50"].p == p_c == pytest.approx(alone)  # the larger p counts once
    assert p_b < p_c


def test_a_table_that_both_budgets_share_appears_once(sweep):
    plan = json.loads((sweep / "comparison.json").read_text())
    doubled = plan["arms"] + [arm | {"budget": "equal compute"} for arm in plan["arms"]]
    (sweep / "comparison.json").write_text(json.dumps(plan | {"arms": doubled}))
    assert [(line.arm, line.budget) for line in compare(sweep, ("ndcg_at_50",))] == [
        (arm, "equal epochs and equal compute") for arm in "abc"
    ]
    doubled[-1] = doubled[-1] | {"runs": doubled[0]["runs"]}
    (sweep / "comparison.json").write_text(json.dumps(plan | {"arms": doubled}))
    assert [line.budget for line in compare(sweep, ("ndcg_at_50",))] == ["equal epochs"] * 3 + ["equal compute"] * 3


def test_nats_that_are_not_calibrated_are_marked(sweep, capsys):
    plan = json.loads((sweep / "comparison.json").read_text())
    plan["arms"][1]["uncalibrated"] = ["ndcg_at_50"]
    (sweep / "comparison.json").write_text(json.dumps(plan))
    out = sweep / "table.md"
    assert main(["compare", str(sweep), "--metrics", "ndcg_at_50", "--out", str(out)]) == 0
    assert ["†" in line for line in out.read_text().splitlines() if line[:3] in ("| a", "| b", "| c")] == [
        False,
        True,
        False,
    ]


def test_a_seed_without_a_finished_run_is_reported(sweep, capsys):
    for trial in "xy":
        (sweep / "runs" / f"b1{trial}" / "row.json").write_text('{"status": "diverged", "reason": "step 3"}')
    _, b, _ = compare(sweep, ("ndcg_at_50",))
    assert (b.seeds, b.seeds_planned) == (1, 2)
    out = sweep / "table.md"
    assert (
        main(["compare", str(sweep), "--metrics", "ndcg_at_50", "--out", str(out), "--json", str(sweep / "t.json")])
        == 0
    )
    assert "b (1 of 2 seeds)" in out.read_text()
    assert json.loads((sweep / "t.json").read_text())[1]["seeds"] == 1


def test_the_page_has_a_forest_plot_and_the_same_numbers(sweep):
    """The page's answer names each arm; b is clearly better, c is not; the reference has no mark."""
    out = sweep / "t.html"
    assert main(["compare", str(sweep), "--metrics", "ndcg_at_50", "--out", str(out)]) == 0
    page = out.read_text()
    said = page.partition("<p class=answer>")[2].partition("</p>")[0]
    assert said.startswith("NDCG@50 against a: b differs by 0.02")
    assert "c differs by" in said
    assert said.endswith("which may be chance.")
    assert all(f"<td>{arm}</td>" in page for arm in "abc")
    specs = json.loads(page.partition("const specs = ")[2].partition(";\n")[0])
    rows = [json.loads(rows) for rows in specs["forest_0"]["datasets"].values()]
    marks = {row["name"]: row["is_clear"] for group in rows for row in group if "name" in row}
    assert marks == {"b": True, "c": False}


def test_what_cannot_be_compared_is_refused(sweep, tmp_path_factory, capsys):
    assert main(["compare", str(sweep), "--metrics", "ndgc_at_50"]) == 2
    assert "did you mean 'ndcg_at_50'" in capsys.readouterr().err
    empty = tmp_path_factory.mktemp("empty")
    assert main(["compare", str(empty)]) == 2
    assert "has no comparison.json" in capsys.readouterr().err
    write_plan(empty, {"a": {"0": ["none"]}})
    with pytest.raises(InputError, match="no run is done yet"):
        compare(empty, ("ndcg_at_50",))
    write_run(sweep, "other", 0.9, np.ones(USERS), np.full(USERS, 2.0))
    write_plan(sweep, {"a": {"0": ["a0x"]}, "other": {"0": ["other"]}})
    with pytest.raises(InputError, match="not tested on the same sessions"):
        compare(sweep, ("ndcg_at_50",))


# Plans.


def laid_out(plan, config, log):
    base = replace(config, {"data.items_per_row": 0, "data.window": 0})
    layout = plan.lay_out(base, log)
    by_id = {run_id(config): config for config in layout.configs}
    assert len(by_id) == len(layout.configs)
    arms = layout.files["comparison.json"]["arms"]
    assert {name for arm in arms for runs in arm["runs"].values() for name in runs} == by_id.keys()
    return arms, by_id


def test_every_arm_has_the_same_trials_and_one_of_its_table_is_the_reference(config, log):
    plans = (paradigm.Plan(epochs=2.0, table_priors=(0.0, 10.0)), ablation.Plan(epochs=2.0))
    for plan in plans:
        arms, by_id = laid_out(plan, config, log)
        for arm in arms:
            assert list(arm["runs"]) == ["0", "1", "2"]
            trials = [[by_id[name].optim for name in runs] for runs in arm["runs"].values()]
            tried = list(itertools.product(plan.table_priors, plan.learning_rates))
            assert [[(optim.table_prior, optim.learning_rate_peak) for optim in each] for each in trials] == [tried] * 3
        for table in {arm["table"] for arm in arms}:
            assert sum(arm["is_reference"] for arm in arms if arm["table"] == table) == 2  # one a budget
        names = [(arm["table"], arm["budget"], arm["arm"]) for arm in arms]
        assert len(set(names)) == len(names)


@pytest.mark.slow
def test_at_equal_compute_the_arms_spend_the_same_flops(config, log):
    for plan in (paradigm.Plan(epochs=4.0), ablation.Plan(epochs=4.0)):
        arms, by_id = laid_out(plan, config, log)
        spent: dict[str, list[float]] = {}
        for arm in arms:
            first = by_id[arm["runs"]["0"][0]]
            if arm["budget"] == "equal compute":
                spent.setdefault(arm["table"], []).append(flops_per_epoch(first, log) * first.train.epochs)
            else:
                assert first.train.epochs == 4.0
        for flops in spent.values():
            assert max(flops) / min(flops) < 1.06


def test_paradigms_read_the_same_span_of_history(config, log):
    _, by_id = laid_out(paradigm.Plan(), config, log)
    slots = {config.paradigm: config.data.sessions_per_row for config in by_id.values()}
    per_session = log.manifest["items_per_session_mean"]
    assert slots["nspp"] * per_session <= slots["nipp_plus"] < slots["nspp"] * per_session + 8
    assert slots["nspp"] < slots["nipp"] < slots["nipp_plus"]
    assert all(config.loss.alpha == 0 for config in by_id.values() if config.paradigm == "nipp")


def test_a_plan_with_a_paradigm_is_a_config_again(config, log):
    _, by_id = laid_out(paradigm.Plan(seeds=(0,)), config, log)
    from sessionrec_jax.config.values import to_dict

    for value in by_id.values():
        assert from_dict(json.loads(json.dumps(to_dict(value)))) == value
