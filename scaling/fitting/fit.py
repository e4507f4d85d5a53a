"""A law fitted to a table of runs: `fit(table) -> Fit`, with uncertainty, competing minima and held-out checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.export import plain, write_json
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.forms import Forms, compare_forms
from scaling.fitting.heldout import HeldOut, predict_heldout
from scaling.fitting.intervals import Interval, intervals, sizes_at_centre, widened
from scaling.fitting.minimize import Objective, Solution, robust_sigma
from scaling.fitting.noise import LackOfFit, SeedNoise, lack_of_fit, seed_noise
from scaling.fitting.problem import FREE_FLOOR, FULL_TABLE, Problem
from scaling.fitting.profile import Profile, Profiles, profile
from scaling.fitting.sensitivity import Variant, variants
from scaling.laws import registry
from scaling.laws.registry import FLOOR, LAWS, Law
from scaling.table import checks
from scaling.table.run_table import Columns, RunTable, read

OBJECTIVES = ("huber", "ls", "lad")
BEST = "best"
"""The name that stands for the form which predicts the held-out runs best."""
POLISH = 3
"""Times that a fit begins again from a lower minimum that its profiles came across."""


@dataclass(frozen=True)
class Minimum:
    """One of the competing minima."""

    objective: float
    gap: float
    """Objective over the lowest one's, minus 1."""
    params: dict[str, float]


@dataclass(frozen=True)
class FreeFloor:
    """The same law with its floor fitted, as a check on a known one."""

    value: float | None
    interval95: Interval
    agrees: bool | None
    """Whether the known floor lies within; None where the interval has neither end."""


