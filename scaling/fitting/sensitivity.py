"""Sensitivity of the fit to choices of ours: the same law under other objectives, and with the outliers back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.minimize import Objective, row_weights
from scaling.fitting.parallel import in_threads
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


def variants(
    table: RunTable, problem: Problem, theta_P: np.ndarray, *, fitted: Objective, is_auto: bool
) -> tuple[Variant, ...]:
    """Fits without intervals: every objective on this table, then the fit's own objective with the dropped runs back.

    A fit that is not possible has its reason in `refused`.

    Args:
      table: the table.
      problem: the law on the table.
      theta_P: the fit's own parameters.
      fitted: the fit's own objective, which is not minimised again.
      is_auto: True if `fitted` is Huber's objective with the threshold of the fit's own residuals.
    """
    goals = {
        "huber auto": lambda: fitted if is_auto else problem.adaptive()[0],
        f"huber {USUAL_DELTA:g}": lambda: Objective("huber", USUAL_DELTA),
        "lad": lambda: Objective("lad"),
        "ls": lambda: Objective("ls"),
    }

    def one(name: str) -> Variant:
        goal = goals[name]()
        return _variant(name, problem, goal, theta_P) if goal == fitted else variant(name, problem, goal)

    tasks = [partial(_or_refused, name, len(table), partial(one, name)) for name in goals]
    whole = table.with_worst()
    if whole is not None:
        back = partial(_checked, whole, problem.law, problem.known_floor, fitted)
        tasks.append(partial(_or_refused, "dropped back", len(whole), back))
    return tuple(in_threads(tasks))


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
    return _variant(name, problem, goal, problem.minima(goal).theta_SP[0])


def _variant(name: str, problem: Problem, goal: Objective, theta_P: np.ndarray) -> Variant:
    values = natural(problem.law, theta_P[None], problem.centre, problem.known_floor)
    weight_1R = row_weights(goal, np.log(problem.response))[None]
    return Variant(
        name=name,
        rows=len(problem.response),
        delta=goal.delta if goal.name == "huber" else None,
        objective=float(goal.total(problem.residual(theta_P)[None], weight_1R)[0]),
        params={key: float(value[0]) for key, value in values.items()},
    )
