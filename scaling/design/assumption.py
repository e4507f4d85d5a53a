"""A law that is assumed before it is fitted: from given numbers, from typical ones, or from what a single ray shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from scaling.compute.optima import CLOSED_FORM
from scaling.errors import InputError
from scaling.fitting.fit import fit
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.minimize import Objective, adaptive_delta
from scaling.laws import registry
from scaling.laws.registry import FLOOR, Law
from scaling.laws.terms import Points
from scaling.table import variation
from scaling.table.run_table import FLOPS_PER_ND, RunTable

SIGMA_TYPICAL = 0.005
"""The standard deviation of log loss between seeds, in nats, if nothing is known about it."""
SIGMA_LEAST = 1e-6
"""The least noise that is assumed, so that the information of a table without noise stays finite."""
TYPICAL_EXPONENT = 0.3
TYPICAL_REPETITIONS = {"R_D": 15.4, "R_N": 5.3}
"""After this many repetitions the same data, and parameters beyond what suits them, are worth little. Measured on
language (2305.16264)."""
TYPICAL_FLOOR_SHARE = 0.6
"""The floor's share of the loss at the centre of the plan. The terms of N and D share the rest evenly."""
RAY_SHARES = (0.5, 0.2, 0.8)
"""The N term's share of the loss above the floor of a ray. The first is assumed; the others show what depends on it."""


@dataclass(frozen=True)
class Assumption:
    """A law that a design takes for true. Raises InputError if sigma is not above 0."""

    law: FittedLaw
    sigma: float
    """The standard deviation of log loss around the law, in nats."""
    source: str
    """The origin of both, in words."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            wanted = "wanted the standard deviation of log loss, a number above 0 in nats"
            raise InputError(f"sigma is {self.sigma}; {wanted}")


def assume(
    law: Law,
    params: dict[str, float] | None,
    points: Points,
    known_floor: float | None = None,
    flops_per_nd: float = FLOPS_PER_ND,
) -> FittedLaw:
    """Gives `law` the `params` as its formula writes them, or typical ones that are the same in any units.

    Typical parameters are the first guess before anything has been run: exponents of 0.3, and equal terms of N and D
    that together make 40 % of the loss at the centre of `points` {axis: [R]}.

    Raises:
      InputError: a parameter is missing, unknown or not above 0; or the law has no typical parameters.
    """
    centre = {axis: float(np.exp(np.log(points[axis]).mean())) for axis in law.axes}
    if params is None:
        theta_P = _typical(law, law.free_params(known_floor))
    else:
        for name, value in params.items():
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"the assumed {name} is {value}; wanted a finite number above 0")
        theta_P = registry.from_natural(law, params, centre, known_floor)
    reached = {axis: points[axis] for axis in law.axes}
    if {"n", "d"} <= set(reached):
        reached["c"] = flops_per_nd * points["n"] * points["d"]
    return FittedLaw(
        law=law,
        theta_P=theta_P,
        cloud_SP=np.empty((0, len(theta_P))),
        centre=centre,
        known_floor=known_floor,
        flops_per_nd=flops_per_nd,
        ranges={axis: (float(values.min()), float(values.max())) for axis, values in reached.items()},
        rivals=(),
    )


def _typical(law: Law, free: tuple[str, ...]) -> np.ndarray:
    terms = [name for name in free if name in law.sizes and name != FLOOR.size]
    values = {"alpha": TYPICAL_EXPONENT, "beta": TYPICAL_EXPONENT, "gamma": 1.0}
    values |= dict.fromkeys(terms, np.log((1 - TYPICAL_FLOOR_SHARE) / len(terms)))
    values |= {FLOOR.size: np.log(TYPICAL_FLOOR_SHARE)}
    values |= {name: np.log(repetitions) for name, repetitions in TYPICAL_REPETITIONS.items()}
    unknown = [name for name in free if name not in values]
    if unknown:
        raise InputError(f"{law.name} has no typical {', '.join(unknown)}; assume all of {', '.join(free)} yourself")
    return np.array([values[name] for name in free])


def ray_slope(table: RunTable) -> float | None:
    """Returns the s > 0 of a table on a single ray, D ~ N^s, or None if the table is not on one."""
    if table.n is None or table.d is None or np.ptp(table.n) == 0 or np.ptp(table.d) == 0:
        return None
    log_nd = np.log(np.stack([table.n, table.d]))
    variance_2, axes = np.linalg.eigh(np.cov(log_nd, bias=True))
    slope = float(axes[1, 1] / axes[0, 1])
    return slope if np.sqrt(max(variance_2[0], 0.0)) < variation.RAY_REFUSED and slope > 0 else None


def along_ray(table: RunTable, law: Law, slope: float, known_floor: float | None) -> tuple[Assumption, ...]:
    """Returns what a single ray lets one assume of `law`: one assumption for each of RAY_SHARES.

    Along D ~ N^s, terms with alpha = s * beta fall together. Their sum is a power law of D with a floor, which the
    table determines. No run on the ray shows how the sum is split between N and D: the split is assumed.

    Raises:
      Refusal: the table does not carry the law along the ray either.
    """
    along = fit(table, "power_floor" if law.has_floor else "power", floor=known_floor, bootstrap=0, full=False)
    shown = dict(zip(along.free, along.theta_P, strict=True))
    beta, sigma = shown["beta"], fit_sigma(along.residual(), len(shown))
    blank = assume(law, None, table.points(law), known_floor=known_floor, flops_per_nd=table.flops_per_nd)
    shape = {
        "alpha": slope * beta if "beta" in blank.free else beta,
        "beta": beta,
        "gamma": 1.0,
        FLOOR.size: shown.get(FLOOR.size),
    }
    outer = shape.get(CLOSED_FORM[law.name], 1.0)  # for the outer exponent g the shares are w^g and (1 - w)^g
    assumptions = []
    for share in RAY_SHARES:
        values = shape | {"A": shown["A"] + outer * np.log(share), "B": shown["A"] + outer * np.log(1 - share)}
        fitted = dataclasses.replace(blank, theta_P=np.array([values[name] for name in blank.free]))
        source = (
            f"{along.law.formula} fitted along the ray D ~ N^{slope:.3g} (beta {beta:.3g}), with {share:.0%} of the "
            "falling part given to N and the rest to D"
        )
        assumptions.append(Assumption(fitted, sigma, source))
    return tuple(assumptions)


def fit_sigma(residual_R: np.ndarray, parameters: int) -> float:
    """Estimates the noise of log loss, in nats, that gives an adaptive Huber fit of R residuals its standard errors.

    It is sqrt(mean psi^2) / mean psi' (Huber 1981, section 6.3), corrected for the number of fitted `parameters`. It is
    2.5 % above the standard deviation of Gaussian residuals, and outliers hardly move it.
    """
    _, psi_R, slope_R, _ = Objective("huber", adaptive_delta(residual_R)).rho(residual_R)
    spare = max(len(residual_R) - parameters, 1)
    return max(float(np.sqrt((psi_R**2).sum() / spare) / slope_R.mean()), SIGMA_LEAST)
