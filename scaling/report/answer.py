"""The results of a fit, in sentences for a reader who has not seen the law before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaling.fitting.forms import Forms
from scaling.fitting.misfit import REPEATS
from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.latex import written_at_1
from scaling.report.numbers import amount, estimate, flops, interval

if TYPE_CHECKING:
    from scaling.compute.frontier import Estimate95, Frontier

ROLES = {"beta": "data exponent", "alpha": "size exponent", "E": "floor"}
"""{parameter: what it is, in words}, in the laws below."""
BOTTLENECKS = {"beta": ("the data are", "data"), "alpha": ("the size is", "parameters")}
"""{exponent: the bottleneck that it describes}, in the laws below."""
PURE_POWERS = ("power", "power_floor", "chinchilla", "chinchilla_no_floor", "gamma", "kaplan")
"""Laws in which the loss above the floor is one power of what alone limits it."""


def answer(fit: Fit, path: Frontier | None = None) -> str:
    """Returns the answer in two sentences: the verdict on the law with its exponents, and what they mean.

    With a compute-optimal `path` the second sentence says how the best N and D grow, and their ratio.
    """
    law, count = fit.law.formula.split(", with")[0], len(fit.table)
    known = _listed([_parameter(fit, name) for name in fit.params if name not in written_at_1(fit)])
    reasons = fit.misfit.sentences[0].partition(": ")[2].rstrip(".")
    first = {
        "follows": f"{count} runs follow {law} as far as they can show, with {known}.",
        "misfits": f"{count} runs do not follow {law}, fitted with {known}: {reasons}.",
        "cannot tell": f"{count} runs cannot show if they follow {law}, fitted with {known}: {reasons}.",
    }[fit.misfit.verdict]
    second = _best_use(path) if path is not None else " ".join(tenfold(fit))
    return f"{first} {second}".strip()


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _parameter(fit: Fit, name: str) -> str:
    role = f"{ROLES[name]} {name}" if fit.law.name in PURE_POWERS and name in ROLES else name
    return f"{role} = {value(fit, name)}" if name not in fit.bounds else f"{role} {fit.describe(name)}"


def value(fit: Fit, name: str) -> str:
    """Returns a parameter with its interval, with the digits that the interval supports, or its bounds."""
    if name in fit.bounds:
        return fit.describe(name)
    mark = "" if name in fit.free else " (known)" if name == "E" and fit.known_floor is not None else " (fixed)"
    return estimate(fit.params[name], fit.interval95.get(name)) + mark


def tenfold(fit: Fit) -> list[str]:
    """Returns a sentence for each exponent: by how much ten times the data, or the parameters, divide the loss."""
    if fit.law.name not in PURE_POWERS:
        return []
    what_ends = "loss" if fit.table.columns.loss is not None else f"error 1 - {fit.table.columns.metric}"
    above = f"{what_ends} above the floor" if fit.law.has_floor and fit.floor > 0 else what_ends
    is_of_both = {"n", "d"} <= set(fit.law.axes)
    sentences = []
    for name, (limit, what) in BOTTLENECKS.items():
        exponent, ends = fit.params.get(name), fit.interval95.get(name)
        if exponent is None:
            continue
        by = estimate(10**exponent, ends and (10 ** ends[0], 10 ** ends[1]))
        says = f"ten times the {what} divide the {above} by {by}."
        sentences.append(f"Where {limit} the bottleneck, {says}" if is_of_both else says[0].upper() + says[1:])
    return sentences


def meaning(fit: Fit) -> list[str]:
    """Returns what the law says beyond the answer: tenfold steps, where the loss ends, and how the check went."""
    sentences = tenfold(fit) if {"n", "d"} <= set(fit.law.axes) else []
    if fit.law.has_floor and fit.params.get("E") is not None:
        more = _listed([{"n": "larger models", "d": "more data"}[axis] for axis in fit.law.axes if axis in "nd"])
        what = "loss" if fit.table.columns.loss is not None else f"error 1 - {fit.table.columns.metric}"
        sentences.append(f"With ever {more} the {what} approaches {value(fit, 'E')}.")
    return [*sentences, *fit.misfit.sentences[1:]]


def _best_use(path: Frontier) -> str:
    """Says how the best N and D grow with compute, and their ratio at the largest compute of the runs.

    Where a parameter of the path is open it says so, and gives no number.
    """
    if path.n_exponent.value is None:
        return f"How the best N and D grow with compute is open: {path.open_reason}."
    says = f"The best size N grows as C^{_power(path.n_exponent)} and the best data D as C^{_power(path.d_exponent)}"
    i = int(np.argmin(np.abs(np.log(path.extrapolation_B))))
    n, d = path.n.value_B[i], path.d.value_B[i]
    if not np.isfinite([n, d]).all():
        return f"{says}."
    ratio = f"D/N = {amount(d / n, 2)} at C = {flops(path.budgets_B[i], 2)}, the largest of the runs"
    return f"{says}, with {ratio}."


def path_sentence(path: Frontier, is_measured: bool) -> str:
    """Describes the compute-optimal path. `is_measured`: C / (N D) is the runs' own."""
    furthest = float(path.extrapolation_B.max())
    beyond = f" The path is drawn to {furthest:.3g} times the largest compute of the runs." if furthest > 1 else ""
    source = "" if is_measured else ", which is assumed: the table has no FLOPs (--flops)"
    return f"{_best_use(path).rstrip('.')}; C = {path.flops_per_nd:.4g} N D{source}.{beyond}"


