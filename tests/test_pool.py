"""Tests the choice of runs from a pool: it keeps the budget, shrinks what is asked for, and beats the choice for an
exact law where the law misfits.
"""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from scaling.design.assumption import Assumption, assume
from scaling.design.information import covariance, information, jacobian
from scaling.design.pool import MISFIT, REACH, Criterion, PoolChoice, choose
from scaling.errors import InputError
from scaling.laws import registry

PLANTED = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.29}
POOL = dict(
    zip("nd", (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e11, 8))), strict=True)
)
TARGET = {"n": np.array([1e9]), "d": np.array([1e11])}
FLOPS = 6 * POOL["n"] * POOL["d"]
BUDGET = 0.05 * FLOPS.sum()


def planted(sigma: float = 0.003) -> Assumption:
    return Assumption(assume(registry.by_name("chinchilla"), PLANTED, POOL), sigma, "planted")


def half_width(choice: PoolChoice, name: str) -> float:
    found = next(each for each in choice.expected if each.name == name)
    return found.half_width95 or np.log(found.factor95 or 1.0)


@pytest.mark.parametrize("share", [0.003, 0.05, 0.5])
@pytest.mark.parametrize("kind", ["d", "v", "quantity"])
def test_the_budget_holds_and_no_run_is_bought_twice(kind, share):
    quantity = "beta" if kind == "quantity" else None
    choice = choose(planted(), POOL, share * FLOPS.sum(), Criterion(kind, quantity))
    assert choice.flops == pytest.approx(FLOPS[list(choice.rows)].sum())
    assert choice.flops <= share * choice.flops_pool
    assert len(set(choice.rows)) == len(choice.rows) >= 10


def test_a_larger_budget_shows_more():
    widths = [
        half_width(choose(planted(), POOL, share * FLOPS.sum(), Criterion("quantity", "beta")), "beta")
        for share in (0.003, 0.03, 0.3)
    ]
    assert widths == sorted(widths, reverse=True)


def test_what_is_asked_for_is_shown_best_by_its_own_criterion():
    named = choose(planted(), POOL, BUDGET, Criterion("quantity", "alpha"))
    other = choose(planted(), POOL, BUDGET, Criterion("quantity", "beta"))
    assert half_width(named, "alpha") < half_width(other, "alpha")
    assert half_width(other, "beta") < half_width(named, "beta")


def test_where_the_law_misfits_smoothly_the_choice_that_expects_it_has_the_smaller_error():
    """Draws misfits and noise, and fits the law in its linear form by least squares, as a fit close to it does."""
    law, rng, errors = planted().law, np.random.default_rng(0), {}
    everywhere = {axis: np.append(POOL[axis], TARGET[axis]) for axis in "nd"}
    log = np.log([everywhere["n"], everywhere["d"]])
    alike = np.exp(-0.5 * ((log[:, :, None] - log[:, None]) ** 2).sum(axis=0) / REACH**2)
    missed = MISFIT * np.linalg.cholesky(alike + 1e-9 * np.eye(len(alike))) @ rng.normal(size=(len(alike), 500))
    seen = missed[:-1] + 0.003 * rng.normal(size=(len(FLOPS), 500))
    for misfit in (0.0, MISFIT):
        rows = list(choose(planted(), POOL, BUDGET, Criterion("v", targets=TARGET), misfit=misfit).rows)
        slopes = jacobian(law, {axis: x[rows] for axis, x in POOL.items()})
        predicted = jacobian(law, TARGET) @ np.linalg.lstsq(slopes, seen[rows], rcond=None)[0]
        errors[misfit] = float(((predicted[0] - missed[-1]) ** 2).mean())
    assert errors[MISFIT] < 0.8 * errors[0.0]


def test_runs_that_exist_are_not_bought_again():
    first = list(choose(planted(), POOL, BUDGET, Criterion("d")).rows)
    made = {axis: x[first] for axis, x in POOL.items()}
    more = choose(planted(), POOL, BUDGET, Criterion("d"), made=made)
    alone = choose(planted(), POOL, BUDGET, Criterion("d"))
    assert half_width(more, "beta") < half_width(alone, "beta")
    assert len(set(more.rows) & set(first)) < len(first) / 2


