"""A page about what compiled programs send and how long that takes: two figures over the number of devices, a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from doors.files import write_text
from experiments.pod import verdict
from experiments.pod.chips import Chip
from scaling.report.document import document, figure
from scaling.report.html import element, number, paragraph, table

Run = tuple[str, dict[str, Any]]
"""The name of the slice, and what child.py found."""
COMPUTE = "compute (XLA's estimate)"
PRODUCTS = "matrix products at peak"
_BYTES = (
    "Megabytes that a device sends in one step, by the kind of collective. Flat lines mean that the step scales "
    "weakly: each device has the same rows of the batch at every size."
)
_TIMES = (
    "Milliseconds of one step: each kind of collective at the rates of the links, one after the other, and the "
    "compute. XLA's estimate leaves out gathers, scatters and sorts. Nothing here was measured on a chip."
)
_HEADS = ("slice", "devices", "mesh (data x fsdp x model)", "rows", "peak GB", "temporaries GB", "MB sent",
          "MB outside the slice or machine", "link ms", "compute ms", "matrix units at most")  # fmt: skip


def write(out: Path, runs: list[Run], chip: Chip) -> None:
    """Writes the page. Runs that the compiler refused are in the table alone."""
    compiled = [run for run in runs if "collectives" in run[1]["programs"]["step"]]
    charts = {}
    if compiled:
        charts = {"bytes": _chart(bytes_by_kind(compiled), "MB sent by a device"),
                  "milliseconds": _chart(milliseconds_by_kind(compiled, chip), "milliseconds of a step")}  # fmt: skip
    title = f"A training step compiled for {chip.name}: {', '.join(name for name, _ in runs)}"
    captions = {"bytes": _BYTES, "milliseconds": _TIMES}
    body = [
        element("h1", title),
        paragraph("The programs were compiled on shapes alone, for devices that were not there.", "lead"),
        *(figure(name, captions[name]) for name in charts),
        table(_HEADS, [_row(name, found, chip) for name, found in runs], range(1, len(_HEADS))),
        paragraph(f"Memory of a device: {chip.hbm_bytes / 1e9:g} GB. {chip.source}", "soft"),
    ]
    write_text(out, document(title, body, charts))


def bytes_by_kind(runs: list[Run]) -> list[dict[str, Any]]:
    """Returns {devices, kind, value}: the megabytes that a device sends, for each kind of collective."""
    return [
        {"devices": found["devices"], "kind": kind, "value": sent / 1e6}
        for _, found in runs
        for kind, sent in _summed(found, "sent_bytes").items()
    ]


def milliseconds_by_kind(runs: list[Run], chip: Chip) -> list[dict[str, Any]]:
    """Returns {devices, kind, value}: milliseconds of a step, for each kind of collective and for compute."""
    rows = []
    for _, found in runs:
        seconds = dict(_summed(found, "seconds"))
        seconds[PRODUCTS] = verdict.matrix_seconds(found, chip)
        if compute := verdict.compute_seconds(found["programs"]["step"], chip):
            seconds[COMPUTE] = compute
        rows += [
            {"devices": found["devices"], "kind": kind, "value": value * 1e3}
            for kind, value in seconds.items()
            if value
        ]
    return rows


def _summed(found: dict[str, Any], name: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for each in found["programs"]["step"]["collectives"]:
        sums[each["kind"]] += each[name]
    return sums


def _chart(rows: list[dict[str, Any]], y_title: str) -> dict[str, Any]:
    import altair as alt
    import numpy as np

    from scaling.report.figures.parts import as_dict, data, log_x, log_y, single, themed

    devices = np.array([row["devices"] for row in rows], float)
    x = log_x("devices", "devices", devices, label="format(datum.value, ',d')")
    y = log_y(y_title, [row["value"] for row in rows], field="value", label="format(datum.value, ',~r')")
    kind = alt.Color("kind:N", title=None, scale=alt.Scale(scheme="tableau10"))
    base = alt.Chart(data(rows)).encode(x=x, y=y, color=kind, tooltip=["kind:N", "devices:Q", "value:Q"])
    return as_dict(
        themed(single(base.mark_line(strokeWidth=1.8), base.mark_point(size=60, filled=True), title=y_title))
    )


def _row(name: str, found: dict[str, Any], chip: Chip) -> list[str]:
    step, mesh = found["programs"]["step"], " x ".join(map(str, found["mesh"].values()))
    start = [name, f"{found['devices']:,}", mesh, f"{found['rows']:,}"]
    if "peak_bytes" not in step:
        needed = verdict.needed_bytes(step)
        return [*start, "too large" if needed is None else f"{needed / 1e9:.2f}, too large", *["-"] * 6]
    compute = verdict.compute_seconds(step, chip) or None
    return [
        *start,
        number(step["peak_bytes"] / 1e9, ".3f"),
        number(step["temporaries_bytes"] / 1e9, ".3f"),
        number(verdict.sent_bytes(step) / 1e6, ",.1f"),
        number(verdict.sent_bytes(step, "dcn_bytes") / 1e6, ",.1f"),
        number(verdict.link_seconds(step) * 1e3, ".2f"),
        number(compute and compute * 1e3, ".2f"),
        number(verdict.matrix_share(found, chip), ".1%"),
    ]
