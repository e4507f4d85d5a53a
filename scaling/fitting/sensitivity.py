"""Sensitivity of the fit to choices of ours: the same law under other objectives, and with the outliers back."""

from __future__ import annotations

from collections.abc import Callable
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
    objective: float | None
    params: dict[str, float]
    refused: str | None = None
    """Why there is no such fit. Then `objective` is None and `params` are empty."""


def variants(table: RunTable, law: Law, known_floor: float | None, *, fitted: Objective) -> tuple[Variant, ...]:
    """Fits without intervals: every objective on this table, then the fit's own objective with the dropped runs back.

    A fit that is not possible has its reason in `refused`.
    """
    problem = Problem.of(table, law, known_floor)
    goals = {
        "huber auto": lambda: problem.adaptive()[0],
        f"huber {USUAL_DELTA:g}": lambda: Objective("huber", USUAL_DELTA),
        "lad": lambda: Objective("lad"),
        "ls": lambda: Objective("ls"),
    }
    found = [
        _or_refused(name, len(table), lambda name=name, goal=goal: variant(name, problem, goal()))
        for name, goal in goals.items()
    ]
    whole = table.with_worst()
    if whole is not None:
        found.append(_or_refused("dropped back", len(whole), lambda: _checked(whole, law, known_floor, fitted)))
    return tuple(found)


def _or_refused(name: str, rows: int, fit: Callable[[], Variant]) -> Variant:
    """Returns the fit, or a Variant with the reason why it was refused."""
    try:
        return fit()
    except Refusal as refusal:
        return Variant(name, rows, None, None, {}, refused=str(refusal))


def _checked(whole: RunTable, law: Law, known_floor: float | None, goal: Objective) -> Variant:
    checks.refuse(whole, law, known_floor)
    return variant("dropped back", Problem.of(whole, law, known_floor), goal)


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
