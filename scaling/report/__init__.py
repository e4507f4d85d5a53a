"""A report of a table of runs: figures, fits and their limits, every run, and why some were excluded.

In: a RunTable, its fits or their refusals, and the names of the columns to show.
Out: one page that opens from disk with no network, and the folder `<page's stem>_figures/` with every figure as SVG,
PNG and PDF, `fits.tex` for a paper, `fit_LAW.json` of each fit and `checklist.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from doors.files import check_outputs, make_folder, write_text
from scaling.errors import InputError, Refusal
from scaling.fitting.lead import lead_first
from scaling.fitting.result import Fit
from scaling.laws.theory import Theory
from scaling.report.checklist import checklist
from scaling.report.columns import ReportColumns
from scaling.table.run_table import RunTable


def write(
    out: str | Path,
    table: RunTable,
    fits: Sequence[tuple[str, Fit | Refusal]],
    theory: Theory | None = None,
    *,
    title: str = "Scaling report",
    columns: ReportColumns | None = None,
) -> Path:
    """Writes the folder of figures and then the page, each file whole or not at all.

    Args:
      out: the .html file; its folder must exist.
      table: the runs.
      fits: (law's name, its fit or the reason for the refusal). The law with the lowest error on the held-out runs is
        the answer and is drawn, else the first fit.
      theory: what is known about the truth, if anything.
      columns: the names of the columns that are shown besides the fitted ones.

    Returns: the folder of the figures.

    Raises InputError if `out` is not an .html file or cannot be written.
    """
    # Altair takes seconds to import, and only a report needs it
    from scaling.report.compute import frontier_of, isoflop_of
    from scaling.report.exports import write_figures, write_fits
    from scaling.report.figures.gallery import CAPTIONS, all_figures
    from scaling.report.figures.parts import Subject, as_dict
    from scaling.report.page import Content, page

    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"the report is {out}; wanted a name that ends in .html")
    check_outputs(out)
    columns = ReportColumns() if columns is None else columns
    fits = lead_first(fits)
    drawn = next((fit for _, fit in fits if isinstance(fit, Fit)), None)
    isoflop, frontier = isoflop_of(table, drawn), frontier_of(table, drawn)
    charts = {}
    if len(table):
        minima = None if isinstance(isoflop, Refusal) else isoflop
        charts = all_figures(Subject(table, drawn, columns.tooltip), theory=theory, isoflop=minima, frontier=frontier)
    content = Content(
        title=title,
        table=table,
        fits=fits,
        theory=theory,
        isoflop=isoflop,
        frontier=frontier,
        items=checklist(table, drawn, columns),
        charts={name: as_dict(chart) for name, chart in charts.items()},
        run_columns=columns.runs,
    )
    folder = out.with_name(f"{out.stem}_figures")
    make_folder(folder)
    write_figures(content.charts, list(CAPTIONS), folder)
    write_fits(fits, content.items, folder)
    write_text(out, page(content))
    return folder
