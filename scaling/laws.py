"""The laws: sums of power-law terms, worked with in logs around the centre of the data.

Every term is exp(size - exponent * (log x - log x_centre)), so the log of a term is linear in the parameters and a law
is the logsumexp of linear functions. Gradient and Hessian are exact and the same code for all laws, and sizes are the
terms' sizes at the centre of the data, where they are determined best.

Letters: S parameter sets, T terms, R rows, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import InputError, near_miss


@dataclass(frozen=True)
class Term:
    """size * x^-exponent, or a constant where there is no axis."""

    size: str
    exponent: str | None = None
    axis: str | None = None
    """Which column x is: "n" or "d"."""


FLOOR = Term("E")


@dataclass(frozen=True)
class Law:
    name: str
    formula: str
    terms: tuple[Term, ...]
    source: str
    assumptions: str
    response: str = "loss"
    """What the law describes: "loss" or "metric"."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The columns that the law needs: ("d",) or ("n", "d")."""
        return tuple(term.axis for term in self.terms if term.axis)

    @property
    def params(self) -> tuple[str, ...]:
        """Sizes first, then exponents: the order of theta."""
        return tuple(t.size for t in self.terms) + tuple(t.exponent for t in self.terms if t.exponent)

    @property
    def has_floor(self) -> bool:
        return FLOOR in self.terms

    def free_params(self, known_floor: float | None) -> tuple[str, ...]:
        """The P parameters that are fitted; a known floor is none of them."""
        return tuple(p for p in self.params if known_floor is None or p != FLOOR.size)


LAWS = {
    law.name: law
    for law in (
        Law(
            "power",
            "L = A / D^beta",
            (Term("A", "beta", "d"),),
            "Hestness et al. 2017 (1712.00409)",
            "No irreducible loss within reach: the log-log plot is straight to the end.",
        ),
        Law(
            "power_floor",
            "L = E + A / D^beta",
            (Term("A", "beta", "d"), FLOOR),
            "Hestness et al. 2017 (1712.00409); Henighan et al. 2020 (2010.14701)",
            "Body size is no bottleneck at any D of the table.",
        ),
        Law(
            "chinchilla",
            "L = E + A / N^alpha + B / D^beta",
            (Term("A", "alpha", "n"), Term("B", "beta", "d"), FLOOR),
            "Hoffmann et al. 2022 (2203.15556), eq. 2",
            "The limits of size and of data add; one epoch, or D counts unique data and epochs are tuned.",
        ),
    )
}


def by_name(name: str) -> Law:
    """Raises InputError for a name that is no law."""
    if name not in LAWS:
        raise InputError(f"unknown law {name!r}; {near_miss(name, LAWS)}")
    return LAWS[name]


@dataclass(frozen=True)
class Design:
    """A law at R points: log of term t in row r = slope_TRP[t, r] @ theta + offset_TR[t, r]."""

    slope_TRP: np.ndarray
    offset_TR: np.ndarray

    def log_loss(self, theta_SP: np.ndarray) -> np.ndarray:
        """log L, [S, R]."""
        return self.shares(theta_SP)[0]

    def log_terms(self, theta_SP: np.ndarray) -> np.ndarray:
        """[S, T, R]."""
        T, R, P = self.slope_TRP.shape
        return (theta_SP @ self.slope_TRP.reshape(T * R, P).T).reshape(-1, T, R) + self.offset_TR

    def shares(self, theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log L [S, R] and each term's share of L [S, T, R]."""
        log_terms = self.log_terms(theta_SP)
        highest = log_terms.max(axis=1, keepdims=True)
        relative = np.exp(log_terms - highest)
        total = relative.sum(axis=1, keepdims=True)
        return (highest + np.log(total))[:, 0], relative / total

    def rows(self, keep: np.ndarray) -> Design:
        return Design(self.slope_TRP[:, keep], self.offset_TR[:, keep])


def design(law: Law, points: dict[str, np.ndarray], centre: dict[str, float], known_floor: float | None) -> Design:
    """`law` at `points` {axis: [R]}, its exponents acting around `centre` {axis: x}."""
    free = law.free_params(known_floor)
    R = len(next(iter(points.values())))
    slope_TRP = np.zeros((len(law.terms), R, len(free)))
    offset_TR = np.zeros((len(law.terms), R))
    for t, term in enumerate(law.terms):
        if term == FLOOR and known_floor is not None:
            offset_TR[t] = np.log(known_floor)
            continue
        slope_TRP[t, :, free.index(term.size)] = 1.0
        if term.axis:
            slope_TRP[t, :, free.index(term.exponent)] = -np.log(points[term.axis] / centre[term.axis])
    return Design(slope_TRP, offset_TR)


def natural(
    law: Law, theta_SP: np.ndarray, centre: dict[str, float], known_floor: float | None
) -> dict[str, np.ndarray]:
    """Parameters as the formula writes them, {name: [S]}; a size of 0 where its log has run away.

    A size and its exponent are almost perfectly correlated in this form: compare sizes at the centre instead.
    """
    free = law.free_params(known_floor)
    values = {}
    for term in law.terms:
        if term.size not in free:
            values[term.size] = np.full(len(theta_SP), known_floor)
            continue
        log_size = theta_SP[:, free.index(term.size)]
        if term.exponent:
            log_size = log_size + theta_SP[:, free.index(term.exponent)] * np.log(centre[term.axis])
        values[term.size] = np.exp(np.minimum(log_size, 700.0))  # finite also under an unbounded exponent
    values |= {t.exponent: theta_SP[:, free.index(t.exponent)] for t in law.terms if t.exponent}
    return {name: values[name] for name in law.params}
