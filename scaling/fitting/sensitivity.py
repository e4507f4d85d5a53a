"""Sensitivity of the fit to choices of ours: the same law under other objectives, and with the outliers back."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.errors import Refusal
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import Problem
from scaling.laws.registry import Law, natural
from scaling.table import checks
from scaling.table.run_table import RunTable

USUAL_DELTA = 1e-3
"""Huber's threshold in the literature since Hoffmann et al. 2022 (2203.15556)."""


@dataclass(frozen=True)
class Variant:
    """The law fitted again under one other choice."""

    name: str
    rows: int
    delta: float | None
    """The threshold of Huber's objective, None for the others."""
    objective: float
    params: dict[str, float]


def variants(
    table: RunTable, law: Law, known_floor: float | None, *, fitted: Objective, warnings: list[str]
) -> tuple[Variant, ...]:
    """Fits without intervals: every objective on this table, then the fit's own objective with the dropped runs back.

    Where the table with those runs cannot carry the law, that fit is missing and `warnings` gets the reason.
    """
    problem = Problem.of(table, law, known_floor)
    adaptive, _ = problem.adaptive()
    goals = {
        "huber auto": adaptive,
        f"huber {USUAL_DELTA:g}": Objective("huber", USUAL_DELTA),
        "lad": Objective("lad"),
        "ls": Objective("ls"),
    }
    found = [variant(name, problem, goal) for name, goal in goals.items()]
    whole = table.with_worst()
    if whole is not None:
        try:
            checks.refuse(whole, law, known_floor)
            found.append(variant("dropped back", Problem.of(whole, law, known_floor), fitted))
        except Refusal as refusal:
            warnings.append(f"No fit with the {table.drop_worst} dropped runs back: {refusal}")
    return tuple(found)


def variant(name: str, problem: Problem, goal: Objective) -> Variant:
    """Fits the law once. Raises Refusal if no start converged."""
    best = problem.minima(goal)
    values = natural(problem.law, best.theta_SP[:1], problem.centre, problem.known_floor)
    return Variant(
        name=name,
        rows=len(problem.response),
        delta=goal.delta if goal.name == "huber" else None,
        objective=float(best.objective_S[0]),
        params={key: float(value[0]) for key, value in values.items()},
    )
