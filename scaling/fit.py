"""A law fitted to a table of runs, with its uncertainty, competing minima and a held-out check: `fit(table) -> Fit`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling import checks, laws
from scaling.errors import InputError, Refusal, near_miss
from scaling.heldout import HeldOut, predict_heldout
from scaling.laws import FLOOR, Law
from scaling.minimize import Objective, robust_sigma
from scaling.problem import Problem, geometric_centre, predict_band
from scaling.table import Columns, RunTable, read

OBJECTIVES = ("huber", "ls", "lad")
OPEN_SHARE = 0.025
"""Share of bootstrap draws at a bound above which a 95 % interval has no end on that side."""
FULL_TABLE, HELDOUT, FREE_FLOOR = range(3)
"""Streams of the seed, so that no two bootstraps share their draws."""

Interval = tuple[float | None, float | None]
"""A 95 % interval; None is an end that the data do not give."""


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
class Fit:
    """A fitted law. `params` and `interval95` hold what the data determine: an open parameter is None there, and what
    is known of it is in `bounds`. Predictions need no parameter's value and are always there."""

    table: RunTable
    law: Law
    objective: Objective
    objective_value: float
    theta_P: np.ndarray
    cloud_SP: np.ndarray
    """The bootstrap's theta, of the draws that converged."""
    centre: dict[str, float]
    """Geometric mean of the data on each axis."""
    params: dict[str, float | None]
    interval95: dict[str, tuple[float, float] | None]
    bounds: dict[str, Interval]
    """Of the open parameters only."""
    sizes_at_centre: dict[str, float]
    """Each term's part of the loss at the centre of the data."""
    sizes_at_centre95: dict[str, tuple[float, float] | None]
    minima: tuple[Minimum, ...]
    heldout: tuple[HeldOut, ...]
    warnings: tuple[str, ...]
    known_floor: float | None
    free_floor: FreeFloor | None
    residual_sigma: float
    """Robust standard deviation of log loss around the law, 1.4826 median |r|."""
    bootstrap: int
    seed: int

    @property
    def open_intervals(self) -> tuple[str, ...]:
        return tuple(self.bounds)

    @property
    def floor(self) -> float:
        """The known floor, else the fitted one, else 0."""
        if not self.law.has_floor:
            return 0.0
        return float(laws.natural(self.law, self.theta_P[None], self.centre, self.known_floor)[FLOOR.size][0])

    def predict(self, n: Any = None, d: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The law's loss at N = `n` and D = `d` (numbers or arrays, broadcast): (value, low, high), 95 % band.

        The band is the bootstrap's, of the law and not of a single run; NaN where the fit was made without bootstrap.
        Raises InputError if the law needs an axis that is not given.
        """
        given = {"n": n, "d": d}
        missing = [axis for axis in self.law.axes if given[axis] is None]
        if missing:
            raise InputError(f"{self.law.name} ({self.law.formula}) needs {' and '.join(missing)} to predict")
        points = dict(zip(self.law.axes, np.broadcast_arrays(*(given[a] for a in self.law.axes)), strict=True))
        shape = points[self.law.axes[0]].shape
        flat = {axis: np.asarray(values, float).ravel() for axis, values in points.items()}
        value, low, high = predict_band(self.law, flat, self.centre, self.known_floor, self.theta_P, self.cloud_SP)
        return value.reshape(shape), low.reshape(shape), high.reshape(shape)

    def residual(self) -> np.ndarray:
        """log loss - log law of the fitted rows, [R]."""
        return Problem.of(self.table, self.law, self.centre, self.known_floor).residual(self.theta_P)

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
            return (
                f"open: {' and '.join(ends)} (95 %)"
                if ends
                else "open: it ran to its limit, and the draws do not bound it"
            )
        interval = self.interval95[name]
        return f"{self.params[name]:.7g}" + (f"  [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else "")

    def to_dict(self) -> dict[str, Any]:
        """Contract 4, with a few keys more. NaN and infinity become None."""
        values = {
            "law": self.law.name,
            "formula": self.law.formula,
            "objective_name": self.objective.name,
            "delta": self.objective.delta if self.objective.name == "huber" else None,
            "objective": self.objective_value,
            "n_rows": len(self.table),
            "excluded": [vars(row) for row in self.table.excluded],
            "params": self.params,
            "interval95": self.interval95,
            "open_intervals": self.open_intervals,
            "bounds": self.bounds,
            "centre": self.centre,
            "sizes_at_centre": self.sizes_at_centre,
            "sizes_at_centre_interval95": self.sizes_at_centre95,
            "residual_sigma": self.residual_sigma,
            "minima": [vars(minimum) for minimum in self.minima],
            "heldout": [vars(run) for run in self.heldout],
            "warnings": self.warnings,
            "known_floor": self.known_floor,
            "free_floor": None if self.free_floor is None else vars(self.free_floor),
            "bootstrap": {"draws": self.bootstrap, "converged": len(self.cloud_SP)},
            "seed": self.seed,
            "source": self.table.source,
            "data_hash": self.table.data_hash(),
        }
        return _plain(values)

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` with all 17 digits, whole or not at all."""
        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        part.replace(path)


def fit(
    table: RunTable | str | Path,
    law: str = "chinchilla",
    *,
    columns: Columns | None = None,
    objective: str = "huber",
    delta: float | str = "auto",
    floor: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    heldout: bool = True,
) -> Fit:
    """Fits a law to log loss.

    Args:
      table: a RunTable, or the path of a table, whose `columns` are then named.
      law: a name in `laws.LAWS`.
      objective: "huber", "ls" (least squares) or "lad" (least absolute deviation), of residuals in log loss.
      delta: Huber's threshold in nats of log loss; "auto": 1.345 robust standard deviations of the fit's own residuals.
      floor: the known irreducible loss, in the table's unit. Default: the table's floor column, if it has one.
      bootstrap: resamplings of whole clusters behind the intervals; 0 gives none.
      seed: of the bootstrap.
      heldout: also refit without the largest runs and predict them.

    Raises:
      InputError: something was named wrongly.
      Refusal: the table cannot carry the law.

    The procedure follows the converged reanalysis of Besiroglu et al. 2024 (2404.10102).
    """
    if not isinstance(table, RunTable):
        if columns is None:
            raise InputError("a path was given without columns=Columns(...), which says what its columns are called")
        table = read(table, columns)
    if objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}; {near_miss(objective, OBJECTIVES)}")
    if delta != "auto" and not (isinstance(delta, int | float) and np.isfinite(delta) and delta > 0):
        raise InputError(f"delta is {delta!r}; wanted 'auto' or a number above 0, in nats of log loss")
    if bootstrap < 0:
        raise InputError(f"bootstrap is {bootstrap}; wanted 0 or more draws")
    known_floor = table.known_floor if floor is None and laws.by_name(law).has_floor else floor
    return _fit(table, laws.by_name(law), objective, delta, known_floor, bootstrap, seed, heldout)


