"""Can these runs identify this law? The answer before anybody pays for them.

identify(Assumption(assume(law, None, points), SIGMA_TYPICAL, "typical parameters"), points)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from scaling.design.assumption import Assumption
from scaling.design.information import Expected, covariance, expect, information, jacobian, quantity
from scaling.errors import InputError, Refusal
from scaling.fitting.fitted import FittedLaw
from scaling.laws.registry import FLOOR, Law
from scaling.laws.terms import Points
from scaling.table import checks
from scaling.table.run_table import Columns, from_frame
from scaling.table.variation import AXIS

WANTED_WIDTH = 0.5
"""An exponent is identified if half its expected 95 % interval is below this part of its value."""


@dataclass(frozen=True)
class Verdict:
    """Says if runs identify a law, and what they will show about it."""

    law: str
    runs: int
    identifies: bool
    reasons: tuple[str, ...]
    """Why the runs do not identify the law; empty if they do."""
    expected: tuple[Expected, ...]
    """Each free parameter, then `a` if the law has it, then what else was asked for."""
    weakest: str
    """The change of parameters that the runs see least, in words."""
    warnings: tuple[str, ...]
    sigma: float
    """The assumed standard deviation of log loss, in nats."""
    assumption: str


def check_axes(law: Law) -> None:
    """Raises InputError for a law of anything but N and D."""
    if not set(law.axes) <= {"n", "d"}:
        axes = " and ".join(AXIS[axis] for axis in law.axes)
        raise InputError(f"{law.name} is a law of {axes}; a design is of N and D: name a law of these, as chinchilla")


def planned_points(law: Law, n: np.ndarray, d: np.ndarray) -> Points:
    """Returns {"n": [R], "d": [R]}. Raises InputError for a law of other axes, and for impossible N and D."""
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
    """Computes what one run at each of R `points` {axis: [R]} shows about the assumed law.

    Axes that the law does not have are ignored.

    Args:
      more: quantities to expect besides the parameters, see `information.quantity`.

    Raises:
      InputError: the law has no such quantity.
    """
    fitted, sigma = assumption.law, assumption.sigma
    information_PP = information(fitted, points, sigma)
    expected = expectations(fitted, covariance(information_PP), more)
    weakest = _weakest(fitted, points, information_PP, sigma)
    refused, warnings = refusal(fitted, points)
    wide = [
        f"{e.name} is expected at {e}"
        for e in expected
        if e.name in exponents(fitted) and e.half_width95 is not None and e.half_width95 >= WANTED_WIDTH * e.value
    ]
    reasons = [] if refused is None else [refused]
    if wide:
        reasons.append(
            f"{' and '.join(wide)} (95 %); wanted is half its value or less. {weakest} Add runs where N and D vary "
            "apart, add more runs, or lower the noise with seeds."
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
        assumption=assumption.source,
    )


def exponents(fitted: FittedLaw) -> tuple[str, ...]:
    """Returns the free parameters that are not sizes."""
    return tuple(p for p in fitted.free if p not in fitted.law.logs)


def expectations(fitted: FittedLaw, covariance_PP: np.ndarray, more: tuple[str, ...] = ()) -> tuple[Expected, ...]:
    """Expects each free parameter, `a` if the law has it, then `more`."""
    free = fitted.free
    names = dict.fromkeys((*free, *(("a",) if {"alpha", "beta"} <= set(free) else ()), *more))
    return tuple(expect(fitted, quantity(name, fitted), covariance_PP) for name in names)


def refusal(fitted: FittedLaw, points: Points) -> tuple[str | None, tuple[str, ...]]:
    """Returns why a fit of the law to runs at `points` would be refused, or None, and the fit's warnings.

    The losses are the assumed law's own, so that only the design can be at fault.
    """
    loss = fitted.loss_at(points)[0]
    runs = [str(i) for i in range(len(loss))]
    frame = pl.DataFrame({"run": runs, "seed": runs, **points, "loss": loss})
    n, d, unique = (axis if axis in points else None for axis in ("n", "d", "u"))
    columns = Columns(loss="loss", n=n, d=d, unique=unique, run_id="run", seed_column="seed")
    try:
        return None, checks.refuse(from_frame(frame, columns, source="the plan"), fitted.law, fitted.known_floor)
    except Refusal as refused:
        return str(refused), ()


def _weakest(fitted: FittedLaw, points: Points, information_PP: np.ndarray, sigma: float) -> str:
    """Describes the eigenvector of least information, scaled until an exponent is off by half or a size by 2."""
    free, law = fitted.free, fitted.law
    direction_P = np.linalg.eigh(information_PP)[1][:, 0]
    limit_P = np.where([p in law.logs for p in free], np.log(2), WANTED_WIDTH * np.abs(fitted.theta_P))
    reach_P = direction_P / limit_P
    step_P = direction_P / reach_P[int(np.argmax(np.abs(reach_P)))]
    parts = []
    for at in np.argsort(-np.abs(reach_P)):
        if abs(step_P[at]) > 0.05 * limit_P[at]:
            is_size = free[at] in law.logs
            change = f"x{np.exp(step_P[at]):.3g}" if is_size else f"{step_P[at]:+.2g}"
            parts.append(f"{free[at]}{' at the centre' if is_size and free[at] != FLOOR.size else ''} {change}")
    moved = float(np.abs(np.expm1(jacobian(fitted, points) @ step_P)).max())
    change = " with ".join([parts[0], ", ".join(parts[1:])][: len(parts)])
    return f"{change} moves no loss by more than {100 * moved:.2g} %; the noise is {100 * sigma:.2g} %."
