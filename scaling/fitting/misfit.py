"""The verdict on a law: the runs follow it, contradict it, or are too few to say.

Every check gives one piece of evidence with a sentence. The thresholds are those of a null simulation
(benchmarks/misfit.py): tables that follow their law are called misfits in at most 5 % of the cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scaling.fitting.forms import Forms
from scaling.fitting.heldout import HeldOutRun, count_inside, rms_log_error
from scaling.fitting.influence import Influence
from scaling.fitting.isoflop_gap import IsoFlopGap
from scaling.fitting.noise import LEAST_REPEATS, SeedNoise
from scaling.fitting.other_columns import OtherColumn
from scaling.fitting.trend import EXACT, Trend
from scaling.laws.registry import Law
from scaling.table.variation import AXIS

SURE = 0.005
"""The p-value below which a single check says that the law misfits."""
UNSURE = 0.05
"""The p-value that suffices where another form predicts SEVERAL times better."""
SEVERAL = 3.0
"""The error of this law on the held-out runs over that of another form, from which the other form is evidence."""

HELD_OUT = "held-out runs"
REPEATS = "repeats"
Verdict = Literal["follows", "misfits", "cannot tell"]


@dataclass(frozen=True)
class Evidence:
    """The result of one check of a law."""

    check: str
    misfits: bool | None
    """None: this check cannot tell."""
    says: str
    """The result in words, as a part of a sentence."""
    p_value: float | None = None


@dataclass(frozen=True)
class Misfit:
    """The verdict on a law with its evidence."""

    verdict: Verdict
    evidence: tuple[Evidence, ...]
    influences: tuple[Influence, ...]
    """Single runs that decide the fit."""

    def of(self, check: str) -> Evidence | None:
        """Returns the evidence of one check, None where it was not done."""
        return next((one for one in self.evidence if one.check == check), None)

    @property
    def sentences(self) -> list[str]:
        """The verdict with its reasons, the held-out runs, and the runs that decide the fit; a sentence each."""
        begins = {
            "misfits": "These runs do not follow this law",
            "follows": "These runs follow this law as far as they can show",
            "cannot tell": "These runs cannot show if they follow this law",
        }
        wanted = {"misfits": True, "follows": False, "cannot tell": None}[self.verdict]
        apart = [one for one in self.evidence if one.check == HELD_OUT]
        reasons = [one.says for one in self.evidence if one.misfits is wanted and one not in apart]
        if self.verdict == "misfits":
            together = "and together they are further to one side of the law than their noise explains"
            reasons += [f"{one.says}, {together} (p = {one.p_value:.2g})" for one in apart if one.misfits]
        others = [one.says for one in apart if not (one.misfits and self.verdict == "misfits")]
        others += [one.sentence for one in self.influences]
        return [f"{begins[self.verdict]}: {'; '.join(reasons)}.", *(f"{text[0].upper()}{text[1:]}." for text in others)]


def judge(
    law: Law,
    *,
    trend: Trend | None,
    repeats: Trend | None,
    noise: SeedNoise | None,
    held: Sequence[HeldOutRun],
    shift: Trend | None,
    forms: Forms | None,
    influences: Sequence[Influence],
    others: Sequence[OtherColumn],
    isoflop: IsoFlopGap | None,
) -> Misfit:
    """Returns the verdict on a fit of `law`.

    Args:
      law: the law.
      trend: the trend of the fit's residuals, None where there are too few runs.
      repeats: the misfit compared with the noise between repeated runs, None where there are too few of them.
      noise: the noise between repeated runs, None where no run was repeated.
      held: the held-out runs, empty if none were.
      shift: the test of the held-out runs against the others.
      forms: every form's error on held-out runs, None if they were not compared.
      influences: single runs that decide the fit.
      others: columns that the law does not have and that the residuals vary with.
      isoflop: the exponents of the best N at equal compute, None where the table has too few such budgets.
    """
    found = [_residuals(law, trend), _held_out(held, shift)]
    if forms is not None and forms.pooled:
        found.append(_other_forms(law, forms, [one.p_value for one in (trend, shift) if one is not None]))
    if noise is not None:
        found.append(_repeats(repeats))
    if isoflop is not None:
        found.append(_isoflop(isoflop))
    found += [_other_column(column) for column in others]
    verdict: Verdict = "cannot tell" if trend is None else "follows"
    if any(one.misfits for one in found):
        verdict = "misfits"
    return Misfit(verdict, tuple(found), tuple(influences))


def _residuals(law: Law, trend: Trend | None) -> Evidence:
    axes = " and ".join(AXIS[axis] for axis in law.axes)
    if trend is None:
        return Evidence("residuals", None, "too few independent runs to test the residuals for a trend")
    misfits = trend.p_value <= SURE
    says = (
        f"the residuals have a trend along {axes} of {trend.rms:.2g} in log response, {trend.share:.0%} of their "
        f"variance (p = {trend.p_value:.2g})"
        if misfits
        else f"the residuals have no trend along {axes} (p = {trend.p_value:.2g})"
    )
    return Evidence("residuals", misfits, says, trend.p_value)


def _held_out(held: Sequence[HeldOutRun], shift: Trend | None) -> Evidence:
    error, inside = rms_log_error(held), count_inside(held)
    if error is None:
        return Evidence(HELD_OUT, None, "no runs were held out")
    within = "" if inside is None else f", with {inside} of {len(held)} inside their own 95 % band"
    says = f"the {len(held)} largest runs, held out, are predicted {error:.2%} off{within}"
    if shift is None:
        return Evidence(HELD_OUT, None, says)
    return Evidence(HELD_OUT, shift.p_value <= SURE, says, shift.p_value)


def _other_forms(law: Law, forms: Forms, p_values: Sequence[float]) -> Evidence:
    own, best = forms.pooled.get(law.name), forms.best
    if own is None or best is None or best == law.name:
        others = len(forms.pooled) - (law.name in forms.pooled)
        if own is None or not others:
            return Evidence("other forms", None, "no other form could be compared on the same held-out runs")
        return Evidence("other forms", False, f"none of {others} other forms predicts the held-out runs better")
    better = own / max(forms.pooled[best], 1e-300)
    misfits = better >= SEVERAL and own > EXACT and min(p_values, default=1.0) <= UNSURE
    return Evidence("other forms", misfits, f"{best} predicts the held-out runs {better:.2g} times better")


def _isoflop(gap: IsoFlopGap) -> Evidence:
    misfits = gap.test.p_value <= SURE
    says = (
        f"the IsoFLOP minima of {gap.budgets} budgets {'contradict' if misfits else 'agree with'} the law: N* ~ "
        f"C^{gap.measured:.3f} by the runs and C^{gap.by_law:.3f} by the law (p = {gap.test.p_value:.2g})"
    )
    return Evidence("IsoFLOP minima", misfits, says, gap.test.p_value)


def _other_column(column: OtherColumn) -> Evidence:
    says = (
        f"the residuals vary with the column {column.name}, which the law does not have: it explains "
        f"{column.share:.0%} of their variance (p = {column.p_value:.2g}), so fit the runs of one {column.name} at a "
        "time"
    )
    return Evidence("other columns", True, says, column.p_value)


def _repeats(repeats: Trend | None) -> Evidence:
    if repeats is None:
        few = "the repeats are too few, or too alike, to compare the law's misfit with the noise between them"
        return Evidence(REPEATS, None, f"{few} (wanted: {LEAST_REPEATS} runs beyond the first of each point)")
    misfits = repeats.p_value <= SURE
    more = "more" if misfits else "no more"
    says = f"the law misses the runs by {more} than the noise between repeats (p = {repeats.p_value:.2g})"
    return Evidence(REPEATS, misfits, says, repeats.p_value)