def test_the_choice_is_better_than_chance_where_the_law_is_right():
    """The exact law's error at the target by linear theory is smaller than that of any of 20 random sets."""

    def error(rows) -> float:
        at = {axis: x[list(rows)] for axis, x in POOL.items()}
        slope_P = jacobian(planted().law, TARGET)[0]
        return float(slope_P @ covariance(information(planted().law, at, 0.003)) @ slope_P)

    chosen = error(choose(planted(), POOL, BUDGET, Criterion("v", targets=TARGET), misfit=0.0).rows)
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, rows = BUDGET, []
        for m in rng.permutation(len(FLOPS)):
            if FLOPS[m] <= left:
                left -= FLOPS[m]
                rows.append(m)
        assert chosen < error(rows)


@pytest.fixture
def pool(tmp_path):
    file = tmp_path / "pool.csv"
    pl.DataFrame(POOL).write_csv(file)
    return file


def test_the_command_names_rows_of_the_file(pool, tmp_path, capsys):
    targets = tmp_path / "largest.csv"
    pl.DataFrame(TARGET).write_csv(targets)
    command = ["design", "--candidates", str(pool), "--budget", f"{BUDGET:g}", "--n", "n", "--d", "d"]
    assert main([*command, "--targets", str(targets), "--json", str(tmp_path / "found.json")]) == 0
    assert "the law at the targets (V-optimal)" in capsys.readouterr().out.replace("\n", " ")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["choice"]["criterion"] == "v"
    for run in found["runs"]:
        assert (run["n"], run["d"]) == pytest.approx((POOL["n"][run["row"]], POOL["d"][run["row"]]))


def test_the_known_floor_of_finished_runs_is_taken(pool, tmp_path, capsys):
    runs = tmp_path / "runs.csv"
    loss = 1.7 + 400 / POOL["n"] ** 0.34 + 900 / POOL["d"] ** 0.29
    pl.DataFrame(POOL | {"loss": loss}).write_csv(runs)
    command = ["design", str(runs), "--candidates", str(pool), "--budget", f"{BUDGET:g}", "--n", "n", "--d", "d"]
    found = []
    for floor in ((), ("--floor", "1.6")):
        assert main([*command, "--loss", "loss", *floor, "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))  # nothing but JSON is printed
    free, known = ([each["value"] for each in one["choice"]["expected"]] for one in found)
    assert free == pytest.approx([0.34, 0.29], rel=1e-3)
    assert known != pytest.approx([0.34, 0.29], rel=1e-2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--candidates", "POOL"], "needs --budget"),
        (["--candidates", "POOL", "--budget", "1"], "no candidate costs 1 FLOPs or less"),
        (["--candidates", "POOL", "--budget", "1e20", "--criterion", "quantity"], "no quantity is named"),
        (["--candidates", "POOL", "--budget", "1e20", "--criterion", "d", "--targets", "POOL"], "leave them out"),
        (["--candidates", "POOL", "--budget", "1e20", "--criterion", "v", "--quantity", "beta"], "leave it out"),
        (["--candidates", "POOL", "--budget", "1e20", "--sigma", "-1"], "sigma is -1.0; wanted the standard deviation"),
        (["--candidates", "POOL", "--budget", "1e20", "--runs", "4"], "--runs: not for --candidates"),
        (["--candidates", "POOL", "--budget", "1e20", "--planned", "--per=run"], "--planned and --per: not for"),
        (["--candidates", "POOL", "--budget", "1e20", "--n-limits", "1", "2"], "--n-limits: not for --candidates"),
        (["POOL", "--criterion", "v"], "choose among --candidates"),
        ([], "no table is named"),
    ],
)
def test_wrong_input_is_one_message(pool, more, message, capsys):
    assert main(["design", "--n", "n", "--d", "d", *(str(pool) if word == "POOL" else word for word in more)]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_no_candidate_within_the_budget_is_an_error():
    with pytest.raises(InputError, match="Raise the budget"):
        choose(planted(), POOL, 1.0, Criterion("d"))
