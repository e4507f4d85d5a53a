"""The answer in words: other exponents or other constants, the compute multiplier, and which arm is better beyond."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.arms.compare import TABLE, ArmsFit
from scaling.arms.multiplier import BEYOND, AtCost, Versus
from scaling.compute.frontier import Estimate95


def sentences(found: ArmsFit, others: Sequence[Versus]) -> tuple[str, ...]:
    """Returns a sentence on the exponents, one for each arm but the first, and one if the law misses the runs."""
    says = [_exponents(found), *(_arm(found, one) for one in others)]
    if found.misfits:
        says.append(
            f"{found.law.name} misses the runs of {' and '.join(found.misfits)} by more than their noise, so nothing "
            "is known beyond the runs."
        )
    return tuple(says)


def _exponents(found: ArmsFit) -> str:
    equal = found.equal
    arms = "arms" if found.by == TABLE else f"arms of {found.by}"
    if equal is None:
        return f"All exponents are shared by the {arms}."
    names = " and ".join(equal.names)
    values = "; ".join(
        f"{arm.name} {', '.join(f'{name} {arm.params[name]}' for name in equal.names)}" for arm in found.arms
    )
    if equal.p_value is None:
        return f"{names}: {values}; without bootstrap it is not known if they differ."
    if equal.differ:
        return f"The {arms} differ in {names} (p {equal.p_value:.2g}): {values}."
    return f"The {arms} may have the same {names} (p {equal.p_value:.2g}): {values}."


def _arm(found: ArmsFit, one: Versus) -> str:
    first, what = found.arms[0].name, "FLOPs" if found.cost == "C" else "data"
    last, beyond = one.along[-1], one.beyond
    says = f"{one.arm} needs {times(last.multiplier)} the {what} of {first} for its {found.response} at {found.cost} "
    says += f"{last.cost:.3g}"
    if beyond.better is None:
        return says + "."
    held = "if the law held there, " if found.misfits else ""
    return f"{says}; at {BEYOND:g} times that, {held}{_better(found, one.arm, beyond)}."


def _better(found: ArmsFit, arm: str, at: AtCost) -> str:
    first, share = found.arms[0].name, at.better or 0.0
    name, share = (arm, share) if share >= 0.5 else (first, 1 - share)
    ratio = f"the {found.response} of {arm} is {percent(at.difference)} of {first}'s"
    return f"{name} is better with probability {share:.2g} ({ratio})"


def times(multiplier: Estimate95) -> str:
    """Returns a multiplier in words: "1.2 [0.9, 1.6] times"."""
    if multiplier.value is None:
        return "any number of times" if multiplier.low is None else f"more than {multiplier.low:.3g} times"
    return f"{multiplier.value:.3g}{_ends(multiplier)} times"


def percent(ratio: Estimate95) -> str:
    """Returns 1 + ratio in per cent with its interval."""
    if ratio.value is None:
        return "an unknown part"
    ends = "" if ratio.low is None or ratio.high is None else f" [{1 + ratio.low:.2%}, {1 + ratio.high:.2%}]"
    return f"{1 + ratio.value:.2%}{ends}"


def _ends(estimate: Estimate95) -> str:
    if estimate.low is None and estimate.high is None:
        return ""
    low = "0" if estimate.low is None else f"{estimate.low:.3g}"
    return f" [{low}, {'no end' if estimate.high is None else f'{estimate.high:.3g}'}]"
