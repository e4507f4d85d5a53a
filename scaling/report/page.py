"""The page: the answer, figures, checks of the fits, compute, the checklist, every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import Refusal
from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.answer import answer, limits, noise_sentences
from scaling.report.checklist import Item
from scaling.report.document import document, figure
from scaling.report.figures.gallery import CAPTIONS, SECTIONS
from scaling.report.html import element, notes, paragraph, short
from scaling.report.sections import (
    checklist,
    evidence,
    exclusions,
    forms,
    heldout,
    isoflop_section,
    one_fit,
    path,
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
    """Returns one self-contained HTML document."""
    body = [
        element("h1", content.title),
        *_data(content),
        *_answer(content),
        "<h2>Figures</h2>" if content.charts else "",
        *_figures(content.charts, "fit"),
        *_trust(content),
        *_compute(content),
        checklist(content.items),
        runs(content.table, content.run_columns),
        exclusions(content.table),
    ]
    return document(content.title, body, content.charts)


def _data(content: Content) -> Iterable[str]:
    table, theory = content.table, content.theory
    counts = f"{len(table)} runs are used. {len(table.excluded)} are excluded, each with its reason below."
    yield paragraph(f"{counts} Source: {Path(table.source).name}.", "lead")
    if unfinished := sum(run.rule == NO_ROW for run in table.excluded):
        done = len(table) + len(table.left_out)
        yield paragraph(f"The sweep is not over: {done} of {done + unfinished} runs have a row.", "lead")
    names = table.columns
    measured = {"loss": names.loss, "metric": names.metric, "N": names.n, "D": names.d, "C": names.flops}
    yield paragraph(
        "A power law is fitted to the results of training runs. It says how the result improves with more data and "
        "larger models. Columns: " + ", ".join(f"{what} is {name}" for what, name in measured.items() if name) + ". "
        "Laws asked for: " + (", ".join(name for name, _ in content.fits) or "none") + "."
    )
    if theory is not None:
        yield paragraph(f"Theory: exponent {theory.exponent:.4g}, floor {theory.floor:.6g}. {theory.note}")


def _answer(content: Content) -> Iterable[str]:
    if not content.fits:
        return
    yield "<h2>The answer</h2>"
    if content.fitted:
        yield paragraph(answer(content.fitted[0][1]), "answer")
        yield paragraph("In brackets: 95 % intervals. The figures show this fit.", "soft")
    for name, fit in content.fits:
        yield one_fit(name, fit)


def _figures(charts: dict[str, dict], section: str) -> Iterable[str]:
    for name in SECTIONS[section]:
        if name in charts:
            yield figure(name, CAPTIONS[name])


def _trust(content: Content) -> Iterable[str]:
    if not len(content.table):
        yield paragraph("No run is left to draw.", "refusal")
    yield "<h2>How far to trust it</h2>"
    drawn = content.fitted[0][1] if content.fitted else None
    if drawn is not None:
        yield evidence(drawn)
        for sentence in noise_sentences(drawn):
            yield paragraph(sentence)
    for name, fit in content.fitted:
        if fit.heldout:
            yield heldout(name, fit)
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
        yield f"The loss beyond D = {short(table.d.max())}: every prediction there is an extrapolation."
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