def _power(power: Estimate95) -> str:
    return "?" if power.value is None else estimate(power.value, (power.low, power.high))


def noise_sentences(fit: Fit) -> list[str]:
    """Describes the noise between repeats of a point, and says if the law misses by more than that noise."""
    noise, repeats = fit.seed_noise, fit.misfit.of(REPEATS)
    if noise is None or repeats is None:
        return []
    return [
        f"Repeats of {noise.groups} points differ by {noise.sigma:.2g} in log response (standard deviation, "
        f"{noise.degrees_of_freedom} degrees of freedom). The residuals of the fit have a robust standard deviation of "
        f"{fit.residual_sigma:.2g}.",
        f"{repeats.says[0].upper()}{repeats.says[1:]}.",
    ]


def limits(name: str, fit: Fit, theory: Theory | None) -> list[str]:
    """Lists what a fit cannot show."""
    notes = [f"{name}: the value of {p}; {fit.describe(p)}." for p in fit.open_intervals]
    if fit.law.has_floor and fit.known_floor is None and "E" not in fit.open_intervals:
        notes.append(
            f"{name}: exponents that do not depend on the floor. The floor is fitted, and the exponents move with it."
        )
    if fit.law.response == "loss" and not fit.law.has_floor:
        notes.append(
            f"{name}: whether the loss has a floor. The law assumes none; with a floor the exponent would be steeper."
        )
    if not fit.heldout:
        notes.append(f"{name}: how well it extrapolates. No held-out check was possible or asked for.")
    if fit.seed_noise is None:
        notes.append(
            f"{name}: the noise of a run. No two runs differ in the seed alone, so residuals mix noise and misfit."
        )
    if theory is not None and "beta" in fit.params:
        notes.append(f"{name}: {_against_theory(fit, theory)}")
    return notes


def _against_theory(fit: Fit, theory: Theory) -> str:
    ends = fit.interval95.get("beta")
    if ends is None:
        return f"agreement of beta with the theory's {theory.exponent:.4g}: beta has no interval."
    if ends[0] <= theory.exponent <= ends[1]:
        return (
            f"that the theory is right. Beta's interval {interval(ends)} contains its {theory.exponent:.4g}: no proof."
        )
    says = f"why beta's interval {interval(ends)} does not contain the theory's {theory.exponent:.4g}"
    return f"{says}: the cause may be finite size, training or the form of the law."


def forms_sentence(forms: Forms) -> str:
    """Says which form predicts the held-out runs best, and how far the forms differ at the most distant point."""
    tried = {row.law for row in forms.rows if row.refused is None}
    says = f"{len(tried)} forms were fitted without the largest runs"
    says += f"; {forms.best} predicts them best." if forms.best else "; no two could be compared on the same runs."
    if forms.best and forms.chosen != forms.best:
        says += f" {forms.chosen} does nearly as well and has a floor, which is safer far beyond the data."
    if forms.spread is None:
        return says
    target = ", ".join(f"{axis.upper()} = {value:.3g}" for axis, value in forms.target.items())
    near = f"the forms that do nearly as well ({', '.join(forms.near)})"
    return f"{says} Fitted to all runs, {near} differ by {forms.spread:.2%} at {target}, far beyond the data."