def _fit(
    table: RunTable,
    law: Law,
    objective_name: str,
    delta: float | str,
    known_floor: float | None,
    bootstrap: int,
    seed: int,
    heldout: bool,
    stream: int = FULL_TABLE,
) -> Fit:
    warnings = list(checks.refuse(table, law, known_floor))
    centre = geometric_centre(table, law)
    problem = Problem.of(table, law, centre, known_floor)
    objective = _objective(problem, objective_name, delta, warnings)
    minima = problem.minima(objective)
    theta_P = minima.theta_SP[0]
    cloud_SP = problem.bootstrap(objective, minima, table.cluster, bootstrap, (seed, stream))
    if len(cloud_SP) < 0.99 * bootstrap:
        warnings.append(
            f"{bootstrap - len(cloud_SP)} of {bootstrap} bootstrap draws did not converge and are left out."
        )
    params, interval95, bounds = _intervals(problem, theta_P, cloud_SP, centre, known_floor)
    sizes, sizes95 = _sizes_at_centre(problem, theta_P, cloud_SP)
    free_floor = None
    if known_floor is not None:
        free_floor = _free_floor(table, law, objective_name, delta, known_floor, bootstrap, seed, warnings)
    return Fit(
        table=table,
        law=law,
        objective=objective,
        objective_value=float(minima.objective_S[0]),
        theta_P=theta_P,
        cloud_SP=cloud_SP,
        centre=centre,
        params=params,
        interval95=interval95,
        bounds=bounds,
        sizes_at_centre=sizes,
        sizes_at_centre95=sizes95,
        minima=_describe_minima(minima, law, centre, known_floor),
        heldout=predict_heldout(table, law, objective, known_floor, bootstrap, (seed, HELDOUT), warnings)
        if heldout
        else (),
        warnings=tuple(warnings),
        known_floor=known_floor,
        free_floor=free_floor,
        residual_sigma=robust_sigma(problem.residual(theta_P)),
        bootstrap=bootstrap,
        seed=seed,
    )


