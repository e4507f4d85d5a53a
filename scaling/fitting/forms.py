"""Chooses a form of law: each is refitted without the largest runs, for several fractions of them, and must predict
those. R^2 would not do, because it is high for every form."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.heldout import reach, without
from scaling.fitting.minimize import Objective
from scaling.fitting.parallel import in_threads
from scaling.laws.fixed import fixed_where_it_has
from scaling.laws.registry import LAWS, Law
from scaling.laws.terms import Points
from scaling.table.run_table import RunTable

FRACTIONS = (0.1, 0.2, 0.35, 0.5)
"""The fractions of the runs that are held out, the largest runs first."""
TARGET = 10.0
"""The forms' predictions are compared at this many times the largest run."""
NEAR = 1.5
"""A form is near the best one if its pooled error is at most this many times the best one's."""
EXACT = 1e-9
"""Errors below this, in log response, are rounding: the form is exact."""


@dataclass(frozen=True)
class FormError:
    """One form, refitted without one fraction of the runs. Errors are log(predicted) - log(measured)."""

    law: str
    fraction_held: float
    runs_held: int
    extrapolation_factor: float
    """The largest held run over the largest fitted one."""
    rms_log_error: float | None = None
    mean_log_error: float | None = None
    worst_log_error: float | None = None
    """The error of largest absolute value, with its sign."""
    refused: str | None = None
    """The reason why the other runs cannot carry the form."""


@dataclass(frozen=True)
class Forms:
    """The forms of a family, compared on the held-out runs."""

    rows: tuple[FormError, ...]
    pooled: dict[str, float]
    """{form: root mean square of its rms over the fractions that all these forms could carry}."""
    chosen: str | None
    """The form of lowest `pooled` among those near the best, one with a floor if there is one: it extrapolates more
    safely. None where no two forms of the family could be held out on the same runs."""
    target: dict[str, float]
    """{axis: x} of a run 10 times the largest; empty for laws of a metric over a loss."""
    at_target: dict[str, float]
    """{form: its prediction at the target, fitted to all runs}."""
    whole: dict[str, FittedLaw]
    """{form: its fit to all runs, without intervals}, for those that all runs can carry."""

    @property
    def best(self) -> str | None:
        """The form that predicts the held-out runs best, None where there is no other to compare it with."""
        return min(self.pooled, key=lambda name: self.pooled[name]) if len(self.pooled) > 1 else None

    @property
    def near(self) -> tuple[str, ...]:
        """The forms that predict the held-out runs nearly as well as the best one."""
        best = min(self.pooled.values(), default=0.0)
        return tuple(name for name, error in self.pooled.items() if error <= NEAR * best)

    @property
    def spread(self) -> float | None:
        """Highest over lowest prediction of the near forms at the target, minus 1. None for fewer than two forms."""
        values = [self.at_target[name] for name in self.near if name in self.at_target]
        return max(values) / min(values) - 1 if len(values) > 1 else None


def family(law: Law, known_floor: float | None) -> tuple[Law, ...]:
    """Returns the forms that compete with `law`: those of its family, but only those with a floor where it is known.

    What is fixed in `law` is fixed in every form that has the parameter.
    """
    named = [form for form in LAWS.values() if form.family == law.family and form.name != law.name]
    fixed = dict(law.fixed)
    forms = [law, *(fixed_where_it_has(form, fixed) for form in named)] if law.family else [law]
    order = list(LAWS)
    forms.sort(key=lambda form: order.index(form.name) if form.name in order else 0)
    return tuple(form for form in forms if known_floor is None or form.has_floor)


def compare_forms(table: RunTable, law: Law, objective: Objective, known_floor: float | None) -> Forms:
    """Compares every form of `law`'s family on the held-out top of the table, under one objective."""
    forms = family(law, known_floor)
    size = reach(table, law)
    target = _target(table, law, size)
    found = in_threads([partial(_whole, table, form, objective, known_floor) for form in forms])
    whole = {fit.law.name: fit for fit in found if fit is not None}
    rows = in_threads([
        partial(_error, table, held, form, objective=objective, known_floor=known_floor)
        for held in _masks(size)
        for form in forms
    ])  # fmt: skip
    pooled = _pooled(rows)
    return Forms(
        rows=tuple(rows),
        pooled=pooled,
        chosen=_chosen(pooled) if len(pooled) >= min(2, len(forms)) else None,
        target={axis: float(x[0]) for axis, x in target.items()},
        at_target={name: float(fit.loss_at(target)[0, 0]) for name, fit in whole.items() if target},
        whole=whole,
    )


