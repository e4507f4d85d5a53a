"""Checks that the runs of a plan can identify its law; if they cannot, names the cheapest runs to add."""

from __future__ import annotations

import operator
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
from sessionrec_jax.config.values import replace
from sessionrec_jax.row_columns import FLOPS, SESSIONS, SESSIONS_SEEN

Row = dict[str, Any]
TUNED = ("optim.learning_rate_peak", "optim.learning_rate_rule", "data.rows", "data.rows_auto")


def judge(
    report: Row,
    configs: Sequence[Config],
    cost: CostEstimate,
    wider: Callable[[], Sequence[Config]],
    *,
    floor_is_known: bool,
) -> Verdict:
    """Returns the precision to expect of the plan's law, for typical parameters and noise.

    Args:
      report: the plan's report.json, with a law.
      configs: its runs, resolved.
      wider: returns resolved runs that may be added; called only if the plan is refused.
      floor_is_known: the log has a truth, and so the law one parameter less.

    Raises Refusal, with the runs to add, where the runs cannot identify the law.
    """
    law = registry.by_name(report["law"])
    planned = _cells(report, configs, cost)
    points = _points(report, planned)
    scale = float(np.median(points.pop("flops") / (points["n"] * points["d"])))
    known_floor = TYPICAL_FLOOR_SHARE if floor_is_known and law.has_floor else None  # in the typical law's own unit
    fitted = assume(law, None, points, known_floor=known_floor, flops_per_nd=scale)
    assumption = Assumption(fitted, SIGMA_TYPICAL, "typical parameters")
    verdict = identify(assumption, points)
    if not verdict.identifies:
        shortest = min(cost.row(config)["steps"] for config in configs)
        more = [config for config in wider() if cost.row(config)["steps"] >= shortest]
        # a run more in a cell of the plan adds nothing: only the best one is fitted
        cells = {cell: run for cell, run in _cells(report, more, cost).items() if cell not in planned}
        advice = (
            _advice(report, planned, cells, assumption=assumption, points=points)
            if cells
            else "This log has no runs to add."
        )
        raise Refusal(f"this plan cannot identify {law.name}: {' '.join(verdict.reasons)} {advice}")
    return verdict


Cells = dict[tuple, tuple[Config, Row]]


def _cells(report: Row, configs: Sequence[Config], cost: CostEstimate) -> Cells:
    """One run of each cell that is tuned, because only the best run of a cell is fitted."""
    found: Cells = {}
    for config in configs:
        row = cost.row(config)
        found.setdefault(tuple(row[name] for name in report["select_within"]), (config, row))
    return found


def _points(report: Row, cells: Cells) -> Points:
    """N, D and FLOPs, and the unique part of D where it differs; N is 1 in a law of one axis."""
    columns = {"n": report.get("n"), "d": report["d"], "flops": FLOPS}
    if report["d"] == SESSIONS_SEEN:
        columns["u"] = SESSIONS
    rows = [row for _, row in cells.values()]
    return {axis: np.array([float(row[name]) if name else 1.0 for row in rows]) for axis, name in columns.items()}


def _advice(report: Row, planned: Cells, cells: Cells, *, assumption: Assumption, points: Points) -> str:
    """A sentence with the cheapest runs among `cells` that cure the plan."""
    candidates = _points(report, cells)
    candidates.pop("flops")
    found = cure((assumption,), points, candidates=candidates)
    times = Counter(found.chosen)
    chosen = [list(cells.values())[place] for place in times]
    axes = [name for name in (report.get("n"), report["d"]) if name]
    runs = []
    settings_of = labels([_untuned(config) for config, _ in (*chosen, *planned.values())])
    for label, (_, row), count in zip(settings_of, chosen, times.values(), strict=False):
        settings = " ".join(f"{name} {value}" for name, value in label.items())
        counts = ", ".join(f"{name} {row[name]:,}" for name in axes)
        seeds = f" with {count} seeds" if count > 1 else ""
        runs.append(f"{settings} ({counts}, {row[FLOPS]:.3g} FLOPs){seeds}")
    return f"{_head(found)} {'; '.join(runs)}. Give the plan's flags these values too."


def _untuned(config: Config) -> Config:
    """The run without the settings that each run has from the plan's own rates, which the advice leaves as they are."""
    return replace(config, {name: operator.attrgetter(name)(Config()) for name in TUNED})


def _head(found: Cure) -> str:
    if found.cures:
        return f"Cured by {len(found.runs)} runs more:"
    wide = ", ".join(f"{each.name} {each}" for each in found.expected if each.factor95 is None)
    return f"No runs on this log cure it; with the best of them one would have {wide} (95 %):"