def _objective(problem: Problem, name: str, delta: float | str, warnings: list[str]) -> Objective:
    if name != "huber":
        return Objective(name)
    if delta != "auto":
        return Objective("huber", float(delta))
    objective, settled = problem.adaptive()
    if not settled:
        warnings.append(f"Huber's adaptive delta did not settle; {objective.delta:.4g} was used.")
    return objective


def _intervals(problem, theta_P, cloud_SP, centre, known_floor):
    """(params, interval95, bounds). A parameter is open where the point or over 2.5 % of the draws are at its bound."""
    point = {k: float(v[0]) for k, v in laws.natural(problem.law, theta_P[None], centre, known_floor).items()}
    draws = laws.natural(problem.law, cloud_SP, centre, known_floor)
    params, interval95, bounds = dict(point), dict.fromkeys(point), {}
    ends_of_point, ends_of_draws = problem.at_bound(theta_P[None]), problem.at_bound(cloud_SP)
    for name in problem.free:
        open_ends = [
            bool(point_at[0]) or (len(cloud_SP) > 0 and bool(draws_at.mean() > OPEN_SHARE))
            for point_at, draws_at in zip(ends_of_point[name], ends_of_draws[name], strict=True)
        ]
        ends = [float(x) for x in np.percentile(draws[name], [2.5, 97.5])] if len(cloud_SP) else [None, None]
        if any(open_ends):
            params[name] = None
            # with all draws at one end the other percentile lies there too, and bounds nothing
            useless = [draws_at.mean() >= 1 - OPEN_SHARE for draws_at in reversed(ends_of_draws[name])]
            bounds[name] = tuple(None if o or u else e for o, u, e in zip(open_ends, useless, ends, strict=True))
        elif len(cloud_SP):
            interval95[name] = tuple(ends)
    return params, interval95, bounds


def _sizes_at_centre(problem: Problem, theta_P: np.ndarray, cloud_SP: np.ndarray):
    sizes = [t.size for t in problem.law.terms if t.size in problem.free]
    gone = problem.at_bound(theta_P[None])
    value = {name: 0.0 if gone[name][0][0] else float(np.exp(theta_P[problem.free.index(name)])) for name in sizes}
    if not len(cloud_SP):
        return value, dict.fromkeys(sizes)
    cloud = np.percentile(np.exp(cloud_SP), [2.5, 97.5], axis=0)
    return value, {name: tuple(float(x) for x in cloud[:, problem.free.index(name)]) for name in sizes}


def _describe_minima(minima, law, centre, known_floor) -> tuple[Minimum, ...]:
    values = laws.natural(law, minima.theta_SP, centre, known_floor)
    lowest = max(float(minima.objective_S[0]), np.finfo(float).tiny)
    return tuple(
        Minimum(float(objective), float(objective) / lowest - 1, {name: float(v[i]) for name, v in values.items()})
        for i, objective in enumerate(minima.objective_S)
    )


def _free_floor(table, law, objective_name, delta, known_floor, bootstrap, seed, warnings) -> FreeFloor | None:
    try:
        free = _fit(table, law, objective_name, delta, None, bootstrap, seed, heldout=False, stream=FREE_FLOOR)
    except Refusal as refusal:
        warnings.append(f"Whether a free floor would agree with the known one cannot be told: {refusal}")
        return None
    low, high = free.bounds.get("E") or free.interval95["E"] or (None, None)
    slack = 1e-9 * known_floor  # noise-free tables have intervals of rounding's width
    agrees = (low is None or low <= known_floor + slack) and (high is None or known_floor - slack <= high)
    return FreeFloor(free.params["E"], (low, high), None if low is None and high is None else agrees)


def _plain(value: Any) -> Any:
    """JSON's types; what JSON has no number for is missing."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return {k: _plain(v) for k, v in vars(value).items()} if hasattr(value, "__dataclass_fields__") else value