def _chosen(pooled: dict[str, float]) -> str:
    """Returns the form of lowest error, or the best one with a floor that is near it."""
    lowest = min(pooled.values())
    near = [
        name for name, error in pooled.items() if error <= NEAR * lowest and lowest > EXACT and LAWS[name].has_floor
    ]
    return min(near or pooled, key=lambda name: pooled[name])


def indistinguishable(table: RunTable, forms: Forms, law: Law) -> tuple[FittedLaw, ...]:
    """Returns the other forms that the runs cannot tell from `law`, fitted to all runs.

    They predict the held-out runs nearly as well or, where no forms could be compared so, fit all runs nearly as well.
    """
    fits = {name: fit for name, fit in forms.whole.items() if name != law.name}
    if law.name in forms.pooled and len(forms.pooled) > 1:
        return tuple(fit for name, fit in fits.items() if name in forms.near) if law.name in forms.near else ()
    if law.name not in forms.whole:
        return ()
    own = _scatter(table, forms.whole[law.name])
    return tuple(fit for fit in fits.values() if _scatter(table, fit) <= NEAR * own)


def _scatter(table: RunTable, fit: FittedLaw) -> float:
    """Returns the standard deviation of the log response around the fit, with its parameters counted."""
    residual_R = np.log(table.response(fit.law)) - fit.bind(table.points(fit.law)).log(fit.theta_P[None])[0]
    return float(np.sqrt((residual_R**2).sum() / max(len(residual_R) - len(fit.theta_P), 1)))


def _top(size: np.ndarray, fraction: float) -> np.ndarray:
    """Returns [R]: True for about `fraction` of the runs, the largest ones. Runs of one size stay together."""
    order = np.sort(size)
    border = order[min(round(len(size) * (1 - fraction)), len(size) - 1)]
    return size >= border * (1 - 1e-9)


def _masks(size: np.ndarray) -> list[np.ndarray]:
    """Returns the runs that each of FRACTIONS holds out, [R] booleans each, without those that leave no run."""
    masks: list[np.ndarray] = []
    for fraction in FRACTIONS:
        held = _top(size, fraction)
        # with few distinct sizes, two fractions hold out the same runs
        if not any(np.array_equal(held, other) for other in masks) and not held.all():
            masks.append(held)
    return masks


def _whole(table: RunTable, form: Law, objective: Objective, known_floor: float | None) -> FittedLaw | None:
    """Fits the form to all runs, without intervals. Returns None where they cannot carry it; its errors say why."""
    with suppress(Refusal):
        return without(table, form, objective, known_floor)
    return None


def _error(
    table: RunTable, held: np.ndarray, form: Law, *, objective: Objective, known_floor: float | None
) -> FormError:
    size = reach(table, form)
    found = FormError(form.name, float(held.mean()), int(held.sum()), float(size[held].max() / size[~held].max()))
    try:
        refit = without(table.take(~held), form, objective, known_floor)
    except Refusal as refusal:
        return replace(found, refused=str(refusal))
    predicted = refit.loss_at({axis: x[held] for axis, x in table.points(form).items()})[0]
    error = np.log(predicted) - np.log(table.response(form)[held])
    return replace(
        found,
        rms_log_error=float(np.sqrt((error**2).mean())),
        mean_log_error=float(error.mean()),
        worst_log_error=float(error[np.abs(error).argmax()]),
    )


def _pooled(rows: list[FormError]) -> dict[str, float]:
    """Pools the errors of all forms over the fractions that they share. A form that shares too few is dropped."""
    by_form: dict[str, dict[float, float]] = {}
    for row in rows:
        if row.rms_log_error is not None:
            by_form.setdefault(row.law, {})[row.fraction_held] = row.rms_log_error
    while by_form:
        shared = set.intersection(*map(set, by_form.values()))
        if shared:
            return {name: float(np.sqrt(np.mean([e[f] ** 2 for f in shared]))) for name, e in by_form.items()}
        del by_form[min(by_form, key=lambda name: len(by_form[name]))]
    return {}


def _target(table: RunTable, law: Law, size: np.ndarray) -> Points:
    points = table.points(law)
    if "l" in points:
        return {}
    at = int(np.argmax(size))
    grown = TARGET ** (1 / len([axis for axis in points if axis in ("n", "d")]))
    return {axis: x[at : at + 1] * (grown if axis in ("n", "d") else 1.0) for axis, x in points.items()}
