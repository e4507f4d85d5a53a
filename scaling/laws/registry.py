"""The laws, as sums of terms in logs: log L is the logsumexp of its terms' logs, with exact gradient and Hessian.

Letters: S parameter sets, T terms, R rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from scaling.errors import InputError, near_miss
from scaling.laws.expansion import Expansion, log_sum
from scaling.laws.repeats import ExcessSize, RepeatedData
from scaling.laws.terms import BrokenPower, Constant, Covariates, Known, Natural, Points, Power, Sigmoid, SoftSum, Term

FLOOR = Constant("E")


@dataclass(frozen=True)
class Law:
    name: str
    formula: str
    terms: tuple[Term, ...]
    source: str
    assumptions: str
    response: str = "loss"
    """What the law gives: "loss" (or a metric's error, 1 - metric), or "metric"."""

    @property
    def axes(self) -> tuple[str, ...]:
        """What the law is a function of: n (parameters), d (data), u (unique data), l (upstream loss)."""
        return tuple(dict.fromkeys(axis for term in self.terms for axis in term.axes))

    @property
    def params(self) -> tuple[str, ...]:
        """Sizes first, in the order of the terms: the order of theta."""
        names = list(dict.fromkeys(name for term in self.terms for name in term.params))
        return tuple(sorted(names, key=lambda name: name not in self.sizes))

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        """{size: the parameters that mean nothing without it}."""
        return {size: others for term in self.terms for size, others in term.sizes.items()}

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """{parameter that is no size: the ends past which it has run away, in theta's units}."""
        return {name: ends for term in self.terms for name, ends in term.limits.items()}

    @property
    def logs(self) -> frozenset[str]:
        """The parameters that theta holds the log of."""
        return frozenset(self.sizes).union(*(term.logs for term in self.terms))

    @property
    def has_floor(self) -> bool:
        return FLOOR in self.terms

    def free_params(self, known_floor: float | None) -> tuple[str, ...]:
        """The P parameters that are fitted; a known floor is none of them."""
        return tuple(p for p in self.params if known_floor is None or p != FLOOR.size)


A_N, A_D, B_D = Power("A", "alpha", "n"), Power("A", "beta", "d"), Power("B", "beta", "d")
HOFFMANN = "Hoffmann et al. 2022 (2203.15556), eq. 2"
ADDS = "The limits of size and of data add; one epoch, or D counts unique data and epochs are tuned."

LAWS = {
    law.name: law
    for law in (
        Law(
            "power",
            "L = A / D^beta",
            (A_D,),
            "Hestness et al. 2017 (1712.00409)",
            "No irreducible loss within reach: the log-log plot is straight to the end.",
        ),
        Law(
            "power_floor",
            "L = E + A / D^beta",
            (A_D, FLOOR),
            "Hestness et al. 2017 (1712.00409); Henighan et al. 2020 (2010.14701)",
            "Body size is no bottleneck at any D of the table.",
        ),
        Law(
            "broken",
            "L = E + A / D^beta * (1 + (D / D_b)^(1/f))^(-c f)",
            (BrokenPower("A", "beta", "c", "D_b", "f", "d"), FLOOR),
            "Caballero et al. 2022 (2210.14891), eq. 1 with one break",
            "The exponent turns once, from beta to beta + c around D_b; nothing says that it is the last turn.",
        ),
        Law("chinchilla", "L = E + A / N^alpha + B / D^beta", (A_N, B_D, FLOOR), HOFFMANN, ADDS),
        Law(
            "chinchilla_no_floor",
            "L = A / N^alpha + B / D^beta",
            (A_N, B_D),
            HOFFMANN + " with E = 0",
            "No irreducible loss within reach. " + ADDS,
        ),
        Law(
            "tied",
            "L = E + A / N^alpha + B / D^alpha",
            (A_N, Power("B", "alpha", "d"), FLOOR),
            HOFFMANN + " with beta = alpha",
            "Size and data are best grown alike. " + ADDS,
        ),
        Law(
            "gamma",
            "L = E + ((A / N^alpha)^(1/gamma) + (B / D^beta)^(1/gamma))^gamma",
            (SoftSum(A_N, B_D, "gamma"), FLOOR),
            "Kaplan et al. 2020 (2001.08361), eq. 1.5, with a floor and a free outer exponent",
            "Between the limits of size and of data the loss bends as gamma says; one epoch, or D counts unique data.",
        ),
        Law(
            "kaplan",
            "L = ((A / N^alpha)^(1/beta) + B^(1/beta) / D)^beta",
            (SoftSum(A_N, B_D, "beta"),),
            "Kaplan et al. 2020 (2001.08361), eq. 1.5: A = N_c^alpha_N, B = D_c^alpha_D",
            "No irreducible loss; the loss is analytic in 1 / D.",
        ),
        Law(
            "repeated",
            "L = E + A / N'^alpha + B / D'^beta, with D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' likewise with R_N",
            (ExcessSize("A", "alpha", "R_N", "B", "beta"), RepeatedData("B", "beta", "R_D"), FLOOR),
            "Muennighoff et al. 2023 (2305.16264), eqs. 5 to 7",
            "Repeated data, and size beyond what is best for the unique data, are worth exponentially less each time.",
        ),
        Law(
            "metric_sigmoid",
            "M = M_max / (1 + exp(k (L - L_0)))",
            (Sigmoid("M_max", "k", "L_0", "l"),),
            "Grattafiori et al. 2024 (2407.21783), section 3.2.1; Bhagia et al. 2024 (2412.04403)",
            "The metric is a function of the loss alone, whatever N and D made it.",
            "metric",
        ),
        Law(
            "metric_exponential",
            "M = M_0 + M_1 exp(-k L)",
            (Power("M_1", "k", "l", of_log=False), Constant("M_0")),
            "Gadre et al. 2024 (2403.08540), eq. 5",
            "The metric is a function of the loss alone; M_0 is its value without any skill.",
            "metric",
        ),
    )
}


def by_name(name: str) -> Law:
    """Raises InputError for a name that is no law."""
    if name not in LAWS:
        raise InputError(f"unknown law {name!r}; {near_miss(name, LAWS)}")
    return LAWS[name]


@dataclass(frozen=True)
class Bound:
    """A law at R points: a function of theta alone."""

    terms: tuple[Term, ...]
    index_T: tuple[tuple[int, ...], ...]
    """Where each term's parameters stand in theta."""
    at_T: tuple[Covariates, ...]
    params: int

    def log(self, theta_SP: np.ndarray) -> np.ndarray:
        """log of the law, [S, R]."""
        return self.shares(theta_SP)[0]

    def log_terms(self, theta_SP: np.ndarray) -> list[np.ndarray]:
        """log of each of the T terms, [S or 1, R]."""
        return [term.log(theta_SP[:, index], at) for term, index, at in self._parts()]

    def shares(self, theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log of the law [S, R] and each term's share of it [T, S, R]."""
        log_SR, share_T = log_sum(self.log_terms(theta_SP))
        return log_SR, np.stack(share_T)

    def derivatives(self, theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """log of the law f [S, R], its Jacobian J [S, P, R], and `bend`.

        bend(w_SR) is sum_r w_r (d2 f_r + J_r J_r'), [S, P, P]: with it every Hessian of a function of f is two matrix
        products away.
        """
        law = self.expand(theta_SP)
        return law.log_SR, law.jacobian(), partial(law.hessian, None)

    def expand(self, theta_SP: np.ndarray) -> Expansion:
        """The law to second order around each of the S parameter sets."""
        parts = [term.derivatives(theta_SP[:, index], at) for term, index, at in self._parts()]
        return Expansion.of(parts, self.index_T, self.params)

    def rows(self, keep: np.ndarray) -> Bound:
        """The law at the points where the boolean [R] `keep` holds."""
        return Bound(self.terms, self.index_T, tuple(tuple(x[keep] for x in at) for at in self.at_T), self.params)

    def _parts(self) -> zip:
        return zip(self.terms, map(list, self.index_T), self.at_T, strict=True)


def bind(law: Law, points: Points, centre: dict[str, float], known_floor: float | None) -> Bound:
    """`law` at `points` {axis: [R]}, its sizes taken around `centre` {axis: x}."""
    free = law.free_params(known_floor)
    terms = tuple(Known(known_floor) if t == FLOOR and known_floor is not None else t for t in law.terms)
    return Bound(
        terms,
        tuple(tuple(free.index(name) for name in term.params) for term in terms),
        tuple(term.covariates(points, centre) for term in terms),
        len(free),
    )


def natural(law: Law, theta_SP: np.ndarray, centre: dict[str, float], known_floor: float | None) -> Natural:
    """Parameters as the formula writes them, {name: [S]}; a size of 0 where its log has run away.

    A size and its exponent are almost perfectly correlated in this form: compare sizes at the centre instead.
    """
    theta = {name: theta_SP[:, p] for p, name in enumerate(law.free_params(known_floor))}
    values: Natural = {}
    for term in law.terms:
        if term == FLOOR and known_floor is not None:
            values[FLOOR.size] = np.full(len(theta_SP), known_floor)
        else:
            values |= term.natural(theta, centre)
    return {name: values[name] for name in law.params}


def from_natural(law: Law, values: dict[str, float], centre: dict[str, float], known_floor: float | None) -> np.ndarray:
    """theta [P] of the parameters as the formula writes them: the inverse of `natural`.

    Raises InputError if one is missing, unknown, or not above 0 where it must be.
    """
    free = law.free_params(known_floor)
    for name in values:
        if name not in free:
            raise InputError(f"{law.name} ({law.formula}) has no free parameter {name!r}; {near_miss(name, free)}")
    for name in free:
        if name not in values:
            raise InputError(f"{law.name} ({law.formula}) needs {name}; {', '.join(values) or 'nothing'} came")
        if name in law.logs and not values[name] > 0:
            raise InputError(f"{name} is {values[name]}; {law.name} wants it above 0")
    given_P = np.array([values[name] for name in free], float)
    is_log_P = np.array([name in law.logs for name in free])
    theta_P = np.where(is_log_P, np.log(np.where(is_log_P, given_P, 1.0)), given_P)
    # `natural` shifts logs and places by what the exponents and the centre say, so its error is the shift
    back = natural(law, theta_P[None], centre, known_floor)
    back_P = np.array([back[name][0] for name in free])
    return theta_P + np.where(is_log_P, theta_P - np.log(np.where(is_log_P, back_P, 1.0)), given_P - back_P)
