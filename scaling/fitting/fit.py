"""Fits a law to a table of runs: `fit(table) -> Fit`, with uncertainty, competing minima and held-out checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.choices import Options
from scaling.fitting.forms import Forms, compare_forms, indistinguishable
from scaling.fitting.heldout import predict_heldout
from scaling.fitting.influence import influences
from scaling.fitting.intervals import intervals, sizes_at_centre, widened
from scaling.fitting.isoflop_gap import isoflop_gap
from scaling.fitting.lead import default_law
from scaling.fitting.minimize import Objective, Solution, robust_sigma
from scaling.fitting.noise import lack_of_fit, seed_noise
from scaling.fitting.other_columns import other_columns
from scaling.fitting.problem import FREE_FLOOR, FULL_TABLE, Problem
from scaling.fitting.profile import LikelihoodProfile, Profiles, profile
from scaling.fitting.result import Fit, FreeFloor, Minimum
from scaling.fitting.sensitivity import variants
from scaling.fitting.trend import shift, trend
from scaling.laws import registry
from scaling.laws.fixed import with_fixed
from scaling.laws.registry import FLOOR, LAWS, Law
from scaling.options import DEFAULTS
from scaling.table import checks
from scaling.table.run_table import Columns, RunTable, read
from scaling.table.variation import refuse_rising

FREE = "free"
"""The floor that is fitted although the table knows it."""
BEST = "best"
"""The name that asks for the form which predicts the held-out runs best."""
POLISH = 3
"""A fit starts again at most this often from a lower minimum that its profiles found."""


def fit(
    table: Any,
    law: str | None = None,
    *,
    columns: Columns | None = None,
    objective: str = DEFAULTS.objective,
    delta: float | str = DEFAULTS.delta,
    floor: float | Literal["free"] | None = DEFAULTS.floor,
    fix: Mapping[str, float] | None = None,
    bootstrap: int = DEFAULTS.bootstrap,
    seed: int = DEFAULTS.seed,
    full: bool = True,
    **names: Any,
) -> Fit:
    """Fits a law to the log of the loss (or of a metric).

    Args:
      table: a RunTable; or what `read` reads: the path of a table, a Polars or pandas frame, or a list of dicts.
      law: a name in `registry.LAWS`, or "best": the form that predicts the held-out largest runs best. Default: that of
        `default_law`.
      columns: the names of the table's columns, where it is not a RunTable.
      objective: "huber", "ls" (least squares) or "lad" (least absolute deviation), of residuals in log loss; "ls_loss":
        least squares of the loss itself.
      delta: Huber's threshold in nats of log loss; "auto": 1.345 robust standard deviations of the fit's own residuals.
      floor: the known irreducible loss, in the table's unit; "free" fits it. Default: the table's floor column, if it
        has one.
      fix: {parameter: value as the formula writes it}, which are then not fitted: {"alpha": 0.35}. E is the floor.
      bootstrap: resamplings of whole clusters behind the intervals; 0 gives none.
      seed: the seed of the bootstrap.
      full: also walk the profile likelihood of each parameter (a parameter with an open profile has no value), refit
        without the largest runs and predict them, compare every form of the law on those, and try other objectives.
      **names: fields of Columns, as in `fit(frame, n="params", d="tokens", loss="loss")`.

    Raises:
      InputError: an argument or a column has a wrong name or value.
      Refusal: the table cannot carry the law.

    The procedure follows the converged reanalysis of Besiroglu et al. 2024 (2404.10102).
    """
    if not isinstance(table, RunTable):
        table = read(table, columns, **names)
    elif columns is not None or names:
        raise InputError(f"{' and '.join(names) or 'columns'} came with a table whose columns are named already")
    asked = {"law": law, "objective": objective, "delta": delta, "floor": floor, "fix": dict(fix or {})}
    law = default_law(table) if law is None else law
    if law != BEST and law not in LAWS:
        raise InputError(f"unknown law {law!r}; {near_miss(law, [*LAWS, BEST])}")
    floor, fixed = _floor_and_others(floor, fix or {})
    options = Options(objective=objective, delta=delta, bootstrap=bootstrap, seed=seed, profiles=full)
    given, table = table, table.in_order()  # no digit of the answer depends on the order of the rows
    form = with_fixed(LAWS[default_law(table) if law == BEST else law], fixed)
    known_floor = None if isinstance(floor, str) else floor
    if floor is None and form.has_floor:
        known_floor = table.known_floor
    started = _start(table, form, options, known_floor)
    compared = compare_forms(table, form, started.goal, known_floor) if full or law == BEST else None
    if law == BEST and compared is not None:
        started, done = _best(started, compared, options)
        known_floor = started.problem.known_floor
    else:
        done = _finish(started, options, FULL_TABLE)
        if compared is not None:
            done = replace(done, rivals=indistinguishable(started.table, compared, form))
    warnings = list(done.warnings)
    free_floor = None if known_floor is None else _free_floor(table, done, known_floor, options, warnings=warnings)
    done = replace(done, forms=compared, free_floor=free_floor)
    if full:
        done = _checked(done, started, warnings)
    return replace(done, table=given, warnings=tuple(warnings), asked=asked)


def _floor_and_others(
    floor: float | Literal["free"] | None, fix: Mapping[str, float]
) -> tuple[float | Literal["free"] | None, dict[str, float]]:
    """Returns the floor, which `fix` may name instead, and the other fixed parameters.

    Raises InputError if both name it, or if it is other text than "free".
    """
    fixed = dict(fix)
    if FLOOR.size in fixed:
        if floor is not None:
            raise InputError(f"floor is {floor} and fix has {FLOOR.size} too; give one")
        floor = fixed.pop(FLOOR.size)
    if isinstance(floor, str) and floor != FREE:
        raise InputError(f"floor is {floor!r}; wanted a number, or {FREE!r}")
    return floor, fixed


def _best(started: _Started, compared: Forms, options: Options) -> tuple[_Started, Fit]:
    """Fits the form that earned it on the held-out runs, else the simplest that the runs bound, first with a floor."""
    table, known_floor = started.table, started.problem.known_floor
    if compared.chosen is not None:
        forms = [compared.whole[compared.chosen].law] if compared.chosen in compared.whole else [started.problem.law]
    else:
        forms = [fitted.law for fitted in compared.whole.values()] or [started.problem.law]
        forms.sort(key=lambda form: (not form.has_floor, len(form.free_params(known_floor))))
    tried = []
    for form in forms:
        if form != started.problem.law:
            started = _start(table, form, options, known_floor if form.has_floor else None)
        done = _finish(started, options, FULL_TABLE)
        tried.append((started, replace(done, rivals=indistinguishable(table, compared, form), rivals_in_band=True)))
        if not done.bounds:
            break
    else:
        tried = tried[:1]
    started, done = tried[-1]
    if compared.chosen is None:
        says = (
            f"best was not earned: no two forms could be held out on the same runs. {done.law.name} is the simplest "
            f"form{' with a floor' * done.law.has_floor} that the runs {'do not ' * bool(done.bounds)}bound."
        )
        done = replace(done, warnings=(*done.warnings, says))
    return started, done


def _checked(done: Fit, started: _Started, warnings: list[str]) -> Fit:
    """Adds the checks that refit parts of the table."""
    table, problem, goal = started.table, started.problem, started.goal
    law, known_floor, theta_P = problem.law, problem.known_floor, done.theta_P
    held = predict_heldout(table, law, goal, known_floor, bootstrap=done.bootstrap, seed=done.seed, warnings=warnings)
    without = influences(table, problem, goal, theta_P)
    return replace(
        done,
        heldout=held.runs,
        shift=shift(problem, theta_P, table.cluster, held.held_R) if held.runs else None,
        variants=(
            *variants(table, problem, theta_P, fitted=goal, is_auto=started.is_auto),
            *(variant for _, variant in without),
        ),
        influences=tuple(influence for influence, _ in without),
    )


class _Started(NamedTuple):
    """A problem that passed the checks, its objective, and the checks' warnings."""

    table: RunTable
    problem: Problem
    goal: Objective
    warnings: list[str]
    is_auto: bool = False
    """True if the objective is Huber's with the threshold of the fit's own residuals."""


