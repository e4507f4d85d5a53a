"""All fits as one LaTeX table, a block a law. It needs \\usepackage{booktabs} and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.result import Fit

GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "kappa", "lambda", "mu", "sigma", "tau", "eta", "theta", "rho")
FUNCTIONS = ("exp", "log", "min", "max")
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Returns text that LaTeX prints unchanged."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def math(formula: str) -> str:
    """Returns a law's formula, or a parameter's name, in math mode: "A / N^alpha" gives $A / N^{\\alpha}$."""
    braced = re.sub(r"\^-?(\w+|\([^()]*\))", lambda found: "^{" + found.group(0)[1:].strip("()") + "}", formula)
    braced = re.sub(r"_(\w+)", r"_{\1}", braced).replace(" * ", r" \cdot ")
    worded = re.sub(r"\\?[A-Za-z]+", lambda found: _word(found.group(0)), braced)
    return f"${worded}$"


def _word(word: str) -> str:
    if word in GREEK or word in FUNCTIONS:
        return f"\\{word} "
    return word if len(word) == 1 or word.startswith("\\") else rf"\mathrm{{~{word}~}}"


def written_at_1(fit: Fit) -> set[str]:
    """Returns the sizes that the formula gives at N = 1 or D = 1: far from the data, so reports use the centre."""
    point = fit.natural(fit.theta_P[None])
    return {
        name
        for name, size in fit.sizes_at_centre.items()
        if fit.law.sizes[name] and abs(point[name][0] - size) > 1e-9 * abs(size)
    }


def number(value: float, digits: int = 7) -> str:
    """Returns the number in math mode, with a power of ten if it has an exponent."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"${mantissa}$" if not exponent else rf"${mantissa} \times 10^{{{int(exponent)}}}$"


def table(fits: Sequence[tuple[str, Fit | Refusal]]) -> str:
    """Returns the LaTeX source for (law's name, its fit or the refusal), with four columns in every row.

    A size is the term's part of the loss at the centre of the data, where fits can be compared. An open parameter has
    a bound in place of a value.
    """
    blocks = [_refused(name, fit) if isinstance(fit, Refusal) else _block(name, fit) for name, fit in fits]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{tabular}{llll}",
        r"\toprule",
        r"Law & Quantity & Value & 95\,\% interval \\",
    ]
    for block in blocks:
        lines += [r"\midrule", *block]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _refused(name: str, refusal: Refusal) -> list[str]:
    return [f"% {name}: {' '.join(str(refusal).split())}", rf"{escape(name)} & refused & -- & -- \\"]


def _block(name: str, fit: Fit) -> list[str]:
    rows, sizes = [("formula", math(fit.law.formula), "")], written_at_1(fit)
    for parameter in fit.params:
        if parameter in sizes:
            at = f"{math(parameter)} term at the centre"
            rows.append((at, number(fit.sizes_at_centre[parameter]), _interval(fit.sizes_at_centre95.get(parameter))))
        else:
            rows.append((math(parameter), _value(fit, parameter), _ends(fit, parameter)))
    delta = rf", $\delta$ = {number(fit.objective.delta, 3)}" if fit.objective.name == "huber" else ""
    rows.append((f"objective ({fit.objective.name}{delta})", number(fit.objective_value), ""))
    if fit.heldout:
        errors = np.array([run.relative_error for run in fit.heldout])
        rms = rf"{100 * np.sqrt((errors**2).mean()):.2g}\,\%"
        rows.append((f"held-out error, {len(errors)} runs (rms)", rms, ""))
    rows.append(("runs", str(len(fit.table)), ""))
    heads = [escape(name)] + [""] * (len(rows) - 1)
    return [rf"{head} & {' & '.join(row)} \\" for head, row in zip(heads, rows, strict=True)]


def _value(fit: Fit, name: str) -> str:
    value = fit.params[name]
    if name in fit.bounds or value is None:
        return "open"
    return number(value) + (" (known)" if name == "E" and fit.known_floor is not None else "")


def _ends(fit: Fit, name: str) -> str:
    if name not in fit.bounds:
        return _interval(fit.interval95.get(name))
    low, high = fit.bounds[name]
    ends = [f"$> {number(low, 4)[1:]}"] if low is not None else []
    ends += [f"$< {number(high, 4)[1:]}"] if high is not None else []
    return " and ".join(ends) or "unbounded"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{number(interval[0], 4)}, {number(interval[1], 4)}]"
