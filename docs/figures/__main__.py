"""Draws every figure of the documents: `make figures` writes the .svg files next to the files that draw them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import vl_convert

from doors.files import write_text
from scaling.report.figures import parts

HERE = Path(__file__).parent
MARGIN = 24
"""Room in pixels for a reader's font, which may be wider than the one that the figure was drawn with."""
NAMES = tuple(sorted(file.stem for file in HERE.glob("[a-z]*.py")))


def drawn(name: str) -> str:
    """Returns the figure of docs/figures/NAME.py as SVG."""
    chart = importlib.import_module(f"docs.figures.{name}").chart()
    themed = parts.themed(chart).properties(padding=MARGIN)
    return vl_convert.vegalite_to_svg(parts.as_dict(themed)) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        write_text(HERE / f"{name}.svg", drawn(name))