@dataclass(frozen=True)
class Fit(FittedLaw):
    """A fitted law. `params` and `interval95` hold what the data determine: an open parameter is None there, and what
    is known of it is in `bounds`. Predictions need no parameter's value and are always there."""

    table: RunTable
    objective: Objective
    objective_value: float
    params: dict[str, float | None]
    interval95: dict[str, tuple[float, float] | None]
    bounds: dict[str, Interval]
    """Of the open parameters only."""
    sizes_at_centre: dict[str, float]
    """Each term's part of the response at the centre of the data."""
    sizes_at_centre95: dict[str, tuple[float, float] | None]
    profile: dict[str, Profile]
    """{fitted parameter: its profile likelihood}; of a size: at the centre. Empty if it was not asked for."""
    minima: tuple[Minimum, ...]
    heldout: tuple[HeldOut, ...]
    forms: Forms | None
    variants: tuple[Variant, ...]
    """The same law under other objectives, and with the dropped runs back."""
    warnings: tuple[str, ...]
    free_floor: FreeFloor | None
    residual_sigma: float
    """Robust standard deviation of the log response around the law, 1.4826 median |r|."""
    seed_noise: SeedNoise | None
    """Spread between repeats; None where no run was repeated."""
    lack_of_fit: LackOfFit | None
    draws_SP: np.ndarray
    """The bootstrap's theta as drawn; `cloud_SP` is `intervals.widened` of it."""
    bootstrap: int
    """Draws asked for."""
    seed: int

    @property
    def open_intervals(self) -> tuple[str, ...]:
        return tuple(self.bounds)

    def standard_error(self) -> dict[str, float]:
        """Standard deviation of the bootstrap's draws of each parameter as the formula writes it; {} without draws."""
        draws = self.natural(self.draws_SP)
        return {name: float(values.std()) for name, values in draws.items() if len(values)}

    def residual(self) -> np.ndarray:
        """log response - log law of the fitted rows, [R]."""
        return np.log(self.table.response(self.law)) - np.log(self.loss_at(self.table.points(self.law))[0])

    def summary(self) -> str:
        """Plain text: parameters, intervals, warnings. Sizes at the centre are the ones to compare between fits."""
        lines = [f"{self.law.name}: {self.law.formula}   [{self.objective.name}, {len(self.table)} runs]"]
        lines += [f"  {name:6s} {self.describe(name)}" for name in self.params]
        lines += [f"  {name} term at the centre: {value:.5g}" for name, value in self.sizes_at_centre.items()]
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])

    def describe(self, name: str) -> str:
        """A parameter with its interval, or what bounds it."""
        if name == FLOOR.size and self.known_floor is not None:
            return f"{self.known_floor:.7g}  (known)"
        if name in self.bounds:
            low, high = self.bounds[name]
            ends = ([] if low is None else [f"above {low:.4g}"]) + ([] if high is None else [f"below {high:.4g}"])
            return f"open: {' and '.join(ends)} (95 %)" if ends else "open: the data do not bound it"
        interval = self.interval95[name]
        return f"{self.params[name]:.7g}" + (f"  [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else "")

    def to_dict(self) -> dict[str, Any]:
        """Contract 4, with more keys. NaN and infinity become None."""
        values = self.stored() | {
            "formula": self.law.formula,
            "objective_name": self.objective.name,
            "delta": self.objective.delta if self.objective.name == "huber" else None,
            "objective": self.objective_value,
            "n_rows": len(self.table),
            "excluded": [vars(row) for row in self.table.excluded],
            "params": self.params,
            "interval95": self.interval95,
            "standard_error": self.standard_error(),
            "open_intervals": self.open_intervals,
            "bounds": self.bounds,
            "sizes_at_centre": self.sizes_at_centre,
            "sizes_at_centre_interval95": self.sizes_at_centre95,
            "profile": self.profile,
            "residual_sigma": self.residual_sigma,
            "seed_noise": self.seed_noise,
            "lack_of_fit": self.lack_of_fit,
            "minima": self.minima,
            "heldout": self.heldout,
            "forms": None
            if self.forms is None
            else vars(self.forms) | {"near": self.forms.near, "spread": self.forms.spread},
            "variants": self.variants,
            "warnings": self.warnings,
            "free_floor": self.free_floor,
            "bootstrap": {"draws": self.bootstrap, "converged": len(self.cloud_SP)},
            "seed": self.seed,
            "source": self.table.source,
            "data_hash": self.table.data_hash(),
        }
        return plain(values)

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` with all 17 digits, whole or not at all. `scaling.load` reads it."""
        write_json(self.to_dict(), Path(path))


def fit(
    table: Any,
    law: str = "chinchilla",
    *,
    columns: Columns | None = None,
    objective: str = "huber",
    delta: float | str = "auto",
    floor: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    full: bool = True,
    **names: Any,
) -> Fit:
    """Fits a law to the log of the loss (or of a metric).

    Args:
      table: a RunTable; or the path of a table, or a Polars or pandas frame, which `read` reads.
      law: a name in `registry.LAWS`, or "best": the form that predicts the held-out largest runs best.
      columns: the names of the table's columns, where it is not a RunTable.
      objective: "huber", "ls" (least squares) or "lad" (least absolute deviation), of residuals in log loss.
      delta: Huber's threshold in nats of log loss; "auto": 1.345 robust standard deviations of the fit's own residuals.
      floor: the known irreducible loss, in the table's unit. Default: the table's floor column, if it has one.
      bootstrap: resamplings of whole clusters behind the intervals; 0 gives none.
      seed: of the bootstrap.
      full: also walk the profile likelihood of each parameter (an open one takes the parameter's value away), refit
        without the largest runs and predict them, hold every form of the law against those, and try other objectives.
      **names: fields of Columns, as in `fit(frame, n="params", d="tokens", loss="loss")`.

    Raises:
      InputError: something was named wrongly.
      Refusal: the table cannot carry the law.

    The procedure follows the converged reanalysis of Besiroglu et al. 2024 (2404.10102).
    """
    if not isinstance(table, RunTable):
        table = read(table, columns, **names)
    elif columns is not None or names:
        raise InputError(f"{' and '.join(names) or 'columns'} came with a table whose columns are named already")
    if objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}; {near_miss(objective, OBJECTIVES)}")
    if delta != "auto" and not (isinstance(delta, int | float) and np.isfinite(delta) and delta > 0):
        raise InputError(f"delta is {delta!r}; wanted 'auto' or a number above 0, in nats of log loss")
    if bootstrap < 0:
        raise InputError(f"bootstrap is {bootstrap}; wanted 0 or more draws")
    if law != BEST and law not in LAWS:
        raise InputError(f"unknown law {law!r}; {near_miss(law, [*LAWS, BEST])}")
    known_floor = table.known_floor if floor is None else floor
    start = LAWS[_simplest(table) if law == BEST else law]
    if floor is None and not start.has_floor:
        known_floor = None
    found, goal = _begin(table, start, objective, delta, known_floor)
    compared = compare_forms(table, start, goal, known_floor) if full or law == BEST else None
    if law == BEST and compared.chosen not in (None, start.name):
        start = LAWS[compared.chosen]
        known_floor = known_floor if start.has_floor else None
        found, goal = _begin(table, start, objective, delta, known_floor)
    done = _finish(found, table, goal, known_floor, bootstrap, seed, full, FULL_TABLE)
    warnings = list(done.warnings)
    if law == BEST and compared.chosen is None:
        warnings.append(f"No form could be held out: {start.name} is the simplest with a floor, and not chosen.")
    free_floor = None
    if known_floor is not None:
        free_floor = _free_floor(table, done, objective, delta, bootstrap, seed, full, warnings)
    held = predict_heldout(table, start, goal, known_floor, bootstrap, seed, warnings) if full else ()
    others = variants(table, start, known_floor, goal, warnings) if full else ()
    return replace(done, heldout=held, forms=compared, variants=others, free_floor=free_floor, warnings=tuple(warnings))


def _simplest(table: RunTable) -> str:
    if table.metric is not None and table.loss is not None:
        return "metric_sigmoid"
    return "power_floor" if table.n is None else "chinchilla"


@dataclass(frozen=True)
class _Begun:
    """A problem that the checks let through, with their warnings."""

    problem: Problem
    warnings: tuple[str, ...]


def _begin(
    table: RunTable, law: Law, objective: str, delta: float | str, known_floor: float | None
) -> tuple[_Begun, Objective]:
    warnings = list(checks.refuse(table, law, known_floor))
    problem = Problem.of(table, law, known_floor)
    if objective != "huber":
        return _Begun(problem, tuple(warnings)), Objective(objective)
    if delta != "auto":
        return _Begun(problem, tuple(warnings)), Objective("huber", float(delta))
    goal, settled = problem.adaptive()
    if not settled:
        warnings.append(f"Huber's adaptive delta did not settle; {goal.delta:.4g} was used.")
    return _Begun(problem, tuple(warnings)), goal


def _finish(
    begun: _Begun, table: RunTable, goal: Objective, known_floor: float | None, bootstrap: int, seed: int,
    profiles: bool, stream: int,
) -> Fit:  # fmt: skip
    problem, law, warnings = begun.problem, begun.problem.law, list(begun.warnings)
    minima, walked = _minima(problem, goal, table, profiles, usual=stream == FULL_TABLE)
    theta_P = minima.theta_SP[0]
    draws_SP = problem.bootstrap(goal, minima, table.cluster, bootstrap, seed, stream)
    if len(draws_SP) < 0.99 * bootstrap:
        warnings.append(
            f"{bootstrap - len(draws_SP)} of {bootstrap} bootstrap draws did not converge and are left out."
        )
    cloud_SP = widened(problem, theta_P, draws_SP, len(np.unique(table.cluster)))
    params, interval95, bounds = intervals(problem, theta_P, cloud_SP, walked)
    sizes, sizes95 = sizes_at_centre(problem, theta_P, cloud_SP)
    residual = problem.residual(theta_P)
    return Fit(
        law=law,
        theta_P=theta_P,
        cloud_SP=cloud_SP,
        draws_SP=draws_SP,
        centre=problem.centre,
        known_floor=known_floor,
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
        heldout=(),
        forms=None,
        variants=(),
        warnings=tuple(warnings),
        free_floor=None,
        residual_sigma=robust_sigma(residual),
        seed_noise=seed_noise(table, law),
        lack_of_fit=lack_of_fit(residual, table, law, known_floor),
        bootstrap=bootstrap,
        seed=seed,
    )


def _minima(
    problem: Problem, goal: Objective, table: RunTable, profiles: bool, usual: bool
) -> tuple[Solution, dict[str, Profile]]:
    """The minima and the profiles around the lowest; again from a lower one, if a profile walks into it."""
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


def _free_floor(table, known: Fit, objective, delta, bootstrap, seed, profiles, warnings) -> FreeFloor | None:
    try:
        begun, goal = _begin(table, known.law, objective, delta, None)
        free = _finish(begun, table, goal, None, bootstrap, seed, profiles, FREE_FLOOR)
    except Refusal as refusal:
        warnings.append(f"Whether a free floor would agree with the known one cannot be told: {refusal}")
        return None
    low, high = free.bounds.get(FLOOR.size) or free.interval95[FLOOR.size] or (None, None)
    slack = 1e-9 * known.known_floor  # noise-free tables have intervals of rounding's width
    agrees = (low is None or low <= known.known_floor + slack) and (high is None or known.known_floor - slack <= high)
    return FreeFloor(free.params[FLOOR.size], (low, high), None if low is None and high is None else agrees)
