"""A law, the registry that finds it by name, and the law at the points of a table.

A law is a sum of terms; each term gives its log with exact gradient and Hessian. `register_law` adds one.

Letters: S parameter sets, T terms, R rows, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from scaling.errors import InputError, near_miss
from scaling.laws.expansion import Expansion, log_sum
from scaling.laws.terms import Constant, Covariates, Known, Natural, Points, Term, pin

FLOOR = Constant("E")
ShapeGrids = Callable[[Points, dict[str, float]], dict[str, np.ndarray]]
"""(points, centre) -> {parameter that is not a size: the values in theta's units that minimisation starts from}."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """A scaling law: everything that is true of it alone."""

    name: str
    formula: str
    terms: tuple[Term, ...]
    source: str
    assumptions: str
    response: str = "loss"
    """The quantity that the law gives: "loss" (or a metric's error, 1 - metric), or "metric"."""
    family: str = ""
    """Laws of one family compete to predict the held-out runs. A law without a family competes with no other."""
    simpler: str | None = None
    """The law whose best starts this one begins from. None: it begins from `shapes` with the sizes in closed form."""
    shapes: ShapeGrids | None = None
    """Default: exponents from 0.03 to 2.5, or, after a simpler law, no parameters of its own."""
    more_starts: Callable[[dict[str, float]], np.ndarray] | None = None
    """(centre) -> starts [S, P] from the literature, for a fit of the full table without a known floor."""
    distinct_to_spare: int = 1
    """A law of one axis needs this many distinct values more than it has free parameters."""
    fixed: tuple[tuple[str, float], ...] = ()
    """Parameters that are not fitted, with their values as the formula writes them. `pinned.with_fixed` sets them."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The inputs of the law: n (parameters), d (data), u (unique data), l (upstream loss)."""
        return tuple(dict.fromkeys(axis for term in self.terms for axis in term.axes))

    @property
    def params(self) -> tuple[str, ...]:
        """The parameters in the order of theta: sizes first, in the order of the terms."""
        names = list(dict.fromkeys(name for term in self.terms for name in term.params))
        sizes = self.sizes
        return tuple(sorted(names, key=lambda name: name not in sizes))

    @property
    def sizes(self) -> dict[str, tuple[str, ...]]:
        """{size: the parameters that mean nothing without it}."""
        return {size: others for term in self.terms for size, others in term.sizes.items()}

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """{parameter that is not a size: the ends past which it has run away, in theta's units}."""
        return {name: ends for term in self.terms for name, ends in term.limits.items()}

    @property
    def logs(self) -> frozenset[str]:
        """The parameters that theta holds the log of."""
        return frozenset(self.sizes).union(*(term.logs for term in self.terms))

    @property
    def logits(self) -> frozenset[str]:
        """The parameters between 0 and 1 that theta holds log(p / (1 - p)) of."""
        return frozenset().union(*(term.logits for term in self.terms))

    @property
    def has_floor(self) -> bool:
        return FLOOR in self.terms

    def free_params(self, known_floor: float | None) -> tuple[str, ...]:
        """The P parameters that are fitted, in the order of theta: all but a known floor."""
        known = {name for name, _ in self.fixed} | ({FLOOR.size} if known_floor is not None else set())
        return tuple(p for p in self.params if p not in known)


LAWS: dict[str, Law] = {}
"""Every registered law by name. The files of `scaling.laws` register the built-in ones."""


def register_law(law: Law) -> None:
    """Adds a law, so that `scaling.fit(table, law.name)` and --law find it. Adding the same law again does nothing.

    Raises InputError where the name is not an identifier, is "best", or belongs to another law.
    """
    if not law.name.isidentifier() or law.name == "best":
        raise InputError(f"a law needs a name that is a Python identifier other than best; got {law.name!r}")
    if LAWS.setdefault(law.name, law) is not law:
        raise InputError(f"there is already a law named {law.name!r}; choose another name")


def by_name(name: str) -> Law:
    """Returns the law of this name. Raises InputError that names the nearest known one."""
    if name not in LAWS:
        raise InputError(f"unknown law {name!r}; {near_miss(name, LAWS)}")
    return LAWS[name]


class Sums(Protocol):
    """A curve to second order around S parameter sets, and the sums over its rows that a Newton step needs."""

    @property
    def log_SR(self) -> np.ndarray: ...

    def gradient(self, weight_SR: np.ndarray) -> np.ndarray:
        """Returns what `Expansion.gradient` does, [S, P]."""
        ...

    def hessian(self, outer_SR: np.ndarray | None, bend_SR: np.ndarray | None = None) -> np.ndarray:
        """Returns what `Expansion.hessian` does, [S, P, P]."""
        ...


class Curve(Protocol):
    """The log of a response at R points as a function of theta: one law, or the laws of several arms."""

    def log(self, theta_SP: np.ndarray) -> np.ndarray:
        """Returns [S, R]."""
        ...

    def expand(self, theta_SP: np.ndarray) -> Sums:
        """Expands the curve to second order around each of the S parameter sets."""
        ...


@dataclass(frozen=True)
class Bound:
    """A law at R points, as a function of theta alone."""

    terms: tuple[Term, ...]
    index_T: tuple[tuple[int, ...], ...]
    """The places in theta of each term's parameters."""
    at_T: tuple[Covariates, ...]
    params: int
    stacked: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """Its expansions share this, see `Expansion.stacked`."""

    def log(self, theta_SP: np.ndarray) -> np.ndarray:
        """Returns the log of the law, [S, R]."""
        return log_sum(self.log_terms(theta_SP))[0]

    def log_terms(self, theta_SP: np.ndarray) -> list[np.ndarray]:
        """Returns the log of each of the T terms, [S or 1, R]."""
        return [term.log(theta_SP[:, index], at) for term, index, at in self._parts()]

    def expand(self, theta_SP: np.ndarray) -> Expansion:
        """Expands the law to second order around each of the S parameter sets."""
        parts = [term.derivatives(theta_SP[:, index], at) for term, index, at in self._parts()]
        return Expansion.of(parts, self.index_T, self.params, self.stacked)

    def _parts(self) -> zip:
        return zip(self.terms, map(list, self.index_T), self.at_T, strict=True)


def bind(law: Law, points: Points, centre: dict[str, float], known_floor: float | None) -> Bound:
    """Returns `law` at `points` {axis: [R]}, with its sizes taken at `centre` {axis: x}."""
    free = law.free_params(known_floor)
    terms = tuple(Known(known_floor) if t == FLOOR and known_floor is not None else t for t in law.terms)
    terms = pin(terms, fixed_theta(law, centre))
    return Bound(
        terms,
        tuple(tuple(free.index(name) for name in term.params) for term in terms),
        tuple(term.covariates(points, centre) for term in terms),
        len(free),
    )


def fixed_theta(law: Law, centre: dict[str, float], others: float = 0.0) -> dict[str, float]:
    """Returns the theta of the fixed parameters where all others are `others`, on which it must not depend."""
    if not law.fixed:
        return {}
    theta = {name: np.full(1, others) for name in law.params}
    found = {}
    for name, value in law.fixed:
        back: Natural = {}
        for term in law.terms:
            back |= term.natural(theta | {name: np.zeros(1)}, centre)
        found[name] = _scaled(law, name, value) - _scaled(law, name, float(back[name][0]))
    return found


def natural(law: Law, theta_SP: np.ndarray, centre: dict[str, float], known_floor: float | None) -> Natural:
    """Returns the parameters as the formula writes them, {name: [S]}. A size is 0 where its log has run away.

    A size and its exponent are almost perfectly correlated in this form: compare sizes at the centre instead.
    """
    theta = {name: theta_SP[:, p] for p, name in enumerate(law.free_params(known_floor))}
    theta |= {name: np.full(len(theta_SP), value) for name, value in fixed_theta(law, centre).items()}
    values: Natural = {}
    for term in law.terms:
        if term == FLOOR and known_floor is not None:
            values[FLOOR.size] = np.full(len(theta_SP), known_floor)
        else:
            values |= term.natural(theta, centre)
    return {name: values[name] for name in law.params}


def from_natural(law: Law, values: dict[str, float], centre: dict[str, float], known_floor: float | None) -> np.ndarray:
    """Returns theta [P] for parameters as the formula writes them: the inverse of `natural`.

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
        if name in law.logits and not 0 < values[name] < 1:
            raise InputError(f"{name} is {values[name]}; {law.name} wants it above 0 and below 1")

    def scaled(natural_P: np.ndarray) -> np.ndarray:
        return np.array([_scaled(law, name, value) for name, value in zip(free, natural_P, strict=True)])

    given_P = scaled(np.array([values[name] for name in free], float))
    theta_P = given_P
    # `natural` shifts logs and places by what the exponents and the centre say, so its error is the shift. A shift may
    # depend on another shifted parameter, so this is done twice
    for _ in range(2):
        back = natural(law, theta_P[None], centre, known_floor)
        theta_P = theta_P + given_P - scaled(np.array([back[name][0] for name in free]))
    return theta_P


def _scaled(law: Law, name: str, value: float) -> float:
    """Returns a parameter's value on theta's scale, without the shift to the centre."""
    if name in law.logits:
        return float(np.log(value / (1 - value)))
    return float(np.log(value)) if name in law.logs else value