def _start(table: RunTable, law: Law, options: Options, known_floor: float | None) -> _Started:
    warnings = list(checks.refuse(table, law, known_floor))
    refuse_rising(table, law)
    problem = Problem.of(table, law, known_floor)
    if options.objective != "huber":
        return _Started(table, problem, Objective(options.objective), warnings)
    if options.delta != "auto":
        return _Started(table, problem, Objective("huber", float(options.delta)), warnings)
    goal, settled = problem.adaptive()
    if not settled:
        warnings.append(f"Huber's adaptive delta did not settle; {goal.delta:.4g} was used.")
    return _Started(table, problem, goal, warnings, is_auto=True)


def _finish(started: _Started, options: Options, stream: int) -> Fit:
    """Finds the minima and their uncertainty. `stream` separates the random draws of several bootstraps."""
    table, problem, goal, warnings, _ = started
    bootstrap = options.bootstrap
    minima, walked = _minima(started, options.profiles, usual=stream == FULL_TABLE)
    theta_P = minima.theta_SP[0]
    draws_SP = problem.bootstrap(goal, minima, table.cluster, draws=bootstrap, seed=options.seed, stream=stream)
    if len(draws_SP) < bootstrap:
        warnings.append(
            f"{bootstrap - len(draws_SP)} of {bootstrap} bootstrap draws did not converge and are left out of the "
            "intervals."
        )
    cloud_SP = widened(problem, theta_P, draws_SP, len(np.unique(table.cluster)))
    params, interval95, bounds = intervals(problem, theta_P, cloud_SP, walked)
    sizes, sizes95 = sizes_at_centre(problem, theta_P, cloud_SP)
    residual = problem.residual(theta_P)
    return Fit(
        law=problem.law,
        theta_P=theta_P,
        cloud_SP=cloud_SP,
        draws_SP=draws_SP,
        centre=problem.centre,
        known_floor=problem.known_floor,
        flops_per_nd=table.flops_per_nd,
        ranges=_ranges(problem, table),
        table=table,
        objective=goal,
        objective_value=float(minima.objective_S[0]),
        params=params,
        interval95=interval95,
        bounds=bounds,
        sizes_at_centre=sizes,
        sizes_at_centre95=sizes95,
        profile=walked,
        minima=_describe(minima, problem),
        trend=trend(problem, theta_P, table.cluster),
        isoflop=isoflop_gap(table, problem, theta_P),
        heldout=(),
        shift=None,
        forms=None,
        variants=(),
        influences=(),
        rivals=(),
        others=other_columns(table, problem, theta_P),
        warnings=tuple(warnings),
        free_floor=None,
        residual_sigma=robust_sigma(residual),
        seed_noise=seed_noise(table, problem.law),
        lack_of_fit=lack_of_fit(problem, theta_P, table),
        bootstrap=bootstrap,
        seed=options.seed,
        asked={},
    )


