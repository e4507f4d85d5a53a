"""The page: the answer, figures, checks of the fits, compute, the checklist, every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import Refusal
from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.answer import answer, limits, meaning, noise_sentences
from scaling.report.checklist import Item
from scaling.report.document import document, figure
from scaling.report.figures.gallery import CAPTIONS, LEADS, OF_THEORY, SECTIONS
from scaling.report.html import element, fold, notes, paragraph
from scaling.report.numbers import amount
from scaling.report.sections import (
    checklist,
    evidence,
    exclusions,
    forms,
    heldout,
    isoflop_section,
    one_fit,
    path,
    refusals,
    runs,
    variants,
)
from scaling.table.rules import NO_ROW
from scaling.table.run_table import RunTable

if TYPE_CHECKING:
    from scaling.compute.frontier import Frontier
    from scaling.compute.isoflop import IsoFlop


@dataclass(frozen=True)
class Content:
    """Everything that a page shows."""

    title: str
    table: RunTable
    fits: Sequence[tuple[str, Fit | Refusal]]
    theory: Theory | None
    isoflop: IsoFlop | Refusal | None
    frontier: Frontier | None
    items: Sequence[Item]
    charts: dict[str, dict]
    """{figure's stem: Vega-Lite without a web address}."""
    run_columns: Sequence[str]
    """The columns that the table of runs shows after the fitted ones."""

    @property
    def fitted(self) -> list[tuple[str, Fit]]:
        """The fits that were not refused. The first one is drawn."""
        return [(name, fit) for name, fit in self.fits if isinstance(fit, Fit)]


def page(content: Content) -> str:
    """Returns one self-contained HTML document: the answer and the figure that carries it come first."""
    lead = next((name for name in LEADS if name in content.charts), None)
    others = {name: chart for name, chart in content.charts.items() if name != lead}
    body = [
        element("h1", content.title),
        *_answer(content),
        figure(lead, _caption(lead, content)) if lead else "",
        *_data(content),
        *_law(content),
        "<h2>More figures</h2>" if set(SECTIONS["fit"]) & set(others) else "",
        *(figure(name, _caption(name, content)) for name in SECTIONS["fit"] if name in others),
        *_trust(content),
        *_compute(content),
        "<h2>Everything else</h2>",
        refusals(content.fits) if content.fitted else "",
        exclusions(content.table.excluded),
        runs(content.table, content.run_columns),
        checklist(content.items),
    ]
    return document(content.title, body, content.charts)


def _caption(name: str, content: Content) -> str:
    is_of_theory = name == "excess_against_data" and content.theory is not None
    return CAPTIONS[name] + (OF_THEORY if is_of_theory else "")


def _answer(content: Content) -> Iterable[str]:
    if content.fitted:
        yield paragraph(answer(content.fitted[0][1], content.frontier), "answer")
    else:
        yield from (one_fit(name, fit) for name, fit in content.fits)
    if not len(content.table):
        yield paragraph("No run is left to draw.", "refusal")


def _data(content: Content) -> Iterable[str]:
    table, theory = content.table, content.theory
    names = table.columns
    measured = {"loss": names.loss, "metric": names.metric, "N": names.n, "D": names.d, "C": names.flops}
    columns = ", ".join(f"{what} is {name}" for what, name in measured.items() if name and name != what)
    counts = f"{len(table)} runs of {Path(table.source).name} are used and {len(table.excluded)} excluded"
    yield paragraph(f"{counts}{'; ' * bool(columns)}{columns}. In brackets: 95 % intervals.", "lead")
    if unfinished := sum(run.rule == NO_ROW for run in table.excluded):
        done = len(table) + len(table.left_out)
        yield paragraph(f"The sweep is not over: {done} of {done + unfinished} runs have a row.", "lead")
    if theory is not None:
        yield paragraph(f"Theory: exponent {theory.exponent:.4g}, floor {theory.floor:.6g}. {theory.note}")


def _law(content: Content) -> Iterable[str]:
    if content.fitted:
        yield "<h2>The law</h2>"
        yield notes(meaning(content.fitted[0][1]))
        yield from (one_fit(name, fit) for name, fit in content.fitted)


def _figures(charts: dict[str, dict], section: str) -> Iterable[str]:
    for name in SECTIONS[section]:
        if name in charts:
            yield figure(name, CAPTIONS[name])


def _trust(content: Content) -> Iterable[str]:
    yield "<h2>How far to trust it</h2>"
    drawn = content.fitted[0][1] if content.fitted else None
    if drawn is not None:
        yield evidence(drawn)
        for sentence in noise_sentences(drawn):
            yield paragraph(sentence)
    for name, fit in content.fitted:
        if fit.heldout:
            yield fold(f"Held-out runs of {name} ({len(fit.heldout)})", heldout(name, fit))
    if drawn is not None and drawn.forms is not None:
        yield forms(drawn.forms)
    yield from _figures(content.charts, "trust")
    if drawn is not None and drawn.variants:
        yield variants(drawn)
    yield from _figures(content.charts, "residuals")
    yield "<h3>What this report cannot show</h3>" + notes(_limits(content))


def _limits(content: Content) -> Iterable[str]:
    table, theory = content.table, content.theory
    for name, fit in content.fits:
        if isinstance(fit, Refusal):
            yield f"{name}: nothing, because the fit was refused."
    for name, fit in content.fitted:
        yield from limits(name, fit, theory)
    if table.d is not None and len(table):
        yield f"The loss beyond D = {amount(table.d.max())}: every prediction there is an extrapolation."
    if table.known_floor is None and theory is None:
        yield "The true floor: the data do not come with one."


def _compute(content: Content) -> Iterable[str]:
    if content.isoflop is None and content.frontier is None:
        return
    yield "<h2>The best use of compute</h2>"
    if content.frontier is not None:
        yield path(content.frontier, content.table.columns.flops is not None)
    if isinstance(content.isoflop, Refusal):
        yield paragraph(f"No IsoFLOP analysis: {content.isoflop}", "soft")
    elif content.isoflop is not None:
        yield isoflop_section(content.isoflop)
    yield from _figures(content.charts, "compute")
