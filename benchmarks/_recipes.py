"""The Chinchilla law fitted with scipy, start after start: as it is copied from notebook to notebook, and tuned.

Both minimise Huber's loss of log residuals over theta = (a, b, e, alpha, beta), with log loss = logsumexp(a - alpha
log N, b - beta log D, e). They take a start and return a theta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.special


@dataclass(frozen=True)
class FitRows:
    """R rows of a table, [R] each."""

    log_n: np.ndarray
    log_d: np.ndarray
    log_loss: np.ndarray

    def take(self, drawn: np.ndarray) -> FitRows:
        return FitRows(self.log_n[drawn], self.log_d[drawn], self.log_loss[drawn])


def copied(rows: FitRows, delta: float, start: np.ndarray) -> np.ndarray:
    """Fits with L-BFGS-B and its defaults: finite differences, and the mean of the losses, which stops it early."""

    def loss(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        terms = [a - alpha * rows.log_n, b - beta * rows.log_d, np.full_like(rows.log_n, e)]
        return scipy.special.huber(delta, scipy.special.logsumexp(terms, axis=0) - rows.log_loss).mean()

    return scipy.optimize.minimize(loss, start, method="L-BFGS-B").x


def tuned_far(rows: FitRows, delta: float, start: np.ndarray) -> np.ndarray:
    """Fits from a distant start with L-BFGS-B and the exact gradient, the fastest method there.

    SLSQP takes the same time and finds the optimum less often. BFGS takes 1.7 times as long,
    least_squares(loss="huber"), TNC and the trust-region methods 3 to 9 times.
    """
    options = {"ftol": 1e-15, "gtol": 1e-7, "maxiter": 5000, "maxfun": 10000}
    return _centred(rows, delta, start, method="L-BFGS-B", options=options)


def tuned_near(rows: FitRows, delta: float, start: np.ndarray) -> np.ndarray:
    """Fits from a near start with trust-exact and the exact Hessian, the fastest method there.

    SLSQP, L-BFGS-B and least_squares take 1.1 to 1.3 times as long, BFGS 3 times.
    """
    return _centred(rows, delta, start, with_hessian=True, method="trust-exact", options={"gtol": 1e-6, "maxiter": 500})


def _centred(rows: FitRows, delta: float, start: np.ndarray, with_hessian: bool = False, **how) -> np.ndarray:
    """Fits around the middle of the data, where sizes and exponents are least correlated."""
    middle = np.array([rows.log_n.mean(), rows.log_d.mean()])
    exact = Exact(FitRows(rows.log_n - middle[0], rows.log_d - middle[1], rows.log_loss), delta)
    start = start.copy()
    start[:2] -= start[3:] * middle
    hessian = {"hess": exact.hessian} if with_hessian else {}
    theta = scipy.optimize.minimize(exact.value, start, jac=True, **hessian, **how).x
    theta[:2] += theta[3:] * middle
    return theta


class Exact:
    """The sum of Huber's losses, times 1e6 so that scipy's absolute tolerances mean something; exact derivatives."""

    SCALE = 1e6

    def __init__(self, rows: FitRows, delta: float):
        self.rows, self.delta = rows, delta

    def _law(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns log law minus log loss, and the terms' shares."""
        a, b, e, alpha, beta = theta
        of_n, of_d = a - alpha * self.rows.log_n, b - beta * self.rows.log_d
        top = np.maximum(of_n, of_d)
        np.maximum(top, e, out=top)
        of_n, of_d, floor = np.exp(of_n - top), np.exp(of_d - top), np.exp(e - top)
        total = of_n + of_d
        total += floor
        return top + np.log(total) - self.rows.log_loss, of_n / total, of_d / total, floor / total

    def value(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        miss, of_n, of_d, floor = self._law(theta)
        slope = np.clip(miss, -self.delta, self.delta)
        of_n *= slope
        of_d *= slope
        gradient = [of_n.sum(), of_d.sum(), slope @ floor, -(of_n @ self.rows.log_n), -(of_d @ self.rows.log_d)]
        return self.SCALE * (slope @ (miss - 0.5 * slope)), self.SCALE * np.array(gradient)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        miss, of_n, of_d, floor = self._law(theta)
        slope = np.clip(miss, -self.delta, self.delta)
        jacobian = np.stack([of_n, of_d, floor, -of_n * self.rows.log_n, -of_d * self.rows.log_d])
        hessian = (jacobian * ((np.abs(miss) <= self.delta) - slope)) @ jacobian.T
        hessian[2, 2] += slope @ floor
        for size, exponent, share, log_x in ((0, 3, of_n, self.rows.log_n), (1, 4, of_d, self.rows.log_d)):
            bend = slope * share
            cross = bend @ log_x
            hessian[size, size] += bend.sum()
            hessian[size, exponent] -= cross
            hessian[exponent, size] -= cross
            hessian[exponent, exponent] += bend @ log_x**2
        return self.SCALE * hessian
