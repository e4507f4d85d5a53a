"""The sections of a page: parameters, checks of the fits, compute, the checklist, the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaling.errors import Refusal
from scaling.fitting.forms import Forms
from scaling.fitting.result import Fit
from scaling.report.answer import forms_sentence, path_sentence, value
from scaling.report.checklist import Item, answered
from scaling.report.html import element, fold, notes, number, paragraph, short, table
from scaling.report.latex import written_at_1
from scaling.report.numbers import amount, estimate, flops, interval
from scaling.table.rules import Excluded, by_rule
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import BestN, IsoFlop

HELDOUT_SHOWN = 20
PATH_SHOWN = 9


def refusals(fits: Sequence[tuple[str, Fit | Refusal]]) -> str:
    """Shows the laws that were refused while others were fitted."""
    refused = [one_fit(name, fit) for name, fit in fits if isinstance(fit, Refusal)]
    return fold(f"Refused laws ({len(refused)})", *refused) if refused else ""


def evidence(fit: Fit) -> str:
    """Shows the checks behind the verdict on the law."""
    says = {True: "misfits", False: "follows", None: "cannot tell"}
    rows = [(one.check, says[one.misfits], one.says, number(one.p_value, ".3g")) for one in fit.misfit.evidence]
    return table(("check", "verdict", "evidence", "p"), rows, numbers=(3,))


def one_fit(name: str, fit: Fit | Refusal) -> str:
    if isinstance(fit, Refusal):
        return element("h3", name) + paragraph(f"Refused: {fit}", "refusal")
    delta = f", delta {fit.objective.delta:.4g}" if fit.objective.name == "huber" else ""
    minima = "1 minimum" if len(fit.minima) == 1 else f"{len(fit.minima)} competing minima"
    facts = (
        f"{len(fit.table)} runs; {fit.objective.name}{delta} on log response; objective {fit.objective_value:.8g}, "
        f"{minima}; robust standard deviation of the residuals {fit.residual_sigma:.2g}; {len(fit.cloud_SP)} bootstrap "
        "draws."
    )
    parts = [
        element("h3", f"{name}: ", inner=element("span", fit.law.formula, "formula")),
        paragraph(f"{facts} {fit.law.assumptions} {fit.law.source}.", "soft"),
        _parameters(fit),
    ]
    if fit.free_floor is not None:
        ends, agrees = interval(fit.free_floor.interval95), fit.free_floor.agrees
        verdict = "which contains the known floor" if agrees else "which does not contain the known floor"
        says = "and the fit does not bound it well enough to compare" if agrees is None else verdict
        parts.append(paragraph(f"If the floor is fitted too, its 95 % interval is {ends}, {says}."))
    return "\n".join(parts + ([notes(fit.warnings, "warn")] if fit.warnings else []))


def _parameters(fit: Fit) -> str:
    rows = []
    for name in fit.params:
        size = fit.sizes_at_centre.get(name)
        rows.append((name, value(fit, name), "" if size is None else estimate(size, fit.sizes_at_centre95.get(name))))
    centre = ", ".join(f"{axis.upper()} = {amount(at)}" for axis, at in fit.centre.items())
    return table(("parameter", "value [95 %]", f"term's size at {centre} [95 %]"), rows)


def heldout(name: str, fit: Fit) -> str:
    """Shows the runs that a refit predicted without seeing them, the furthest first."""
    furthest = sorted(fit.heldout, key=lambda run: -run.extrapolation_factor)
    rows = [
        (
            run.run, amount(run.n), amount(run.d), f"{run.extrapolation_factor:.3g}×", f"{run.loss:.5g}",
            f"{run.predicted:.5g}", interval(run.predicted95), interval(run.run95), f"{run.relative_error:+.2%}",
            number(run.excess_relative_error, "+.1%"),
        )
        for run in furthest[:HELDOUT_SHOWN]
    ]  # fmt: skip
    heads = (
        "run",
        "N",
        "D",
        "past the data",
        "loss",
        "predicted",
        "95 % of the law",
        "of a run",
        "error",
        "error of the excess",
    )
    more = f" The {HELDOUT_SHOWN} furthest of {len(furthest)} are shown." if len(furthest) > HELDOUT_SHOWN else ""
    text = f"Held-out check of {name}: a refit without the largest runs predicts them.{more}"
    return paragraph(text) + table(heads, rows, numbers=range(1, 10))


def forms(of: Forms) -> str:
    """Shows every form's error at every held-out share, or why it has no error."""
    rows = [
        (
            row.law, f"{row.fraction_held:.0%}", str(row.runs_held), f"{row.extrapolation_factor:.3g}×",
            *(number(x, ".2g") for x in (row.rms_log_error, row.mean_log_error, row.worst_log_error)),
        )
        for row in of.rows
        if row.refused is None
    ]  # fmt: skip
    heads = ("form", "held out", "runs", "past the data", "rms error", "mean", "worst")
    refused = [f"{row.law}, {row.fraction_held:.0%} held out: {row.refused}" for row in of.rows if row.refused]
    shown = table(heads, rows, numbers=range(1, 7)) if rows else ""
    folded = fold(f"Refused forms ({len(refused)})", notes(refused)) if refused else ""
    return paragraph(forms_sentence(of)) + fold("Errors of every form", shown) + folded


