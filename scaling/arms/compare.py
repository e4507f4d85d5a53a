"""Fits one form of law to several arms together, and tests whether their exponents are equal.

Letters: G arms, S bootstrap draws, R rows of all arms, K compared differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from scaling.arms.joint import Arm, JointProblem
from scaling.arms.pairs import Pairs, draw, pairs
from scaling.compute.frontier import Estimate95
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.choices import Options
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import moved_out, widening
from scaling.fitting.lead import default_law
from scaling.fitting.minimize import Objective, adaptive_delta
from scaling.fitting.misfit import SURE
from scaling.fitting.noise import lack_of_fit
from scaling.fitting.problem import Problem, centre_of
from scaling.fitting.trend import trend
from scaling.laws.registry import FLOOR, Law, by_name
from scaling.table import checks
from scaling.table.columns import numbers
from scaling.table.run_table import RunTable
from scaling.table.variation import refuse_rising

MOST_ARMS = 20
TABLE = "table"
"""In place of a column where each arm has a table of its own."""
SAME = 1e-9
"""Exponents of tables without noise differ by this little, which is rounding."""
EQUAL = 0.05
"""Exponents are called different where equal ones would differ as much with a smaller probability."""


@dataclass(frozen=True)
class ArmFit:
    """The law of one arm. The draws of all arms are the same resamplings, row by row of their clouds."""

    name: str
    runs: int
    fitted: FittedLaw
    params: dict[str, Estimate95]
    """The parameters as the formula writes them."""
    flops_per_d: float | None
    """Training FLOPs of one unit of data, for a law of data alone. None in all arms where an arm has no FLOPs."""
    largest: float
    """The largest compute of its runs; the largest D where arms are compared by data."""
    smallest: float


@dataclass(frozen=True)
class EqualExponents:
    """The test of equal exponents in all arms."""

    names: tuple[str, ...]
    differences: dict[str, Estimate95]
    """{"beta of nipp_plus - nspp": difference}, against the first arm."""
    p_value: float | None
    """The probability of differences as large as the fitted ones if the exponents are equal; None without draws."""
    common: dict[str, float]
    """The exponents of the fit that has them in common."""
    objective_ratio: float
    """Objective with common exponents over that with separate ones."""

    @property
    def differ(self) -> bool | None:
        return None if self.p_value is None else self.p_value < EQUAL


@dataclass(frozen=True)
class ArmsFit:
    """The laws of all arms, fitted together. The first arm is the reference."""

    by: str
    law: Law
    arms: tuple[ArmFit, ...]
    shared: tuple[str, ...]
    pairs: Pairs
    equal: EqualExponents | None
    """None where every exponent is shared."""
    draws: int
    """The bootstrap draws that converged."""
    response: str
    """The name of what the law gives: "loss", or "1 - recall_at_500"."""
    misfits: tuple[str, ...]
    """The arms whose runs the law misses by more than their noise: the residuals have a trend, or the seeds' means are
    off the law."""
    warnings: tuple[str, ...]

    @property
    def cost(self) -> str:
        """The unit in which arms are compared: "C" (FLOPs), or "D" where the FLOPs of an arm are not known."""
        return "C" if "n" in self.law.axes or all(arm.flops_per_d is not None for arm in self.arms) else "D"


def tables_of(frame: pl.DataFrame, by: str, source: str) -> dict[str, pl.DataFrame]:
    """Returns {arm: its rows}, in the order in which the arms first appear.

    Raises InputError where there is no such column, a row has no value in it, or it has fewer than two values.
    """
    if by not in frame.columns:
        raise InputError(f"{source} has no column {by!r} (--by); {near_miss(by, frame.columns)}")
    if frame[by].null_count():
        raise InputError(f"column {by!r} (--by) is empty in {frame[by].null_count()} rows of {source}; fill it in")
    parts = frame.partition_by(by, maintain_order=True)
    if not 2 <= len(parts) <= MOST_ARMS:
        shown = ", ".join(str(part[by][0]) for part in parts[:5])
        raise InputError(
            f"column {by!r} (--by) of {source} has {len(parts)} values ({shown}{', ...' if len(parts) > 5 else ''}); "
            f"wanted 2 to {MOST_ARMS} arms"
        )
    return {str(part[by][0]): part for part in parts}


def compare(
    tables: dict[str, RunTable],
    by: str,
    law: str | None = None,
    *,
    shared: Sequence[str] = (),
    objective: str = "huber",
    delta: float | str = "auto",
    floor: float | Literal["free"] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ArmsFit:
    """Fits the arms together.

    Args:
      tables: {arm: its runs}; the first is the reference.
      by: the column that makes the arms, or TABLE.
      law: a law of D, or of N and D. Default: that of `default_law` for the first arm.
      shared: exponents, shapes or the floor that all arms have in common.
      objective: as for `scaling.fit`, of the rows of all arms.
      delta: as for `scaling.fit`; "auto" takes the residuals of the arms fitted one by one.
      floor: as for `scaling.fit`.
      bootstrap: resamplings of whole pairs; 0 gives no interval.
      seed: the seed of the bootstrap.

    Raises:
      InputError: an argument has a wrong name or value.
      Refusal: an arm cannot carry the law; the message names the arm.
    """
    options = Options(objective=objective, delta=delta, bootstrap=bootstrap, seed=seed)
    tables = {name: table.in_order() for name, table in tables.items()}
    form = _form(tables, law)
    arms, warnings = _arms(tables, form, floor)
    _check_shared(shared, arms[0].problem, form)
    own_GP, goal = _starts(arms, options)
    joint = JointProblem.of(arms, shared)
    theta_P, value = joint.lowest(goal, own_GP)
    found = pairs(arms)
    cloud_SP, lost = _cloud(joint, goal, theta_P, draw(found, bootstrap, seed))
    flops_G, without_flops = _flops_per_d(arms)
    fits = tuple(
        _arm_fit(arm, theta_P[list(index)], cloud_SP[:, list(index)], flops)
        for arm, index, flops in zip(arms, joint.curve.index_G, flops_G, strict=True)
    )
    columns = arms[0].table.columns
    return ArmsFit(
        by=by,
        law=form,
        arms=fits,
        shared=tuple(shared),
        pairs=found,
        equal=_test_of_exponents(joint, goal, own_GP, fits, value),
        draws=len(cloud_SP),
        response="loss" if columns.loss is not None else f"1 - {columns.metric}",
        misfits=tuple(a.name for a, fit in zip(arms, fits, strict=True) if _misfits(a, fit.fitted.theta_P)),
        warnings=(*warnings, *lost, *without_flops),
    )


def _form(tables: dict[str, RunTable], law: str | None) -> Law:
    form = by_name(default_law(next(iter(tables.values()))) if law is None else law)
    if form.axes not in (("d",), ("n", "d")):
        raise InputError(f"arms are compared by a law of D or of N and D; {form.name} is {form.formula}")
    return form


def _cloud(
    joint: JointProblem, goal: Objective, theta_P: np.ndarray, weight_SR: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Returns the draws of all arms, [S, P], moved out as those of a single fit are, and a warning if some are lost."""
    cloud_SP = joint.bootstrap(goal, theta_P, weight_SR)
    factor = max(widening(len(np.unique(arm.table.cluster)), len(arm.problem.free)) for arm in joint.arms)
    lost = len(weight_SR) - len(cloud_SP)
    says = [f"{lost} of {len(weight_SR)} bootstrap draws did not converge and are left out."] if lost else []
    return moved_out(joint.curve, theta_P, cloud_SP, factor), says


