"""The terms that laws are sums of, each as the log of its size, with exact first and second derivatives.

A term is a pure function of its own few parameters theta_Sk (S parameter sets, its params in order) and of covariates,
which are computed once from the points of a table. Covariates and sizes are taken at the centre of the data, where the
data determine a size best.

Letters: S parameter sets, R rows, k a term's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Covariates = tuple[np.ndarray, ...]
"""[R] each."""
Points = dict[str, np.ndarray]
"""{axis: [R]}."""
Natural = dict[str, np.ndarray]
"""{parameter: [S]}."""
EXPONENT_LIMITS = (0.0, 5.0)
"""A term with a smaller exponent does not fall; one with a larger exponent has vanished after one step of a design."""


@dataclass(frozen=True)
class Derivatives:
    """The log of a term [S, R], its slope in each of the k parameters [S or 1, R], and its curvature
    {(i, j), i <= j: [S, R]}. An entry that `curvature` does not have is 0."""

    log_SR: np.ndarray
    slope_k: Sequence[np.ndarray]
    curvature: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)


class Term:
    """A term of a law. A term of your own is a frozen dataclass with the four methods at the end."""

    @property
    def params(self) -> tuple[str, ...]:
        """The term's parameters, its size first. Default: all its fields that are texts, but `axis`."""
        return tuple(value for name, value in vars(self).items() if name != "axis" and isinstance(value, str))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that the term is a function of. Default: its field `axis`, if it has one."""
        return (vars(self)["axis"],) if "axis" in vars(self) else ()

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        """{a size, whose log is in theta: the parameters that mean nothing once the size has run to 0}."""
        return {self.params[0]: self.params[1:]} if self.params else {}

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """{parameter that is not a size: the ends, in theta's units, past which it has run away}."""
        return {}

    @property
    def logs(self) -> tuple[str, ...]:
        """Parameters that are not sizes, and that theta holds the log of."""
        return ()

    @property
    def logits(self) -> tuple[str, ...]:
        """Parameters between 0 and 1 that theta holds log(p / (1 - p)) of."""
        return ()

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        """Returns everything that `log` and `derivatives` need of the points."""
        raise NotImplementedError

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        """Returns the log of the term, [S or 1, R]."""
        raise NotImplementedError

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        """Returns the log of the term with its slopes and curvature."""
        raise NotImplementedError

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        """Returns the parameters as the formula writes them."""
        raise NotImplementedError


def columns(theta_Sk: np.ndarray) -> list[np.ndarray]:
    """Returns the k parameters, each [S, 1]."""
    return [theta_Sk[:, i : i + 1] for i in range(theta_Sk.shape[1])]


def logistic(z: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-z))."""
    return 0.5 * (1 + np.tanh(z / 2))


def exp_capped(log_size: np.ndarray) -> np.ndarray:
    """Returns exp(log_size), but stays finite where `log_size` has run away."""
    return np.exp(np.minimum(log_size, 700.0))


@dataclass(frozen=True)
class Constant(Term):
    """A constant, such as a floor."""

    size: str

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (np.ones(len(next(iter(points.values())))),)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return theta_Sk * at[0]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        return Derivatives(self.log(theta_Sk, at), at[:1])

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        return {self.size: exp_capped(theta[self.size])}


@dataclass(frozen=True)
class Known(Term):
    """A constant that is not fitted."""

    value: float

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (np.full(len(next(iter(points.values()))), np.log(self.value)),)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return at[0][None]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        return Derivatives(at[0][None], ())

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        return {}


@dataclass(frozen=True)
class Pinned(Term):
    """Another term, some of whose parameters have given values."""

    term: Term
    theta_k: tuple[float | None, ...]
    """The given values in theta's units, None for parameters that are fitted."""

    @property
    def params(self) -> tuple[str, ...]:
        return tuple(name for name, value in zip(self.term.params, self.theta_k, strict=True) if value is None)

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return self.term.covariates(points, centre)

    def _whole(self, theta_Sk: np.ndarray) -> np.ndarray:
        free = iter(columns(theta_Sk))
        parts = [next(free) if value is None else np.full((len(theta_Sk), 1), value) for value in self.theta_k]
        return np.concatenate(parts, axis=1)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return self.term.log(self._whole(theta_Sk), at)

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        found = self.term.derivatives(self._whole(theta_Sk), at)
        free = [k for k, value in enumerate(self.theta_k) if value is None]
        curvature = {
            (free.index(i), free.index(j)): bend for (i, j), bend in found.curvature.items() if {i, j} <= set(free)
        }
        return Derivatives(found.log_SR, [found.slope_k[k] for k in free], curvature)


def pin(terms: Sequence[Term], theta: dict[str, float]) -> tuple[Term, ...]:
    """Returns the terms with the parameters in `theta` given."""
    return tuple(
        Pinned(term, tuple(theta.get(name) for name in term.params)) if theta.keys() & set(term.params) else term
        for term in terms
    )


@dataclass(frozen=True)
class Power(Term):
    """size * x^-exponent, or size * exp(-exponent * x) if `of_log` is False."""

    size: str
    exponent: str
    axis: str
    of_log: bool = True

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.exponent: EXPONENT_LIMITS if self.of_log else (0.0, np.inf)}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        x = points[self.axis]
        fall = centre[self.axis] - x if not self.of_log else -np.log(x / centre[self.axis])
        return np.ones_like(fall), fall

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        return theta_Sk[:, :1] + theta_Sk[:, 1:] * at[1]

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        return Derivatives(self.log(theta_Sk, at), at)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        x = np.log(centre[self.axis]) if self.of_log else centre[self.axis]
        exponent = theta[self.exponent]
        return {self.size: exp_capped(theta[self.size] + exponent * x), self.exponent: exponent}


