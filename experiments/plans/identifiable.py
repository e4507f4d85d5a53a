"""Whether the runs of a plan can carry the law that they are to be fitted with; if not, the cheapest runs to add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.plans.sizes import labels
from experiments.sweep.cost import CostEstimate
from scaling.design.assumption import SIGMA_TYPICAL, TYPICAL_FLOOR_SHARE, Assumption, assume
from scaling.design.cure import Cure, cure
from scaling.design.identify import Verdict, identify
from scaling.errors import Refusal
from scaling.laws import registry
from scaling.laws.terms import Points
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import run_id

Row = dict[str, Any]


def judge(
    report: Row,
    configs: Sequence[Config],
    ahead: CostEstimate,
    wider: Callable[[], Sequence[Config]],
    *,
    floor_is_known: bool,
) -> Verdict:
    """What the plan's runs will tell of its law, reckoned with typical parameters and noise.

    Args:
      report: the plan's report.json, with a law.
      configs: its runs, resolved.
      wider: resolved runs that may be added, asked for only where the plan is refused.
      floor_is_known: the log has a truth, and so the law one parameter less.

    Raises Refusal, with the runs to add, where they cannot identify it.
    """
    law = registry.by_name(report["law"])
    points = _points(report, _cells(report, configs, ahead))
    scale = float(np.median(points.pop("flops") / (points["n"] * points["d"])))
    known_floor = TYPICAL_FLOOR_SHARE if floor_is_known and law.has_floor else None  # in the typical law's own unit
    fitted = assume(law, None, points, known_floor, scale)
    assumption = Assumption(fitted, SIGMA_TYPICAL, "typical parameters")
    verdict = identify(assumption, points)
    if not verdict.identifies:
        present = {run_id(config) for config in configs}
        more = [config for config in wider() if run_id(config) not in present]
        advice = _advice(report, configs, more, ahead, assumption, points)
        raise Refusal(f"this plan cannot identify {law.name}: {' '.join(verdict.reasons)} {advice}")
    return verdict


def _cells(report: Row, configs: Sequence[Config], ahead: CostEstimate) -> dict[tuple, tuple[Config, Row]]:
    """One run of each cell that is tuned: only its best is fitted."""
    found: dict[tuple, tuple[Config, Row]] = {}
    for config in configs:
        row = ahead.row(config)
        found.setdefault(tuple(row[name] for name in report["select_within"]), (config, row))
    return found


def _points(report: Row, cells: dict[tuple, tuple[Config, Row]]) -> Points:
    """N, D and FLOPs, and the unique part of D where it is another; N is 1 in a law of one axis."""
    columns = {"n": report.get("n"), "d": report["d"], "flops": "flops_train"}
    if report["d"] == "sessions_seen":
        columns["u"] = "sessions_unique"
    rows = [row for _, row in cells.values()]
    return {axis: np.array([float(row[name]) if name else 1.0 for row in rows]) for axis, name in columns.items()}


def _advice(
    report: Row,
    configs: Sequence[Config],
    more: Sequence[Config],
    ahead: CostEstimate,
    assumption: Assumption,
    points: Points,
) -> str:
    shortest = min(ahead.row(config)["steps"] for config in configs)
    cells = _cells(report, [config for config in more if ahead.row(config)["steps"] >= shortest], ahead)
    if not cells:
        return "There are no runs to add on this log."
    candidates = _points(report, cells)
    candidates.pop("flops")
    found = cure((assumption,), points, candidates=candidates)
    times = Counter(found.chosen)
    chosen = [list(cells.values())[place] for place in times]
    apart = labels([*(config for config, _ in chosen), *configs])
    runs = (
        _told(report, label, row) + (f" with {count} seeds" if count > 1 else "")
        for label, (_, row), count in zip(apart, chosen, times.values(), strict=False)
    )
    return f"{_head(found)} {'; '.join(runs)}. Give the plan's flags these values too."


def _head(found: Cure) -> str:
    if found.cures:
        return f"Cured by {len(found.runs)} runs more:"
    wide = ", ".join(f"{each.name} {each}" for each in found.expected if each.factor95 is None)
    return f"No runs on this log cure it; with the best of them one would have {wide} (95 %):"


def _told(report: Row, label: dict[str, str], row: Row) -> str:
    axes = [name for name in (report.get("n"), report["d"]) if name]
    named = " ".join(f"{name} {value}" for name, value in label.items())
    return f"{named} ({', '.join(f'{name} {row[name]:,}' for name in axes)}, {row['flops_train']:.3g} FLOPs)"
