"""The best N at a budget C = flops_per_nd * N * D: in closed form if the law has one, else by a numeric search.

Letters: S parameter sets, B budgets, R points of a search grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial

from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.problem import NEGLIGIBLE_SHARE
from scaling.laws.terms import EXPONENT_LIMITS, Natural, Points

CLOSED_FORM = {"chinchilla": None, "chinchilla_no_floor": None, "tied": None, "gamma": "gamma", "kaplan": "beta"}
"""{a law E + ((A/N^alpha)^(1/g) + (B/D^beta)^(1/g))^g: the parameter that is its g, or None if g is 1}."""
SEARCH_FACTOR = 1e4
"""A numeric search reaches this factor beyond the data's N, moved along with the budget."""
COARSE_STEP, FINE_STEP = 0.25, 0.03
"""Steps in log N. With a polynomial through 7 points the fine step is exact to 1e-8 for exponents up to 2."""


@dataclass(frozen=True)
class Optima:
    """The best N of each parameter set at each budget."""

    log_n_SB: np.ndarray
    """-inf: a smaller N is always better (the N term vanished); +inf: a larger (the D term did); NaN: neither."""
    loss_SB: np.ndarray
    """The loss at the best N; NaN without an optimum."""


def optima(
    fitted: FittedLaw, budgets_B: np.ndarray, theta_SP: np.ndarray | None = None, unique: float | None = None
) -> Optima:
    """Finds the best N of each of S parameter sets (default: the fitted point) at each of B budgets.

    Raises InputError as `frontier` does.
    """
    budgets_B = check(fitted, budgets_B, unique)
    theta_SP = fitted.theta_P[None] if theta_SP is None else theta_SP
    if not len(theta_SP):
        return Optima(np.empty((0, len(budgets_B))), np.empty((0, len(budgets_B))))
    if fitted.law.name in CLOSED_FORM:
        return _closed_form(fitted, budgets_B, theta_SP)
    columns = [numeric_optima(fitted, c, theta_SP, unique) for c in budgets_B]
    return Optima(*(np.stack(arrays, axis=1) for arrays in zip(*columns, strict=True)))