def _test_of_exponents(
    joint: JointProblem, goal: Objective, own_GP: Sequence[np.ndarray], fits: Sequence[ArmFit], value: float
) -> EqualExponents | None:
    """Tests equal exponents, with a fit that has them in common; `value` is the objective without that."""
    problem = joint.arms[0].problem
    exponents = [name for name in problem.free if name not in problem.law.sizes and name not in joint.shared]
    if not exponents:
        return None
    common = JointProblem.of(joint.arms, (*joint.shared, *exponents))
    common_P, common_value = common.lowest(goal, own_GP)
    return _equal(fits, exponents, common_P[list(common.curve.index_G[0])], common_value / max(value, 1e-300))


def _starts(arms: Sequence[Arm], options: Options) -> tuple[list[np.ndarray], Objective]:
    """Returns the minimum of each arm fitted alone, and the objective of the joint fit."""
    goals = [_goal(arm.problem, options) for arm in arms]
    own_GP = [arm.problem.minima(goal).theta_SP[0] for arm, goal in zip(arms, goals, strict=True)]
    if options.objective != "huber" or options.delta != "auto":
        return own_GP, goals[0]
    residuals = [arm.problem.residual(theta) for arm, theta in zip(arms, own_GP, strict=True)]
    return own_GP, Objective("huber", adaptive_delta(np.concatenate(residuals)))