def _minima(started: _Started, profiles: bool, usual: bool) -> tuple[Solution, dict[str, LikelihoodProfile]]:
    """Finds the minima and the profiles around the lowest, and starts again if a profile walks into a lower one."""
    table, problem, goal, *_ = started
    minima = problem.minima(goal, usual=usual)
    if not profiles:
        return minima, {}
    walked = Profiles({}, None)
    for _ in range(POLISH):
        walked = profile(problem, goal, minima.theta_SP[0], table.cluster)
        if walked.lower_P is None:
            break
        again = problem.minima(goal, also_SP=walked.lower_P[None])
        if again.objective_S[0] >= minima.objective_S[0]:
            break
        minima = again
    return minima, walked.by_name


def _ranges(problem: Problem, table: RunTable) -> dict[str, tuple[float, float]]:
    points = dict(problem.points)
    if "n" in points:
        points["c"] = table.flops_per_nd * points["n"] * points["d"]
    return {axis: (float(x.min()), float(x.max())) for axis, x in points.items()}


def _describe(minima: Solution, problem: Problem) -> tuple[Minimum, ...]:
    values = registry.natural(problem.law, minima.theta_SP, problem.centre, problem.known_floor)
    lowest = max(float(minima.objective_S[0]), np.finfo(float).tiny)
    return tuple(
        Minimum(float(objective), float(objective) / lowest - 1, {name: float(v[i]) for name, v in values.items()})
        for i, objective in enumerate(minima.objective_S)
    )


def _free_floor(
    table: RunTable, known: Fit, known_floor: float, options: Options, warnings: list[str]
) -> FreeFloor | None:
    """Fits the law with a free floor. Returns None, with a warning, where the table cannot carry that."""
    try:
        free = _finish(_start(table, known.law, options, None), options, FREE_FLOOR)
    except Refusal as refusal:
        warnings.append(f"It is not known if a free floor would agree with the known one: {refusal}")
        return None
    low, high = free.bounds.get(FLOOR.size) or free.interval95[FLOOR.size] or (None, None)
    slack = 1e-9 * known_floor  # noise-free tables have intervals of rounding's width
    agrees = (low is None or low <= known_floor + slack) and (high is None or known_floor - slack <= high)
    return FreeFloor(free.params[FLOOR.size], (low, high), None if low is None and high is None else agrees)
