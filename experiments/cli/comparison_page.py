"""The page of a comparison: for each table the clearest difference in words, a forest plot, and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doors.files import write_text
from experiments.sweep.comparison import ArmResult
from scaling.report.document import document, figure
from scaling.report.html import element, fold, paragraph, table
from scaling.report.numbers import estimate

CAPTION = "Differences to the reference with 95 % intervals over users and seeds. A hollow mark may be chance."


def write_page(
    out: Path,
    title: str,
    groups: Sequence[tuple[str, list[ArmResult]]],
    *,
    tables: Sequence[tuple[list[str], list[list[str]]]],
    label: Callable[[str], str],
    legend: str,
) -> None:
    """Writes one self-contained page.

    Args:
      groups: (title, arms) of each table; its reference is the arm without differences.
      tables: (heads, rows) of each table, as the terminal shows them.
      label: maps a metric's column to its name.
      legend: says what the marks of the tables mean.
    """
    charts: dict[str, dict] = {}
    body = [element("h1", title)]
    for place, ((name, arms), (heads, rows)) in enumerate(zip(groups, tables, strict=True)):
        body += [element("h2", name), paragraph(_sentence(arms, label), "answer")]
        chart = _forest(arms, label)
        if chart is not None:
            charts[f"forest_{place}"] = chart
            body.append(figure(f"forest_{place}", CAPTION))
        body.append(fold("All numbers", table(heads, rows), paragraph(legend, "soft")))
    write_text(out, document(title, body, charts))


def _sentence(arms: list[ArmResult], label: Callable[[str], str]) -> str:
    """Says how each arm differs from the reference in the first metric."""
    metric = next(iter(arms[0].values))
    reference = next((arm.arm for arm in arms if arm.is_reference), "the reference")
    says = []
    for arm in arms:
        found = arm.differences.get(metric)
        if found is not None:
            chance = "" if found.p < 0.05 else ", which may be chance"
            says.append(f"{arm.arm} differs by {estimate(found.value, (found.low, found.high))}{chance}")
    if not says:
        return f"No arm can be compared with {reference} in {label(metric)} yet."
    return f"{label(metric)} against {reference}: {'; '.join(says)}."


def _forest(arms: list[ArmResult], label: Callable[[str], str]) -> dict[str, Any] | None:
    """Returns the figure, or None where no arm has a difference."""
    from scaling.report.figures.forest import Difference, forest
    from scaling.report.figures.parts import as_dict, themed

    panels = {}
    for metric in arms[0].values:
        found = [(arm.arm, arm.differences.get(metric)) for arm in arms]
        rows = [Difference(name, one.value, one.low, one.high, one.p < 0.05) for name, one in found if one is not None]
        if rows:
            panels[label(metric)] = rows
    return as_dict(themed(forest(panels, "Differences to the reference"))) if panels else None
