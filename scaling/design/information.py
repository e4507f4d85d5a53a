"""Fisher information: what runs will show about a law, computed before they are made.

A run at point x has log loss log L(x; theta) + sigma * noise, so R runs carry F = sum_r J_r J_r' / sigma^2 with J the
slope of log L in theta. The inverse of F is the covariance that a converged least-squares fit will have (the
Cramer-Rao bound, reached at small noise). This assumes that the law holds and that all runs are equally noisy. If small
runs scatter more, as in the points of Chinchilla's figure 4, a bootstrap's intervals are up to three times as wide.

Letters: S parameter sets, R rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaling.compute.optima import optima
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.fitted import FittedLaw
from scaling.laws.registry import FLOOR
from scaling.laws.terms import Points

Z95 = 1.959964
"""Half a 95 % interval, in standard errors."""
KNOWN_BEFORE = 10.0
"""The standard deviation of what is known before any run, in nats of a term's size and units of an exponent. It is so
large that it says nothing, but it keeps the covariance finite if a design identifies nothing."""
STEP = 1e-3
"""The step of the differences in `slope`. Their error is of the order STEP^4."""


def slope(function: Callable[[np.ndarray], np.ndarray], theta_P: np.ndarray) -> np.ndarray:
    """Returns d function / d theta at `theta_P`, [P]. `function` takes [S, P] and gives [S]."""
    steps = STEP * np.eye(len(theta_P))
    near = function(theta_P + steps) - function(theta_P - steps)
    far = function(theta_P + 2 * steps) - function(theta_P - 2 * steps)
    return (8 * near - far) / (12 * STEP)


def jacobian(fitted: FittedLaw, points: Points) -> np.ndarray:
    """Returns the slope of log loss in theta at R `points` {axis: [R]}, [R, P]."""
    return fitted.bind(points).expand(fitted.theta_P[None]).jacobian()[0].T


def information(fitted: FittedLaw, points: Points, sigma: float) -> np.ndarray:
    """Returns the Fisher information of theta from one run at each of R `points`, [P, P]; sigma in nats of log loss."""
    jacobian_RP = jacobian(fitted, points)
    return jacobian_RP.T @ jacobian_RP / sigma**2


def covariance(information_PP: np.ndarray) -> np.ndarray:
    """Returns the covariance of theta, [..., P, P]. KNOWN_BEFORE keeps it finite if the runs leave a direction open."""
    return np.linalg.inv(information_PP + np.eye(information_PP.shape[-1]) / KNOWN_BEFORE**2)


@dataclass(frozen=True)
class Quantity:
    """A number that a law gives. Runs shrink its interval."""

    name: str
    evaluate: Callable[[FittedLaw, np.ndarray], np.ndarray]
    """Maps (law, theta [S, P]) to values [S]."""
    is_log: bool = False
    """True if `evaluate` gives the log. The interval is then a factor."""


@dataclass(frozen=True)
class Expected:
    """A quantity with the 95 % interval that the runs will give it.

    The interval is value +- half_width95, or value times and divided by factor95. The other of the two is missing.
    """

    name: str
    value: float
    half_width95: float | None
    factor95: float | None

    def __str__(self) -> str:
        if self.factor95 is None:
            return f"{self.value:.4g} +- {self.half_width95:.2g}"
        return f"{self.value:.4g} x/ {self.factor95:.4g}"


def quantity(name: str, fitted: FittedLaw) -> Quantity:
    """Returns the quantity called `name`.

    Args:
      name: a parameter (the size of a term of N or D is its size at the centre of the data), "a" (N* ~ C^a),
        "loss@N,D" or "nstar@C" (C in FLOPs).

    Raises:
      InputError: the law has no such quantity.
    """
    free = fitted.free
    kind, _, where = name.partition("@")
    if name in free:
        return _parameter(name, fitted)
    if name == "a" and {"alpha", "beta"} <= set(free):
        at = [free.index("alpha"), free.index("beta")]
        return Quantity("a", lambda _, theta_SP: theta_SP[:, at[1]] / theta_SP[:, at].sum(axis=1))
    if kind == "loss" and where:
        given = _numbers(name, where, len(fitted.law.axes))
        points = {axis: np.array([x]) for axis, x in zip(fitted.law.axes, given, strict=True)}
        return Quantity(name, lambda law, theta_SP: law.loss_at(points, theta_SP)[:, 0])
    if kind == "nstar" and where and set(fitted.law.axes) == {"n", "d"}:
        (flops,) = _numbers(name, where, 1)
        return Quantity(
            name, lambda law, theta_SP: optima(law, np.array([flops]), theta_SP).log_n_SB[:, 0], is_log=True
        )
    wanted = [*free, *(["a"] if {"alpha", "beta"} <= set(free) else []), "loss@N,D", "nstar@C"]
    raise InputError(f"{fitted.law.name} gives no quantity {name!r}; {near_miss(name, wanted)}")


def expect(fitted: FittedLaw, wanted: Quantity, covariance_PP: np.ndarray) -> Expected:
    """Returns the quantity under `fitted` with its expected interval (delta method).

    Raises Refusal if the law gives the quantity no value, as N* without one of its terms.
    """
    value = float(wanted.evaluate(fitted, fitted.theta_P[None])[0])
    gradient_P = slope(lambda theta_SP: wanted.evaluate(fitted, theta_SP), fitted.theta_P)
    if not (np.isfinite(value) and np.isfinite(gradient_P).all()):
        raise Refusal(f"{wanted.name} has no value under this law: one of its terms has vanished. Ask for a parameter.")
    half_width = Z95 * float(np.sqrt(gradient_P @ covariance_PP @ gradient_P))
    if wanted.is_log:
        return Expected(wanted.name, float(np.exp(value)), None, float(np.exp(min(half_width, 700.0))))
    return Expected(wanted.name, value, half_width, None)


def _parameter(name: str, fitted: FittedLaw) -> Quantity:
    at = fitted.free.index(name)
    if name in fitted.law.logs and name != FLOOR.size:
        label = f"{name} at the centre" if name in fitted.law.sizes else name
        return Quantity(label, lambda _, theta_SP: theta_SP[:, at], is_log=True)
    return Quantity(name, lambda law, theta_SP: law.natural(theta_SP)[name])


def _numbers(name: str, text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(np.isfinite(x) and x > 0 for x in values):
        raise InputError(f"{name!r} wants {count} finite numbers above 0 after the @, with commas between them")
    return values