def numeric_optima(
    fitted: FittedLaw, budget: float, theta_SP: np.ndarray, unique: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds (log N* [S], loss [S]) at one budget, for any law of N and D whose loss has one minimum along it.

    All S share a grid of log N, so that they are one call of the law. Then each gets its own polynomial through the 7
    points around its lowest. log N* is exact to 1e-8 if the law is smooth; at a kink of the law "repeated" it is exact
    to the fine step. At an end of the search it is -inf or +inf, as in `Optima`.
    """
    log_nd = np.log(budget / fitted.flops_per_nd)

    def loss_at(log_n_R: np.ndarray, theta_SP: np.ndarray) -> np.ndarray:
        return fitted.loss_at(points_at(log_n_R, log_nd, unique), theta_SP)

    coarse_R = _search_grid(fitted, budget)
    lowest_S = np.argmin(loss_at(coarse_R, theta_SP), axis=1)
    at_low_S, at_high_S = lowest_S == 0, lowest_S == len(coarse_R) - 1
    log_n_S = np.where(at_low_S, -np.inf, np.where(at_high_S, np.inf, np.nan))
    loss_S = np.full(len(theta_SP), np.nan)
    inside_S = ~(at_low_S | at_high_S)
    if not inside_S.any():
        return log_n_S, loss_S
    low, high = float(coarse_R[lowest_S[inside_S].min()]), float(coarse_R[lowest_S[inside_S].max()])
    around = COARSE_STEP + 4 * FINE_STEP
    fine_R = np.arange(low - around, high + around, FINE_STEP)
    log_n_S[inside_S], loss_S[inside_S] = _refined(fine_R, loss_at(fine_R, theta_SP[inside_S]))
    return log_n_S, loss_S


def _refined(log_n_R: np.ndarray, loss_SR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds (log N* [S], loss [S]) between the points of an even grid, by Newton's method on the polynomials."""
    middle_S = np.clip(np.argmin(loss_SR, axis=1), 3, len(log_n_R) - 4)
    steps = np.arange(-3.0, 4.0)
    around_S7 = np.take_along_axis(loss_SR, middle_S[:, None] + steps.astype(int), axis=1)
    middle_loss_S = around_S7[:, 3]
    coefficient_7S = np.linalg.solve(np.vander(steps, increasing=True), (around_S7 - middle_loss_S[:, None]).T)
    slope_6S, curvature_5S = (polynomial.polyder(coefficient_7S, order) for order in (1, 2))
    shift_S = np.zeros(len(middle_S))
    for _ in range(8):
        with np.errstate(invalid="ignore", divide="ignore"):  # a loss flat to rounding has no optimum: NaN
            newton_S = _polyval(shift_S, slope_6S) / _polyval(shift_S, curvature_5S)
        shift_S = np.clip(shift_S - newton_S, -1.5, 1.5)
    return log_n_R[middle_S] + FINE_STEP * shift_S, middle_loss_S + _polyval(shift_S, coefficient_7S)


def _polyval(x_S: np.ndarray, coefficient_KS: np.ndarray) -> np.ndarray:
    """Evaluates each of S polynomials at its own x, [S]."""
    return polynomial.polyval(x_S, coefficient_KS, tensor=False)


def _closed_form(fitted: FittedLaw, budgets_B: np.ndarray, theta_SP: np.ndarray) -> Optima:
    """Applies eq. 4 of 2203.15556 to the inner exponents alpha/g, beta/g and sizes A^(1/g), B^(1/g):

    log G = (g log(alpha / beta) + log A - log B) / (alpha + beta),  N* = G (C/k)^(beta / (alpha + beta)).
    """
    values = {name: value[:, None] for name, value in fitted.natural(theta_SP).items()}
    alpha, beta, gamma = _inner(fitted, values)
    n_gone, d_gone = (gone[:, None] for gone in _vanished(fitted, theta_SP, values))
    log_nd_B = np.log(budgets_B / fitted.flops_per_nd)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_a, log_b = np.log(values["A"]), np.log(values["B"])
        log_n_SB = (gamma * np.log(alpha / beta) + log_a - log_b + beta * log_nd_B) / (alpha + beta)
        inner = np.logaddexp((log_a - alpha * log_n_SB) / gamma, (log_b - beta * (log_nd_B - log_n_SB)) / gamma)
        loss_SB = values.get("E", 0.0) + np.exp(gamma * inner)
    missing = n_gone | d_gone | ~np.isfinite(log_n_SB)
    end = np.where(n_gone & ~d_gone, -np.inf, np.where(d_gone & ~n_gone, np.inf, np.nan))
    return Optima(np.where(missing, end, log_n_SB), np.where(missing, np.nan, loss_SB))


def _inner(fitted: FittedLaw, values: Natural) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns alpha, beta and g, each in the shape of `values`."""
    alpha = values["alpha"]
    gamma = CLOSED_FORM[fitted.law.name]
    return alpha, values.get("beta", alpha), np.ones_like(alpha) if gamma is None else values[gamma]


def _vanished(fitted: FittedLaw, theta_SP: np.ndarray, values: Natural) -> tuple[np.ndarray, np.ndarray]:
    """Returns [S] whether the N term vanished and [S] whether the D term did.

    A term has vanished if it is negligible everywhere in the data, does not decay, or decays within the first step.
    """
    (n_low, n_high), (d_low, d_high) = fitted.ranges["n"], fitted.ranges["d"]
    points = {"n": np.array([n_low, n_high]), "d": np.array([d_high, d_low])}
    loss_SR = fitted.loss_at(points, theta_SP)
    alpha, beta, _ = _inner(fitted, values)
    gone = []
    for size, exponent, x, loss_S in (
        (values["A"], alpha, n_low, loss_SR[:, 0]),
        (values["B"], beta, d_low, loss_SR[:, 1]),
    ):
        with np.errstate(divide="ignore", over="ignore"):
            share_S = np.exp(np.log(size) - exponent * np.log(x))[:, 0] / loss_S
        steady = (exponent[:, 0] > EXPONENT_LIMITS[0]) & (exponent[:, 0] <= EXPONENT_LIMITS[1])
        gone.append(~(steady & (share_S >= NEGLIGIBLE_SHARE)))
    return gone[0], gone[1]


def points_at(log_n_R: np.ndarray, log_nd: float, unique: float | None) -> Points:
    """Returns the law's axes at R values of log N, with N * D fixed."""
    points = {"n": np.exp(log_n_R), "d": np.exp(log_nd - log_n_R)}
    return points if unique is None else points | {"u": np.full(len(log_n_R), float(unique))}


def _search_grid(fitted: FittedLaw, budget: float) -> np.ndarray:
    """Returns log N from far below the data to far above, [R]. The ends move with the budget as far as N* can: ~ C."""
    (n_low, n_high), (d_low, d_high) = fitted.ranges["n"], fitted.ranges["d"]
    low = n_low / SEARCH_FACTOR * min(1.0, budget / (fitted.flops_per_nd * n_low * d_low))
    high = n_high * SEARCH_FACTOR * max(1.0, budget / (fitted.flops_per_nd * n_high * d_high))
    return np.arange(np.log(low), np.log(high) + COARSE_STEP, COARSE_STEP)


def check(fitted: FittedLaw, budgets_B: np.ndarray, unique: float | None) -> np.ndarray:
    """Returns the budgets as [B]. Raises InputError as `frontier` does."""
    law = fitted.law
    missing = [axis.upper() for axis in ("n", "d") if axis not in law.axes]
    if missing:
        raise InputError(
            f"the law {law.name} ({law.formula}) has no {' and no '.join(missing)}: a budget leaves nothing to choose. "
            "Fit a law of N and D, such as chinchilla or gamma."
        )
    if "s" in law.axes:
        raise InputError(
            f"the law {law.name} has the density of the parameters too, which no budget chooses: fit chinchilla to the "
            "runs of one density"
        )
    if ("u" in law.axes) != (unique is not None):
        raise InputError(
            f"the law {law.name} needs the amount of unique data: give `unique`"
            if unique is None
            else f"the law {law.name} does not know unique data: leave `unique` out, or fit the law repeated"
        )
    if unique is not None and not (np.isfinite(unique) and unique > 0):
        raise InputError(f"unique data are {unique!r}; wanted a finite number above 0")
    budgets_B = np.atleast_1d(np.asarray(budgets_B, float))
    if budgets_B.ndim != 1 or not len(budgets_B) or not np.all(np.isfinite(budgets_B) & (budgets_B > 0)):
        raise InputError(f"the budgets are {budgets_B.tolist()}; wanted a list of finite FLOPs above 0, such as [1e20]")
    return budgets_B
