"""What a fit says, in sentences for a reader who has not seen the law before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.html import interval
from scaling.report.latex import written_at_1

if TYPE_CHECKING:
    from scaling.compute.frontier import Estimate95, Frontier

BOTTLENECKS = {"beta": ("the data are", "data"), "alpha": ("size is", "parameters")}
"""{exponent: what it is an exponent of}, in the laws below."""
PURE_POWERS = ("power", "power_floor", "chinchilla", "chinchilla_no_floor", "gamma", "kaplan")
"""Laws in which the loss above the floor is one power of what alone limits it."""


def answer(fit: Fit) -> str:
    """The parameters with their 95 % intervals, and what they mean."""
    law = fit.law
    known = [_parameter(fit, name) for name in fit.params if name not in written_at_1(fit)]
    sentences = [f"{len(fit.table)} runs give {law.formula.split(', with')[0]} with {', '.join(known)}."]
    columns = fit.table.columns
    what_ends = "loss" if columns.loss is not None else f"error 1 - {columns.metric}"
    if law.name in PURE_POWERS:
        sentences += [
            f"Where {limit} the bottleneck, ten times as many {what} divide the {what_ends} above the floor by "
            f"{10 ** fit.params[name]:.3g}{_tenfold(fit, name)}."
            for name, (limit, what) in BOTTLENECKS.items()
            if fit.params.get(name) is not None
        ]
    if law.has_floor and fit.params.get("E") is not None:
        is_known = fit.known_floor is not None
        more = " and ".join({"n": "larger models", "d": "more data"}[axis] for axis in law.axes if axis in "nd")
        sentences.append(
            f"With ever {more} the {what_ends} ends at {fit.params['E']:.5g}{', which is known' * is_known}."
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
    """The compute-optimal path in words; `is_measured`: C / (N D) is the runs' own."""
    says = f"The best N grows as C^{_power(path.n_exponent)} and the best D as C^{_power(path.d_exponent)}"
    furthest = float(path.extrapolation_B.max())
    beyond = f" The path is drawn to {furthest:.3g} times the largest compute of the runs." if furthest > 1 else ""
    source = "" if is_measured else ", which is assumed: the table has no FLOPs (--flops)"
    return f"{says}, with C = {path.flops_per_nd:.4g} N D{source}.{beyond}"


def _power(power: Estimate95) -> str:
    if power.value is None:
        return f"? {interval((power.low, power.high))}"
    return f"{power.value:.3f} {interval((power.low, power.high))}"


def noise_sentences(fit: Fit) -> list[str]:
    """What repeats of a point tell of the noise, and whether the law misses by more than it."""
    if fit.seed_noise is None:
        return []
    noise = fit.seed_noise
    sentences = [
        f"Repeats of {noise.groups} points differ by {noise.sigma:.2g} in log response (standard deviation, "
        f"{noise.degrees_of_freedom} degrees of freedom); residuals by {fit.residual_sigma:.2g} (robust)."
    ]
    if fit.lack_of_fit is not None:
        p = fit.lack_of_fit.p_value
        verdict = "misses the runs by more than" if p < 0.05 else "misses the runs by no more than"
        sentences.append(f"The law {verdict} this noise explains (F test, p = {p:.2g}).")
    return sentences


def limits(name: str, fit: Fit, theory: Theory | None) -> list[str]:
    """What a fit cannot tell."""
    notes = [f"{name}: the value of {p}; {fit.describe(p)}." for p in fit.open_intervals]
    if fit.law.has_floor and fit.known_floor is None and "E" not in fit.open_intervals:
        notes.append(f"{name}: the floor is fitted, and the exponents move with it.")
    if fit.law.response == "loss" and not fit.law.has_floor:
        notes.append(f"{name}: assumes that the loss falls to 0; with a floor, the exponent would be steeper.")
    if not fit.heldout:
        notes.append(f"{name}: how it extrapolates, since no held-out check was possible or asked for.")
    if fit.seed_noise is None:
        notes.append(
            f"{name}: the noise of a run, since no two differ in the seed alone: residuals mix it with misfit."
        )
    if theory is not None and "beta" in fit.params:
        notes.append(f"{name}: {_against_theory(fit, theory)}")
    return notes


def _against_theory(fit: Fit, theory: Theory) -> str:
    ends = fit.interval95.get("beta")
    if ends is None:
        return f"whether beta agrees with the theory's {theory.exponent:.4g}; it has no interval."
    says = f"beta's interval {interval(ends)} %s the theory's {theory.exponent:.4g}"
    if ends[0] <= theory.exponent <= ends[1]:
        return says % "holds" + ", which is no proof of it."
    return says % "does not hold" + "; whether finite size, training or the form of the law is why, is not told here."


def forms_sentence(fit: Fit) -> str:
    """Which form predicts the held-out runs best, and how far the forms part at the most distant one."""
    tried = {row.law for row in fit.forms.rows if row.refused is None}
    says = f"{len(tried)} forms were fitted without the largest runs"
    says += f"; {fit.forms.chosen} predicts them best." if fit.forms.chosen else ", and none at every share."
    if fit.forms.spread is None:
        return says
    target = ", ".join(f"{axis.upper()} = {value:.3g}" for axis, value in fit.forms.target.items())
    near = f"the forms that do nearly as well ({', '.join(fit.forms.near)})"
    return f"{says} Fitted to all runs, {near} differ by {fit.forms.spread:.2%} at {target}, far past the data."
