"""A page about several laws whose truth is known: for each, one figure and a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doors.files import make_folder, write_text
from scaling.errors import Refusal
from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.answer import answer, meaning
from scaling.report.document import document, figure
from scaling.report.html import element, notes, paragraph
from scaling.table.run_table import RunTable

_CAPTION = (
    "Loss over the exact floor; both axes are logarithmic, so a power law is a straight line. The band is the fit's "
    "95 % bootstrap band. The dashed line has theory's slope, and runs through the centre of the data."
)
_REFERENCE = " The blue line is the best that any learner can do with the same data, computed exactly."


@dataclass(frozen=True)
class Part:
    """One law of the page."""

    name: str
    """The stem of its figure's files."""
    title: str
    table: RunTable
    fit: Fit | Refusal
    theory: Theory
    lines: Sequence[str]
    """The fit and the truth, in sentences."""
    page: str
    """The file name of its own report, which is next to this page."""


def write(out: Path, title: str, parts: Sequence[Part]) -> None:
    """Writes the page, and its figures to the folder `<page's stem>_figures/` as SVG, PNG and PDF."""
    from scaling.report.exports import write_figures

    charts = {part.name: chart for part in parts if (chart := _chart(part)) is not None}
    folder = out.with_name(f"{out.stem}_figures")
    make_folder(folder)
    write_figures(charts, [part.name for part in parts], folder)
    body = [element("h1", title), *(_section(part, part.name in charts) for part in parts)]
    write_text(out, document(title, body, charts))


def _section(part: Part, has_chart: bool) -> str:
    says = f"Refused: {part.fit}" if isinstance(part.fit, Refusal) else answer(part.fit)
    caption = _CAPTION + (_REFERENCE if part.theory.curve else "")
    link = f'<p><a href="{part.page}">All runs, checks of the fit, and more figures</a></p>'
    return "\n".join(
        [
            element("h2", part.title),
            figure(part.name, caption) if has_chart else "",
            notes(part.lines),
            paragraph(says, "refusal" if isinstance(part.fit, Refusal) else "answer"),
            notes([] if isinstance(part.fit, Refusal) else meaning(part.fit)),
            link,
        ]
    )


def _chart(part: Part) -> dict | None:
    """Returns the figure of excess over the floor; None where no run is above the floor."""
    from scaling.report.figures.parts import Subject, as_dict, themed
    from scaling.report.figures.runs import excess_against_data

    if not len(part.table) or not (part.table.need("loss") > part.theory.floor).any():
        return None
    subject = Subject(part.table, None if isinstance(part.fit, Refusal) else part.fit)
    return as_dict(themed(excess_against_data(subject, part.theory, part.theory.floor).properties(title=part.title)))