def _misfits(arm: Arm, theta_P: np.ndarray) -> bool:
    bend = trend(arm.problem, theta_P, arm.table.cluster)
    lack = lack_of_fit(arm.problem, theta_P, arm.table)
    return any(test is not None and test.p_value <= SURE for test in (bend, lack))


def _arms(tables: dict[str, RunTable], law: Law, floor: float | str | None) -> tuple[list[Arm], list[str]]:
    """Returns the arms with a common centre, and the checks' warnings."""
    points = [table.points(law) for table in tables.values()]
    centre = centre_of({axis: np.concatenate([at[axis] for at in points]) for axis in law.axes})
    arms, warnings = [], []
    for name, table in tables.items():
        known = table.known_floor if floor is None and law.has_floor else None
        known = float(floor) if isinstance(floor, int | float) else known
        try:
            warnings += [f"{name}: {text}" for text in (*table.warnings, *checks.refuse(table, law, known))]
            refuse_rising(table, law)
        except Refusal as refusal:
            raise Refusal(f"arm {name}: {refusal}") from refusal
        arms.append(Arm(name, table, Problem.of(table, law, known, centre)))
    free = {arm.problem.free for arm in arms}
    if len(free) > 1:
        raise InputError("the floor is known in some arms and not in others; give --floor, or --floor free")
    return arms, list(dict.fromkeys(warnings)) + _other_recipe(tables)


def _other_recipe(tables: dict[str, RunTable]) -> list[str]:
    """Names the columns of the recipe that differ between arms: the comparison cannot separate them from the arm."""
    first, *others = tables.values()
    names = [
        name
        for name in first.columns.recipe
        if any(set(table.frame[name].to_list()) != set(first.frame[name].to_list()) for table in others)
    ]
    return (
        [f"The arms differ in {', '.join(names)}; what is said of the arms is said of that too."] if names[1:] else []
    )


def _check_shared(shared: Sequence[str], problem: Problem, law: Law) -> None:
    may = [name for name in problem.free if name not in law.sizes or name == FLOOR.size]
    for name in shared:
        if name not in may:
            raise InputError(f"{name!r} cannot be shared by the arms of {law.name}; {near_miss(name, may)}")


def _goal(problem: Problem, options: Options) -> Objective:
    if options.objective != "huber":
        return Objective(options.objective)
    return problem.adaptive()[0] if options.delta == "auto" else Objective("huber", float(options.delta))


def _flops_per_d(arms: Sequence[Arm]) -> tuple[list[float | None], list[str]]:
    """Returns each arm's FLOPs of a unit of data for a law of data alone, and a warning where only some arms have them.

    FLOPs of one arm cannot be compared with data of another, so it is None in all arms unless every arm has FLOPs.
    """
    if "n" in arms[0].problem.points:
        return [None] * len(arms), []
    found = [_median_flops(arm) for arm in arms]
    without = [arm.name for arm, flops in zip(arms, found, strict=True) if flops is None]
    if not without:
        return found, []
    some = f"{' and '.join(without)} {'has' if len(without) == 1 else 'have'} no FLOPs, so arms are compared by data."
    return [None] * len(arms), [some] if len(without) < len(arms) else []


