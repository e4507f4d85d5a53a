"""Metrics by segment: a table for each kind of segment, and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from doors.files import write_text

COLUMNS = {
    "loss_nats_per_item": "nats an item",
    "ndcg_at_50": "NDCG@50",
    "recall_at_50": "Recall@50",
    "rank_auc": "rank AUC",
    "retrieval_auc": "retrieval AUC",
}
FIGURE_OF = "ndcg_at_50"

Found = dict[str, dict[str, dict[str, Any]]]


def tables(by: Found) -> Iterator[Table]:
    """Yields a table for each kind: a row for each segment, with standard errors over users; a dash is missing."""
    for kind, segments in by.items():
        shown = [name for name in COLUMNS if any(found.get(name) is not None for found in segments.values())]
        table = Table(title=f"by {kind}", title_justify="left")
        table.add_column("")
        for title in ("clicks", "sessions", *(COLUMNS[name] for name in shown)):
            table.add_column(title, justify="right")
        for segment, found in segments.items():
            counts = (f"{found[name]:,}" for name in ("scored_clicks", "ranked_sessions"))
            table.add_row(segment, *counts, *(_with_error(found, name) for name in shown))
        yield table


def _with_error(found: dict[str, Any], name: str) -> str:
    mean, error = found.get(name), found.get(f"{name}_stderr")
    if mean is None:
        return "-"
    return f"{mean:.4f}" if error is None else f"{mean:.4f} ± {error:.4f}"


def write_figure(by: Found, path: Path) -> None:
    """Writes one panel for each kind as SVG: NDCG@50 of each segment with its 95 % interval over users."""
    import altair as alt  # needs a second, which --help does not wait for
    import vl_convert

    panels = []
    for kind, segments in by.items():
        rows = [
            {"segment": segment, "mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}
            for segment, found in segments.items()
            if (mean := found.get(FIGURE_OF)) is not None and (error := found.get(f"{FIGURE_OF}_stderr")) is not None
        ]
        base = alt.Chart(alt.InlineData(values=rows)).encode(
            y=alt.Y("segment:N", sort=[row["segment"] for row in rows], title=None)
        )
        points = base.mark_point(filled=True).encode(x=alt.X("mean:Q", title=COLUMNS[FIGURE_OF]))
        bars = base.mark_rule().encode(x=alt.X("low:Q", title=COLUMNS[FIGURE_OF]), x2="high:Q")
        panels.append((points + bars).properties(title=kind, width=320))
    write_text(path, vl_convert.vegalite_to_svg(alt.vconcat(*panels).to_dict()))
