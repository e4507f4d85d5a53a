"""Can these runs identify this law? The answer before anybody pays for them: `check_plan(law, params, n, d, sigma)`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from scaling.design.assumption import SIGMA_TYPICAL, Assumption, assume
from scaling.design.information import Expected, covariance, expect, information, jacobian, quantity
from scaling.errors import InputError, Refusal
from scaling.fitting.fitted import FittedLaw
from scaling.laws import registry
from scaling.laws.terms import Points
from scaling.table import checks
from scaling.table.run_table import Columns, from_frame

WANTED_WIDTH = 0.5
"""An exponent is identified where half its expected 95 % interval is below this part of its value."""


@dataclass(frozen=True)
class Verdict:
    """Whether runs identify a law, and what they will tell of it."""

    law: str
    runs: int
    identifies: bool
    reasons: tuple[str, ...]
    """Why not; empty where they do."""
    expected: tuple[Expected, ...]
    """Each free parameter, then `a` where the law has it, then what else was asked for."""
    weakest: str
    """The change of parameters that the runs see least, in words."""
    warnings: tuple[str, ...]
    sigma: float
    """Standard deviation of log loss that was reckoned with, in nats."""
    assumption: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check_plan(
    law: str,
    params: dict[str, float] | None,
    n: np.ndarray,
    d: np.ndarray,
    sigma: float = SIGMA_TYPICAL,
    *,
    floor: float | None = None,
) -> Verdict:
    """Whether runs at N = `n` and D = `d` ([R] each) would identify `law`.

    Args:
      law: a name in `registry.LAWS`, of N and D or one of them.
      params: the law to reckon with, as its formula writes it; None: typical ones, see `assumption.assume`.
      sigma: standard deviation of log loss around the law, in nats.
      floor: a known irreducible loss, which is then no parameter. In the unit of the loss, so only with `params`.

    Raises:
      InputError: an unknown law or parameter, N or D of different lengths or not above 0, sigma not above 0.
    """
    chosen = registry.by_name(law)
    points = planned_points(chosen, n, d)
    if floor is not None and params is None:
        raise InputError("a known floor has the unit of the loss, typical parameters have none: assume parameters too")
    fitted = assume(chosen, params, points, floor)
    told = "typical parameters" if params is None else ", ".join(f"{k}={v:.6g}" for k, v in params.items())
    return identify(Assumption(fitted, sigma, told), points)


def check_axes(law: registry.Law) -> None:
    """Raises InputError for a law of something else than N and D."""
    if not set(law.axes) <= {"n", "d"}:
        axes = " and ".join(checks.AXIS[axis] for axis in law.axes)
        raise InputError(f"{law.name} is a law of {axes}; a design is of N and D: name a law of these, as chinchilla")


def planned_points(law: registry.Law, n: np.ndarray, d: np.ndarray) -> Points:
    """{"n": [R], "d": [R]}. Raises InputError for a law of other axes, and for numbers that are no N and D."""
    check_axes(law)
    points = {"n": np.asarray(n, float), "d": np.asarray(d, float)}
    if points["n"].ndim != 1 or points["n"].shape != points["d"].shape or not len(points["n"]):
        raise InputError(f"N has shape {points['n'].shape} and D {points['d'].shape}; wanted one N and one D a run")
    for axis, values in points.items():
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise InputError(f"{axis.upper()} of a planned run is {values[bad][0]:g}; wanted a finite number above 0")
    return points


def identify(assumption: Assumption, points: Points, more: tuple[str, ...] = ()) -> Verdict:
    """What one run at each of R `points` {axis: [R]} tells of the assumed law; axes that are not its own tell nothing.

    Args:
      more: quantities to expect beside the parameters, see `information.quantity`.

    Raises:
      InputError: sigma is not above 0, or the law has no such quantity.
    """
    fitted, sigma = assumption.law, assumption.sigma
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma is {sigma}; wanted the standard deviation of log loss, a number above 0 in nats")
    information_PP = information(fitted, points, sigma)
    expected = expectations(fitted, covariance(information_PP), more)
    weakest = _weakest(fitted, points, information_PP, sigma)
    refused, warnings = refusal(fitted, points)
    wide = [e for e in expected if e.name in exponents(fitted) and e.half_width95 >= WANTED_WIDTH * e.value]
    reasons = [] if refused is None else [refused]
    if wide:
        told = " and ".join(f"{e.name} is expected at {e}" for e in wide)
        reasons.append(
            f"{told} (95 %); wanted is half its value or less. {weakest} Add runs where N and D part, more of them, or "
            "lower the noise with seeds."
        )
    return Verdict(
        law=fitted.law.name,
        runs=len(points["n"]),
        identifies=not reasons,
        reasons=tuple(reasons),
        expected=expected,
        weakest=weakest,
        warnings=warnings,
        sigma=sigma,
        assumption=assumption.told,
    )


def exponents(fitted: FittedLaw) -> tuple[str, ...]:
    """The free parameters that are no sizes."""
    return tuple(p for p in fitted.free if p not in fitted.law.logs)


def expectations(fitted: FittedLaw, covariance_PP: np.ndarray, more: tuple[str, ...] = ()) -> tuple[Expected, ...]:
    """Each free parameter and `a` where the law has it, then `more`."""
    free = fitted.free
    names = dict.fromkeys((*free, *(("a",) if {"alpha", "beta"} <= set(free) else ()), *more))
    return tuple(expect(fitted, quantity(name, fitted), covariance_PP) for name in names)


def refusal(fitted: FittedLaw, points: Points) -> tuple[str | None, tuple[str, ...]]:
    """Why a fit of the law to runs at `points` would be refused (None: it would not), and its warnings.

    The losses are the assumed law's own, so nothing but the design can be at fault.
    """
    loss = fitted.loss_at(points)[0]
    runs = [str(i) for i in range(len(loss))]
    frame = pl.DataFrame({"run_id": runs, "seed": runs, **points, "loss": loss})
    try:
        named = {field: axis for axis, field in (("n", "n"), ("d", "d"), ("u", "unique")) if axis in points}
        table = from_frame(frame, Columns(loss="loss", **named), source="the plan")
        return None, checks.refuse(table, fitted.law, fitted.known_floor)
    except Refusal as refused:
        return str(refused), ()


def _weakest(fitted: FittedLaw, points: Points, information_PP: np.ndarray, sigma: float) -> str:
    """The eigenvector of the least information, taken until an exponent is off by half or a size by a factor of 2."""
    free, law = fitted.free, fitted.law
    direction_P = np.linalg.eigh(information_PP)[1][:, 0]
    limit_P = np.where([p in law.logs for p in free], np.log(2), WANTED_WIDTH * np.abs(fitted.theta_P))
    reach_P = direction_P / limit_P
    leading = int(np.argmax(np.abs(reach_P)))
    step_P = direction_P / reach_P[leading]
    parts = []
    for at in np.argsort(-np.abs(reach_P)):
        if abs(step_P[at]) > 0.05 * limit_P[at]:
            to = f"x{np.exp(step_P[at]):.3g}" if free[at] in law.logs else f"{step_P[at]:+.2g}"
            parts.append(f"{_told(free[at], law)} {to}")
    moved = float(np.abs(np.expm1(jacobian(fitted, points) @ step_P)).max())
    change = " with ".join([parts[0], ", ".join(parts[1:])][: len(parts)])
    return f"{change} moves no loss by more than {100 * moved:.2g} %; the noise is {100 * sigma:.2g} %."


def _told(name: str, law: registry.Law) -> str:
    return f"{name} at the centre" if name in law.logs and name != registry.FLOOR.size else name
