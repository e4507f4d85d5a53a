"""One page about a table of runs: figures, fits and what they cannot tell, every run and why some were left out.

The page is self-contained: it opens from disk with no network. Beside it lies `<page's stem>_figures/`: every figure as
SVG, PNG and PDF, `fits.tex` for a paper, `fit_LAW.json` of each fit and `checklist.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaling.errors import InputError, Refusal
from scaling.fitting.fit import Fit
from scaling.laws.theory import Theory
from scaling.report.checklist import checklist
from scaling.table.run_table import RunTable


def write(
    out: str | Path,
    table: RunTable,
    fits: Sequence[tuple[str, Fit | Refusal]],
    theory: Theory | None = None,
    title: str = "Scaling report",
) -> Path:
    """Writes the page and what lies beside it, the page last and each file whole.

    Args:
      out: the .html file; its folder must exist.
      table: the runs.
      fits: (law's name, its fit or why there is none); the first fit is drawn.
      theory: what is known of the truth, if anything is.

    Returns: the folder of the figures.

    Raises InputError for an `out` that is no .html file or whose folder is missing.
    """
    from scaling.report.compute import frontier_of, isoflop_of
    from scaling.report.exports import replace, write_figures, write_fits
    from scaling.report.figures.gallery import CAPTIONS, all_figures
    from scaling.report.page import page

    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"the report is {out}; wanted a name that ends in .html")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no folder {out.parent}")
    drawn = next((fit for _, fit in fits if isinstance(fit, Fit)), None)
    charts, isoflop, frontier = {}, isoflop_of(table, drawn), frontier_of(table, drawn)
    if len(table):
        minima = None if isinstance(isoflop, Refusal) else isoflop
        drawings = all_figures(table, drawn, theory, minima, frontier)
        charts = {name: chart.to_dict(validate=False) for name, chart in drawings.items()}
    for chart in charts.values():
        del chart["$schema"]  # an address, and the page has none
    items = checklist(table, drawn)
    folder = out.with_name(f"{out.stem}_figures")
    folder.mkdir(exist_ok=True)
    write_figures(charts, list(CAPTIONS), folder)
    write_fits(fits, items, folder)
    replace(out, page(title, table, fits, theory, isoflop, frontier, items, charts).encode())
    return folder
