"""The results of a fit, in sentences for a reader who has not seen the law before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.fitting.forms import Forms
from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.html import interval
from scaling.report.latex import written_at_1

if TYPE_CHECKING:
    from scaling.compute.frontier import Estimate95, Frontier

BOTTLENECKS = {"beta": ("the data are", "data"), "alpha": ("the size is", "parameters")}
"""{exponent: the bottleneck that it describes}, in the laws below."""
PURE_POWERS = ("power", "power_floor", "chinchilla", "chinchilla_no_floor", "gamma", "kaplan")
"""Laws in which the loss above the floor is one power of what alone limits it."""


def answer(fit: Fit) -> str:
    """Returns the verdict on the law, the parameters with their 95 % intervals, and what they mean."""
    law = fit.law
    known = [_parameter(fit, name) for name in fit.params if name not in written_at_1(fit)]
    sentences = list(fit.misfit.sentences)
    sentences += [f"{len(fit.table)} runs give {law.formula.split(', with')[0]} with {', '.join(known)}."]
    columns = fit.table.columns
    what_ends = "loss" if columns.loss is not None else f"error 1 - {columns.metric}"
    if law.name in PURE_POWERS:
        sentences += [
            f"If {limit} the bottleneck, ten times as many {what} divide the {what_ends} above the floor by "
            f"{10**exponent:.3g}{_tenfold(fit, name)}."
            for name, (limit, what) in BOTTLENECKS.items()
            if (exponent := fit.params.get(name)) is not None
        ]
    if law.has_floor and fit.params.get("E") is not None:
        is_known = fit.known_floor is not None
        more = " and ".join({"n": "larger models", "d": "more data"}[axis] for axis in law.axes if axis in "nd")
        sentences.append(
            f"With ever {more} the {what_ends} approaches {fit.params['E']:.5g}{', which is known' * is_known}."
        )
    return " ".join(sentences)


def _parameter(fit: Fit, name: str) -> str:
    if name in fit.bounds:
        return f"{name} {fit.describe(name)}"
    ends = fit.interval95.get(name)
    return f"{name} = {fit.params[name]:.4g}" + (f" {interval(ends)}" if ends else "")


def _tenfold(fit: Fit, name: str) -> str:
    ends = fit.interval95.get(name)
    return f" [{10 ** ends[0]:.3g}, {10 ** ends[1]:.3g}]" if ends else ""


def path_sentence(path: Frontier, is_measured: bool) -> str:
    """Describes the compute-optimal path. `is_measured`: C / (N D) is the runs' own."""
    says = f"The best N grows as C^{_power(path.n_exponent)} and the best D as C^{_power(path.d_exponent)}"
    furthest = float(path.extrapolation_B.max())
    beyond = f" The path is drawn to {furthest:.3g} times the largest compute of the runs." if furthest > 1 else ""
    source = "" if is_measured else ", which is assumed: the table has no FLOPs (--flops)"
    return f"{says}, with C = {path.flops_per_nd:.4g} N D{source}.{beyond}"


def _power(power: Estimate95) -> str:
    value = "?" if power.value is None else f"{power.value:.3f}"
    return f"{value} {interval((power.low, power.high))}"


def noise_sentences(fit: Fit) -> list[str]:
    """Describes the noise between repeats of a point, and says if the law misses by more than that noise."""
    if fit.seed_noise is None:
        return []
    noise = fit.seed_noise
    sentences = [
        f"Repeats of {noise.groups} points differ by {noise.sigma:.2g} in log response (standard deviation, "
        f"{noise.degrees_of_freedom} degrees of freedom). The residuals of the fit have a robust standard deviation of "
        f"{fit.residual_sigma:.2g}."
    ]
    if fit.lack_of_fit is not None:
        p = fit.lack_of_fit.p_value
        verdict = "misses the runs by more than" if p < 0.05 else "misses the runs by no more than"
        sentences.append(f"The law {verdict} this noise explains (F test, p = {p:.2g}).")
    return sentences


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
