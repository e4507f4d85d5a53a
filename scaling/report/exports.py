"""The files in the folder of figures: each figure as SVG, PNG and PDF, the fits as LaTeX and JSON, the checklist."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from doors.files import write_bytes, write_text
from scaling.errors import Refusal
from scaling.fitting.result import Fit
from scaling.laws.registry import LAWS
from scaling.report import latex
from scaling.report.checklist import Item, answered

PNG_PIXELS_PER_INCH = 144
SUFFIXES = (".svg", ".png", ".pdf")


def write_figures(charts: dict[str, dict], known: Sequence[str], folder: Path) -> None:
    """Writes each chart {stem: Vega-Lite} in three formats, and deletes files of `known` stems without a chart."""
    import vl_convert

    for name in known:
        files = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        if name not in charts:
            for file in files:
                file.unlink(missing_ok=True)  # left by an earlier report of this name
            continue
        svg = vl_convert.vegalite_to_svg(charts[name])
        images = (svg.encode(), vl_convert.svg_to_png(svg, ppi=PNG_PIXELS_PER_INCH), vl_convert.svg_to_pdf(svg))
        for file, image in zip(files, images, strict=True):
            write_bytes(file, image)


def write_fits(fits: Sequence[tuple[str, Fit | Refusal]], items: Sequence[Item], folder: Path) -> None:
    """Writes fits.tex, fit_LAW.json of each fit (`scaling.load` reads it), and checklist.json (null: no answer)."""
    write_text(folder / "fits.tex", latex.table(fits))
    done = {name: fit for name, fit in fits if isinstance(fit, Fit)}
    for name in LAWS:
        if name in done:
            done[name].to_json(folder / f"fit_{name}.json")
        else:
            (folder / f"fit_{name}.json").unlink(missing_ok=True)
    listed = [dataclasses.asdict(item) for item in items]
    values = {"answered": answered(items), "of": len(items), "items": listed}
    write_text(folder / "checklist.json", json.dumps(values, indent=1) + "\n")