def isoflop_section(of: IsoFlop) -> str:
    """Shows the best N of every budget by every method, the lines through them, and the refusals with their reasons."""
    rows = [
        (flops(budget.flops), str(len(budget.curve.n_G)), *(_best_n(m) for m in budget.minima.values()))
        for budget in of.budgets
    ]
    lines = []
    for line in of.lines.values():
        a = line.n_exponent
        grows = f"N grows as C^{estimate(a.value, (a.low, a.high))}."
        lines.append(f"{line.method}: " + (f"refused. {line.refused}" if line.refused else grows))
    refused: dict[tuple[str, str], list[str]] = {}
    for budget in of.budgets:
        for best in budget.minima.values():
            if best.refused:
                refused.setdefault((best.method, best.refused), []).append(flops(budget.flops))
    methods = list(of.lines)
    parts = [
        "<h3>Runs of equal compute (IsoFLOP)</h3>",
        paragraph(
            "The best N at each compute, found three ways: on the fitted law (surface), by a parabola through the runs "
            "in log N, and by the runs nearest to the lowest one (local). In brackets: 95 % intervals."
        ),
        table(("C", "sizes", *(f"best N, {method}" for method in methods)), rows, numbers=range(2 + len(methods))),
        notes(lines),
    ]
    if of.bias:
        parts.append(notes(f"{bias}." for bias in of.bias.values()))
    if refused:
        parts.append(paragraph("Refused minima:"))
        parts.append(notes((f"{m} at C = {', '.join(at)}: {why}" for (m, why), at in refused.items()), "refusal"))
    return "\n".join(parts + ([notes(of.warnings, "warn")] if of.warnings else []))


def _best_n(best: BestN) -> str:
    if best.refused:
        return "refused"
    return estimate(best.n, best.n_interval95, count=True)


def variants(fit: Fit) -> str:
    """Shows the same law under other choices, and so how much the answer depends on them."""
    names = [name for name in fit.params if name not in written_at_1(fit)]
    rows = [
        (
            v.name, str(v.rows), number(v.delta, ".3g"), number(v.objective, ".6g"),
            *(number(v.params.get(name), ".5g") for name in names),
        )
        for v in fit.variants
    ]  # fmt: skip
    text = "The same law under other objectives, with the runs that were dropped, and without runs that decide the fit:"
    shown = table(("choice", "runs", "delta", "objective", *names), rows, range(1, 4 + len(names)))
    refused = [f"{v.name}: {v.refused}" for v in fit.variants if v.refused]
    return paragraph(text) + shown + (notes(refused, "refusal") if refused else "")


