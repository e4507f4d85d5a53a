"""The page: what was fitted, the answer, figures, how far to trust it, compute, the checklist, every run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import Refusal
from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.answer import answer, limits, noise_sentences
from scaling.report.checklist import Item
from scaling.report.figures.gallery import CAPTIONS, SECTIONS
from scaling.report.html import CSS, notes, paragraph, short
from scaling.report.sections import (
    checklist,
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


def page(
    title: str,
    table: RunTable,
    fits: Sequence[tuple[str, Fit | Refusal]],
    theory: Theory | None,
    isoflop: IsoFlop | Refusal | None,
    frontier: Frontier | None,
    items: Sequence[Item],
    charts: dict[str, dict],
) -> str:
    """One self-contained HTML document; `charts` is {figure's stem: Vega-Lite without an address}."""
    drawn = next(((name, fit) for name, fit in fits if isinstance(fit, Fit)), None)
    body = [
        f"<h1>{escape(title)}</h1>",
        *_what(table, fits, theory),
        *_answer(fits, drawn),
        "<h2>Figures</h2>" if charts else "",
        *_figures(charts, "fit"),
        *_trust(table, fits, theory, drawn, charts),
        *_compute(table, isoflop, frontier, charts),
        checklist(items),
        runs(table),
        exclusions(table),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + f"\n{_script(charts)}\n</body></html>\n"
    )


def _script(charts: dict[str, dict]) -> str:
    if not charts:
        return ""
    import vl_convert

    specs = json.dumps(charts, allow_nan=False).replace("</", "<\\/")
    options = (
        "{mode: 'vega-lite', actions: {export: true, source: false, compiled: false, editor: false}, renderer: 'svg'}"
    )
    return (
        f"<script>{vl_convert.javascript_bundle()}</script>\n<script>const specs = {specs};\n"
        f"for (const name in specs) vegaEmbed('#' + name, specs[name], {options});</script>"
    )


def _what(table: RunTable, fits: Sequence[tuple[str, Fit | Refusal]], theory: Theory | None) -> Iterable[str]:
    counts = f"{len(table)} runs used, {len(table.excluded)} left out, each with its reason below."
    yield paragraph(f"{counts} Source: {Path(table.source).name}.", "lead")
    if unfinished := sum(run.rule == NO_ROW for run in table.excluded):
        done = len(table) + len(table.left_out)
        yield paragraph(f"The sweep is not over: {done} of {done + unfinished} runs have a row.", "lead")
    columns = table.columns
    measured = {"loss": columns.loss, "metric": columns.metric, "N": columns.n, "D": columns.d, "C": columns.flops}
    yield paragraph(
        "A power law is fitted to the results of training runs, to tell how the result improves with more data and "
        "larger models. Columns: " + ", ".join(f"{what} is {name}" for what, name in measured.items() if name) + ". "
        "Laws asked for: " + (", ".join(name for name, _ in fits) or "none") + "."
    )
    if theory is not None:
        yield paragraph(f"Theory: exponent {theory.exponent:.4g}, floor {theory.floor:.6g}. {theory.note}")


def _answer(fits: Sequence[tuple[str, Fit | Refusal]], drawn: tuple[str, Fit] | None) -> Iterable[str]:
    if not fits:
        return
    yield "<h2>The answer</h2>"
    if drawn is not None:
        yield paragraph(answer(drawn[1]), "answer")
        yield paragraph("In brackets: 95 % intervals. The figures show this fit.", "soft")
    for name, fit in fits:
        yield one_fit(name, fit)


def _figures(charts: dict[str, dict], section: str) -> Iterable[str]:
    for name in SECTIONS[section]:
        if name in charts:
            caption = f"<figcaption>{escape(CAPTIONS[name])}</figcaption>"
            yield f'<figure><div class=chart id="{name}"></div>{caption}</figure>'


def _trust(
    table: RunTable,
    fits: Sequence[tuple[str, Fit | Refusal]],
    theory: Theory | None,
    drawn: tuple[str, Fit] | None,
    charts: dict[str, dict],
) -> Iterable[str]:
    if not len(table):
        yield paragraph("No run is left to draw.", "refusal")
    yield "<h2>How far to trust it</h2>"
    fitted = [(name, fit) for name, fit in fits if isinstance(fit, Fit)]
    if drawn is not None:
        for sentence in noise_sentences(drawn[1]):
            yield paragraph(sentence)
    for name, fit in fitted:
        if fit.heldout:
            yield heldout(name, fit)
    if drawn is not None and drawn[1].forms is not None:
        yield forms(drawn[1])
    yield from _figures(charts, "trust")
    if drawn is not None and drawn[1].variants:
        yield variants(drawn[1])
    yield from _figures(charts, "residuals")
    cannot = [f"{name}: nothing, since it was refused." for name, fit in fits if isinstance(fit, Refusal)]
    cannot += [note for name, fit in fitted for note in limits(name, fit, theory)]
    if len(table) and table.d is not None:
        cannot.append(f"The loss beyond D = {short(table.d.max())}: every prediction there is an extrapolation.")
    if table.known_floor is None and theory is None:
        cannot.append("The true floor: the data do not come with one.")
    yield "<h3>What this report cannot tell</h3>" + notes(cannot)


def _compute(
    table: RunTable, isoflop: IsoFlop | Refusal | None, frontier: Frontier | None, charts: dict[str, dict]
) -> Iterable[str]:
    if isoflop is None and frontier is None:
        return
    yield "<h2>The best use of compute</h2>"
    if frontier is not None:
        yield path(frontier, table.columns.flops is not None)
    if isinstance(isoflop, Refusal):
        yield paragraph(f"No IsoFLOP analysis: {isoflop}", "soft")
    elif isoflop is not None:
        yield isoflop_section(isoflop)
    yield from _figures(charts, "compute")
