"""The page of several arms: the answer, the figure with the crossing, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from doors.files import write_text
from experiments.cli.fit_arms import Arms
from scaling.arms.compare import ArmsFit
from scaling.arms.multiplier import BEYOND, Versus
from scaling.arms.sentences import percent, sentences, times
from scaling.report.document import document, figure
from scaling.report.html import element, fold, notes, paragraph, table
from scaling.report.sections import exclusions

CAPTION = (
    "Each line is the law of an arm, with its 95 % band, to {beyond:g} times the largest {cost} that all arms have "
    "runs at."
)
CROSSING = " The dashed line is where two laws cross."


def write_page(out: Path, found: ArmsFit, others: Sequence[Versus], arms: Arms) -> None:
    """Writes one self-contained page."""
    # Altair takes seconds to import, and only a page needs it
    from scaling.report.figures.arms import loss_against_cost
    from scaling.report.figures.parts import as_dict, themed

    title = f"{found.arms[0].name} against {', '.join(one.arm for one in others)}"
    cost = "compute" if found.cost == "C" else "amount of data"
    caption = CAPTION.format(beyond=BEYOND, cost=cost)
    if any(one.crossing.cost.value is not None for one in others):
        caption += CROSSING
    body = [
        element("h1", title),
        *(paragraph(sentence, "answer") for sentence in sentences(found, others)),
        figure("arms", caption),
        fold("The parameters of each arm", _parameters(found)),
        *(fold(f"{one.arm} against {found.arms[0].name}", _along(found, one)) for one in others),
        *(exclusions(excluded, f" {where}") for where, excluded in arms.left_out.items()),
        notes(found.warnings),
    ]
    charts = {"arms": as_dict(themed(loss_against_cost(found, others, arms.tables), legend_inside=True))}
    write_text(out, document(title, body, charts))


def _parameters(found: ArmsFit) -> str:
    heads = ["", *(arm.name for arm in found.arms)]
    rows = [[name, *(str(arm.params[name]) for arm in found.arms)] for name in found.arms[0].params]
    return table(heads, rows)


def _along(found: ArmsFit, one: Versus) -> str:
    heads = [
        found.cost,
        f"{one.arm} needs",
        f"its {found.response}, of {found.arms[0].name}'s",
        "better with probability",
    ]
    rows = [
        [
            f"{at.cost:.3g}",
            times(at.multiplier),
            percent(at.difference),
            "-" if at.better is None else f"{at.better:.3f}",
        ]
        for at in (*one.along, one.beyond)
    ]
    return table(heads, rows)
