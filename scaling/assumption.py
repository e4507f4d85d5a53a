"""A law to reckon with before it is fitted: from given numbers, typical ones, or what a single ray shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling import checks
from scaling.errors import InputError, near_miss
from scaling.fit import fit
from scaling.fitted import FittedLaw
from scaling.laws import Law
from scaling.minimize import robust_sigma
from scaling.table import RunTable

SIGMA_TYPICAL = 0.005
"""Standard deviation of log loss between seeds, in nats, where nothing is known of it."""
TYPICAL_EXPONENT = 0.3
TYPICAL_FLOOR_SHARE = 0.6
"""Of the loss at the centre of the plan; the terms of N and D share the rest evenly."""
RAY_SHARES = (0.5, 0.2, 0.8)
"""The N term's part of what a ray shows above its floor: the first is assumed, the others show what hangs on it."""


@dataclass(frozen=True)
class Assumption:
    law: FittedLaw
    sigma: float
    """Standard deviation of log loss around the law, in nats."""
    told: str
    """Where both come from, for a reader."""


def assume(
    law: Law,
    params: dict[str, float] | None,
    points: dict[str, np.ndarray],
    known_floor: float | None = None,
    flops_per_nd: float = 6.0,
) -> FittedLaw:
    """`law` with `params` as its formula writes them; None: typical ones, the same in any units.

    Typical are equal terms of N and D that together are 40 % of the loss at the centre of `points` {axis: [R]}, and
    exponents of 0.3: the first guess where nothing has been run.

    Raises:
      InputError: a parameter is missing, unknown or not above 0; or the law has no typical parameters.
    """
    free = law.free_params(known_floor)
    centre = {axis: float(np.exp(np.log(points[axis]).mean())) for axis in law.axes}
    ranges = {axis: (float(points[axis].min()), float(points[axis].max())) for axis in law.axes}
    theta_P = np.zeros(len(free))
    fitted = FittedLaw(law, theta_P, np.empty((0, len(free))), centre, known_floor, flops_per_nd, ranges)
    if params is None:
        theta_P[:] = _typical(law, free)
        return fitted
    _check(law, params, free)
    theta_P[:] = [0.0 if name in law.logs else params[name] for name in free]
    unit = fitted.natural(theta_P[None])  # what the formula writes for a term of size 1 at the centre
    for at, name in enumerate(free):
        if name in law.logs:
            theta_P[at] = np.log(params[name]) - np.log(unit[name][0])
    return fitted


def _check(law: Law, params: dict[str, float], free: tuple[str, ...]) -> None:
    for name, value in params.items():
        if name not in free:
            raise InputError(f"{law.name} ({law.formula}) has no free parameter {name!r}; {near_miss(name, free)}")
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"the assumed {name} is {value}; wanted a finite number above 0")
    missing = [name for name in free if name not in params]
    if missing:
        raise InputError(f"{law.name} ({law.formula}) wants {', '.join(missing)} too: assume all of {', '.join(free)}")


def _typical(law: Law, free: tuple[str, ...]) -> list[float]:
    exponents = {"alpha": TYPICAL_EXPONENT, "beta": TYPICAL_EXPONENT, "gamma": 1.0}
    terms = [name for name in free if name in law.logs and name != "E"]
    values = dict.fromkeys(terms, np.log((1 - TYPICAL_FLOOR_SHARE) / len(terms))) | {"E": np.log(TYPICAL_FLOOR_SHARE)}
    values |= exponents
    unknown = [name for name in free if name not in values]
    if unknown:
        raise InputError(f"{law.name} has no typical {', '.join(unknown)}; assume all of {', '.join(free)} yourself")
    return [values[name] for name in free]


def ray_slope(table: RunTable) -> float | None:
    """The s of a table on a single ray, D ~ N^s; None where N and D are two variables, or one does not vary."""
    if table.n is None or np.ptp(table.n) == 0 or np.ptp(table.d) == 0:
        return None
    log_nd = np.log(np.stack([table.n, table.d]))
    variance_2, axes = np.linalg.eigh(np.cov(log_nd, bias=True))
    off_it = np.sqrt(max(variance_2[0], 0.0))
    return float(axes[1, 1] / axes[0, 1]) if off_it < checks.RAY_REFUSED else None


def along_ray(table: RunTable, law: Law, slope: float, known_floor: float | None) -> tuple[Assumption, ...]:
    """What a single ray lets one assume of `law`, once for each of RAY_SHARES.

    Along D ~ N^s terms with alpha = s * beta fall together, so their sum is a power law with a floor in D, which the
    table determines. How the sum is split between N and D no run on the ray can tell: that is assumed.

    Raises:
      Refusal: the table does not carry the law along the ray either.
    """
    along = fit(table, "power_floor" if law.has_floor else "power", floor=known_floor, bootstrap=0, heldout=False)
    free = dict(zip(along.law.free_params(along.known_floor), along.theta_P, strict=True))
    sigma = fit_sigma(along.residual(), len(free))
    points = {axis: getattr(table, axis) for axis in law.axes}
    blank = assume(law, None, points, known_floor, table.flops_per_nd)
    names = law.free_params(known_floor)
    assumptions = []
    for share in RAY_SHARES:
        values = {
            "A": free["A"] + np.log(share),
            "B": free["A"] + np.log(1 - share),
            "E": free.get("E"),
            "alpha": slope * free["beta"] if "beta" in names else free["beta"],
            "beta": free["beta"],
            "gamma": 1.0,
        }
        theta_P = np.array([values[name] for name in names])
        fitted = FittedLaw(law, theta_P, blank.cloud_SP, blank.centre, known_floor, table.flops_per_nd, blank.ranges)
        told = (
            f"{along.law.formula} fitted along the ray D ~ N^{slope:.3g} (beta {free['beta']:.3g}, sigma {sigma:.2g}), "
            f"{share:.0%} of what falls given to N and the rest to D"
        )
        assumptions.append(Assumption(fitted, sigma, told))
    return tuple(assumptions)


def fit_sigma(residual_R: np.ndarray, parameters: int) -> float:
    """Robust standard deviation of log loss, in nats, corrected for the `parameters` fitted to these R residuals."""
    spare = max(len(residual_R) - parameters, 1)
    return max(robust_sigma(residual_R) * float(np.sqrt(len(residual_R) / spare)), 1e-6)