def _median_flops(arm: Arm) -> float | None:
    """Returns the median FLOPs of a unit of data over the rows that have FLOPs; None without such a row."""
    table = arm.table
    if table.columns.flops is None:
        return None
    flops_R = numbers(table.frame, table.columns.flops, table.row_id) / arm.problem.points["d"]
    known = np.isfinite(flops_R)
    return float(np.median(flops_R[known])) if known.any() else None


def _arm_fit(arm: Arm, theta_P: np.ndarray, cloud_SP: np.ndarray, flops_per_d: float | None) -> ArmFit:
    table, problem = arm.table, arm.problem
    ranges: dict[str, Any] = {axis: (float(x.min()), float(x.max())) for axis, x in problem.points.items()}
    cost_R = problem.points["d"] * (flops_per_d or 1.0)
    if "n" in problem.points:
        cost_R = table.flops_per_nd * problem.points["n"] * problem.points["d"]
        ranges["c"] = (float(cost_R.min()), float(cost_R.max()))
    fitted = FittedLaw(
        law=problem.law,
        theta_P=theta_P,
        cloud_SP=cloud_SP,
        centre=problem.centre,
        known_floor=problem.known_floor,
        flops_per_nd=table.flops_per_nd,
        ranges=ranges,
        rivals=(),
    )
    point, draws = fitted.natural(), fitted.natural(cloud_SP)
    params = {name: estimate(float(point[name][0]), draws[name]) for name in point}
    return ArmFit(arm.name, len(table), fitted, params, flops_per_d, float(cost_R.max()), float(cost_R.min()))


def estimate(value: float, draws_S: np.ndarray) -> Estimate95:
    """Returns a number with the 95 % range of its draws. What is not finite is None."""
    draws_S = draws_S[~np.isnan(draws_S)]
    # the nearest draw, because a percentile between a number and infinity is not a number
    ends = np.percentile(draws_S, [2.5, 97.5], method="nearest") if len(draws_S) else (np.nan, np.nan)
    return Estimate95(*(float(x) if np.isfinite(x) else None for x in (value, *ends)))


def _equal(
    fits: Sequence[ArmFit], exponents: Sequence[str], common_P: np.ndarray, objective_ratio: float
) -> EqualExponents:
    """Compares the exponents of all arms with the first arm's.

    One difference is tested by the percentiles of its draws, as its interval is. Several are tested by Wald's test with
    the bootstrap in place of the chi-square (Hall 1992, 4.3): how many draws are at least as far from the point as no
    difference is, in the metric of the draws' covariance.
    """
    first, *others = fits
    free = first.fitted.free
    place = [free.index(name) for name in exponents]
    point_K = np.concatenate([(other.fitted.theta_P - first.fitted.theta_P)[place] for other in others])
    draws_SK = np.concatenate([(other.fitted.cloud_SP - first.fitted.cloud_SP)[:, place] for other in others], axis=1)
    names = [f"{name} of {other.name} - {first.name}" for other in others for name in exponents]
    differences = {name: estimate(float(point_K[k]), draws_SK[:, k]) for k, name in enumerate(names)}
    p_value = _p_value(point_K, draws_SK) if len(draws_SK) > len(point_K) else None
    common = {name: float(common_P[at]) for name, at in zip(exponents, place, strict=True)}
    return EqualExponents(tuple(exponents), differences, p_value, common, objective_ratio)


def _p_value(point_K: np.ndarray, draws_SK: np.ndarray) -> float:
    """Returns the two-sided p-value of no difference, at least 1 / (S + 1)."""
    S, K = draws_SK.shape
    if np.all(np.abs(point_K) < SAME):
        return 1.0
    if K == 1:
        return float(min(1.0, 2 * (1 + min(np.sum(draws_SK <= 0), np.sum(draws_SK >= 0))) / (1 + S)))
    away_SK = draws_SK - point_K
    inverse = np.linalg.pinv(away_SK.T @ away_SK / S)
    distance_S = np.einsum("SK,KL,SL->S", away_SK, inverse, away_SK)
    return float((1 + np.sum(distance_S >= point_K @ inverse @ point_K)) / (1 + S))