@dataclass(frozen=True)
class SoftSum(Term):
    """((A / N^alpha)^(1/gamma) + (B / D^beta)^(1/gamma))^gamma: the sum at gamma 1, the larger one as gamma goes to 0.

    A, B, alpha and beta belong to each limit alone, so that they mean the same under every gamma. `gamma` may be the
    name of another parameter.
    """

    first: Power
    second: Power
    gamma: str

    @property
    def params(self) -> tuple[str, ...]:
        return (*self.first.params, *self.second.params, self.gamma)

    @property
    def axes(self) -> tuple[str, ...]:
        return (*self.first.axes, *self.second.axes)

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        return self.first.sizes | self.second.sizes

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.gamma: (0.01, 20.0)} | self.first.limits | self.second.limits

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return self.first.covariates(points, centre)[1], self.second.covariates(points, centre)[1]

    def _parts(self, theta_Sk: np.ndarray, at: Covariates):
        a, alpha, b, beta, gamma = columns(theta_Sk)
        gamma = np.where(gamma > 0, gamma, np.nan)  # NaN outside the law's domain: no step leads there
        y = np.stack([(a + alpha * at[0]) / gamma, (b + beta * at[1]) / gamma])
        top = y.max(axis=0)
        weight = np.exp(y - top)
        total = weight.sum(axis=0)
        return y, weight / total, top + np.log(total), gamma

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        _, _, log_total, gamma = self._parts(theta_Sk, at)
        return gamma * log_total

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        y, p, log_total, gamma = self._parts(theta_Sk, at)
        mean = (p * y).sum(axis=0)
        pull = p * (y - mean) / -gamma  # the change of each share as gamma grows
        bend = p[0] * p[1] / gamma
        u, v = at
        slopes = (p[0], p[0] * u, p[1], p[1] * v, log_total - mean)
        curvature = {
            (0, 0): bend, (0, 1): bend * u, (1, 1): bend * u * u,
            (2, 2): bend, (2, 3): bend * v, (3, 3): bend * v * v,
            (0, 2): -bend, (0, 3): -bend * v, (1, 2): -bend * u, (1, 3): -bend * u * v,
            (0, 4): pull[0], (1, 4): pull[0] * u, (2, 4): pull[1], (3, 4): pull[1] * v,
            (4, 4): (p * (y - mean) ** 2).sum(axis=0) / gamma,
        }  # fmt: skip
        return Derivatives(gamma * log_total, slopes, curvature)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        values = self.first.natural(theta, centre) | self.second.natural(theta, centre)
        return values | {self.gamma: theta[self.gamma]}


@dataclass(frozen=True)
class BrokenPower(Term):
    """size * x^-exponent * (1 + (x / break)^(1/sharpness))^-(change * sharpness), as in Caballero et al. 2210.14891.

    The exponent turns from `exponent` to `exponent` + `change`; the turn takes about `sharpness` nats of x on
    either side.
    """

    size: str
    exponent: str
    change: str
    place: str
    sharpness: str
    axis: str

    @property
    def logs(self) -> tuple[str, ...]:
        return (self.place,)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.exponent: (-EXPONENT_LIMITS[1], EXPONENT_LIMITS[1]), self.sharpness: (0.01, 20.0)}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (np.log(points[self.axis] / centre[self.axis]),)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        b, c0, c1, place, f = columns(theta_Sk)
        f = np.where(f > 0, f, np.nan)
        return b - c0 * at[0] - c1 * f * np.logaddexp(0, (at[0] - place) / f)

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        _, _, c1, place, f = columns(theta_Sk)
        f = np.where(f > 0, f, np.nan)
        u = at[0]
        z = (u - place) / f
        soft, s = np.logaddexp(0, z), logistic(z)
        ds = s * (1 - s)
        slopes = (np.ones_like(u), -u, -f * soft, c1 * s, -c1 * (soft - z * s))
        curvature = {
            (2, 3): s, (2, 4): z * s - soft,
            (3, 3): -c1 * ds / f, (3, 4): -c1 * ds * z / f, (4, 4): -c1 * ds * z * z / f,
        }  # fmt: skip
        return Derivatives(self.log(theta_Sk, at), slopes, curvature)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        x = np.log(centre[self.axis])
        return {name: theta[name] for name in self.params} | {
            self.size: exp_capped(theta[self.size] + theta[self.exponent] * x),
            self.place: exp_capped(theta[self.place] + x),
        }


@dataclass(frozen=True)
class Sigmoid(Term):
    """size / (1 + exp(steepness * (x - midpoint))): falls from `size` as x grows."""

    size: str
    steepness: str
    midpoint: str
    axis: str

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return {self.steepness: (0.0, np.inf)}

    def covariates(self, points: Points, centre: dict[str, float]) -> Covariates:
        return (points[self.axis] - centre[self.axis],)

    def log(self, theta_Sk: np.ndarray, at: Covariates) -> np.ndarray:
        m, k, mid = columns(theta_Sk)
        return m - np.logaddexp(0, k * (at[0] - mid))

    def derivatives(self, theta_Sk: np.ndarray, at: Covariates) -> Derivatives:
        _, k, mid = columns(theta_Sk)
        far = at[0] - mid
        s = logistic(k * far)
        ds = s * (1 - s)
        curvature = {(1, 1): -ds * far**2, (1, 2): s + ds * k * far, (2, 2): -ds * k**2}
        return Derivatives(self.log(theta_Sk, at), (np.ones_like(at[0]), -s * far, s * k), curvature)

    def natural(self, theta: Natural, centre: dict[str, float]) -> Natural:
        return {
            self.size: exp_capped(theta[self.size]),
            self.steepness: theta[self.steepness],
            self.midpoint: theta[self.midpoint] + centre[self.axis],
        }