def path(of: Frontier, is_measured: bool) -> str:
    """Describes the compute-optimal path in words, and at some budgets in numbers."""
    text = paragraph(path_sentence(of, is_measured))
    if of.open_reason:
        text += paragraph(f"Open: {of.open_reason}.", "warn")
    rows = []
    for i in range(0, len(of.budgets_B), max(1, len(of.budgets_B) // PATH_SHOWN)):
        cells = [flops(of.budgets_B[i]), f"{of.extrapolation_B[i]:.2g}×"]
        for band, is_count in ((of.n, True), (of.d, True), (of.loss, False)):
            cells.append(estimate(band.value_B[i], (band.low_B[i], band.high_B[i]), count=is_count))
        rows.append([*cells[:4], amount(of.d.value_B[i] / of.n.value_B[i], 2), cells[4]])
    heads = ("C", "over the largest C", "best N [95 %]", "best D [95 %]", "D / N", "loss [95 %]")
    return text + table(heads, rows, numbers=range(6))


def checklist(items: Sequence[Item]) -> str:
    """Shows the items by category, and marks the missing ones."""
    rows: list[tuple[str, str, str]] = []
    marks: list[str] = []
    for category in dict.fromkeys(item.category for item in items):
        rows.append((category, "", ""))
        marks.append("group")
        for item in (item for item in items if item.category == category):
            rows.append((item.question, "missing" if item.answer is None else item.answer, item.source))
            marks.append("missing" if item.answer is None else "")
    text = (
        f"{answered(items)} of {len(items)} answered. The categories are those of Li et al. 2025 (arXiv 2502.18969). "
        "A missing answer names what would supply it."
    )
    shown = table(("question", "answer", "from"), rows, marks=marks)
    return fold(f"Reporting checklist: {answered(items)} of {len(items)} answered", paragraph(text), shown)


def runs(of: RunTable, more: Sequence[str]) -> str:
    """Shows every run: the fitted ones, then the excluded ones with the rule. `more` columns follow the fitted ones."""
    names = of.columns
    named = {"run": names.run_id, "N": names.n, "D": names.d or names.flops, "loss": names.loss}
    named |= {"metric": names.metric}
    named |= {"baseline": names.baseline, "floor": names.floor_column, "tuned by": names.select_by}
    shown = {head: name for head, name in named.items() if name is not None}
    shown |= {name.replace("_", " "): name for name in more if name in of.frame.columns}
    used_frame = of.frame.sort(names.d or names.flops or names.response)
    used = [(*(short(run[name]) for name in shown.values()), "") for run in used_frame.iter_rows(named=True)]
    out = [
        (*(short(run[name]) for name in shown.values()), of.excluded[i].rule)
        for i, run in enumerate(of.left_out.iter_rows(named=True))
    ]
    without_row = len(of.excluded) - len(of.left_out)
    note = f" {without_row} more have no row; they are listed below." if without_row else ""
    numbers = [i for i, head in enumerate(shown) if head not in ("run", "status")]
    marks = [""] * len(used) + ["out"] * len(out)
    text = paragraph(f"The fitted runs come first.{note}", "soft")
    return fold(f"All {len(marks)} runs", text, table((*shown, "excluded because"), used + out, numbers, marks))


def exclusions(excluded: Sequence[Excluded], where: str = "") -> str:
    """Shows the excluded runs with the rule and the reason. `where` follows their number in the title."""
    if not excluded:
        return ""
    counts = ", ".join(f"{count} {rule}" for rule, count in by_rule(excluded).items())
    rows = [(row.row, row.rule, row.reason) for row in excluded]
    listed = table(("run", "rule", "reason"), rows)
    return fold(f"{len(rows)} excluded runs{where}", paragraph(f"{counts}."), listed)
