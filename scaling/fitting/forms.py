"""Which form of law the runs choose: each is refitted without the largest runs, several fractions of them, and must
predict those. Not by R^2, which every form has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.heldout import reach, without
from scaling.fitting.minimize import Objective
from scaling.laws.registry import LAWS, Law
from scaling.laws.terms import Points
from scaling.table.run_table import RunTable

FRACTIONS = (0.1, 0.2, 0.35, 0.5)
"""Parts of the runs, the largest ones, that are held out."""
TARGET = 10.0
"""The target at which the forms' predictions are held beside each other: so many times the largest run."""
NEAR = 1.5
"""Pooled error over the best form's, up to which a form is near it."""


@dataclass(frozen=True)
class FormError:
    """One form, refitted without one fraction of the runs. Errors are log(predicted) - log(measured)."""

    law: str
    fraction_held: float
    runs_held: int
    extrapolation_factor: float
    """The largest held run over the largest fitted one."""
    rms_log_error: float | None
    mean_log_error: float | None
    worst_log_error: float | None
    """The one of largest size, with its sign."""
    refused: str | None
    """Why the rest of the runs cannot carry the form."""


@dataclass(frozen=True)
class Forms:
    rows: tuple[FormError, ...]
    pooled: dict[str, float]
    """{form: root mean square of its rms over the fractions that all these forms could carry}."""
    chosen: str | None
    """The form of lowest `pooled`; None where no fraction left enough."""
    target: dict[str, float]
    """{axis: x}, 10 times past the largest run; empty for laws of a metric over a loss."""
    at_target: dict[str, float]
    """{form: its prediction there, fitted to all runs}."""

    @property
    def near(self) -> tuple[str, ...]:
        """The forms that predict the held-out runs nearly as well as the best one."""
        return tuple(name for name, error in self.pooled.items() if error <= NEAR * self.pooled[self.chosen])

    @property
    def spread(self) -> float | None:
        """Highest over lowest prediction of the near forms at the target, minus 1; None for fewer than two."""
        values = [self.at_target[name] for name in self.near if name in self.at_target]
        return max(values) / min(values) - 1 if len(values) > 1 else None


def family(law: Law, known_floor: float | None) -> tuple[Law, ...]:
    """Returns the forms that compete with `law`: those of its family, but only those with a floor where it is known."""
    forms = [form for form in LAWS.values() if form.family == law.family] if law.family else [law]
    return tuple(form for form in forms if known_floor is None or form.has_floor)


def compare_forms(table: RunTable, law: Law, objective: Objective, known_floor: float | None) -> Forms:
    """Every form of `law`'s family against the held-out top of the table, under one objective."""
    forms = family(law, known_floor)
    size = reach(table, law)
    rows: list[FormError] = []
    masks: list[np.ndarray] = []
    for fraction in FRACTIONS:
        held = _top(size, fraction)
        if any(np.array_equal(held, other) for other in masks) or held.all():
            continue  # few distinct sizes: the fractions are the same
        masks.append(held)
        rows += [_error(table, form, objective, known_floor, held, size) for form in forms]
    pooled = _pooled(rows)
    target = _target(table, law, size)
    return Forms(
        rows=tuple(rows),
        pooled=pooled,
        chosen=min(pooled, key=pooled.get) if pooled else None,
        target={axis: float(x[0]) for axis, x in target.items()},
        at_target=_at_target(table, forms, objective, known_floor, target) if target else {},
    )


def _top(size: np.ndarray, fraction: float) -> np.ndarray:
    """[R]: the largest runs, about `fraction` of them; runs of one size stay together, and at least one is held."""
    order = np.sort(size)
    border = order[min(round(len(size) * (1 - fraction)), len(size) - 1)]
    return size >= border * (1 - 1e-9)


def _error(table, form, objective, known_floor, held, size) -> FormError:
    facts = (form.name, float(held.mean()), int(held.sum()), float(size[held].max() / size[~held].max()))
    try:
        refit = without(table.take(~held), form, objective, known_floor)
    except Refusal as refusal:
        return FormError(*facts, None, None, None, str(refusal))
    predicted = refit.loss_at({axis: x[held] for axis, x in table.points(form).items()})[0]
    error = np.log(predicted) - np.log(table.response(form)[held])
    worst = float(error[np.abs(error).argmax()])
    return FormError(*facts, float(np.sqrt((error**2).mean())), float(error.mean()), worst, None)


def _pooled(rows: list[FormError]) -> dict[str, float]:
    """All forms on the same fractions. A form that leaves none to share, because it could carry so few, is left out."""
    by_form: dict[str, dict[float, float]] = {}
    for row in rows:
        if row.refused is None:
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


def _at_target(table, forms, objective, known_floor, target) -> dict[str, float]:
    values = {}
    for form in forms:
        try:
            values[form.name] = float(without(table, form, objective, known_floor).loss_at(target)[0, 0])
        except Refusal:
            continue  # its row says why
    return values
