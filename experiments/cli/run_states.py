"""The runs of a sweep in words, for the terminal and for the page: counts, columns, and why runs went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from experiments.sweep.halving import saved_flops
from experiments.sweep.sweep_folder import RunState
from experiments.sweep.varying import varying
from sessionrec_jax.config.values import short
from sessionrec_jax.row_columns import FLOPS, FLOPS_SPENT, LOSS, RANK_LOSS, baseline_of, floor_of

_STATUSES = ("running", "stale", "stopped", "waiting", "done", "dropped", "stuck", "diverged", "failed", "damaged")
WITH_TEXT = ("run", "status")
"""Columns that hold text; the others hold numbers."""


def statuses(runs: list[RunState]) -> list[str]:
    return [run.status for run in runs]


def counts(runs: list[RunState]) -> str:
    """Returns how many runs have each status, such as `1 running, 2 done`."""
    found = Counter(statuses(runs))
    return ", ".join(f"{found[status]} {status}" for status in sorted(found, key=_STATUSES.index))


def columns(runs: list[RunState], shown: list[RunState]) -> dict[str, list[str]]:
    """Returns {heading: cells} of the runs `shown`, with the settings that vary over all `runs`.

    Columns without a number are left out.
    """
    labels = dict(zip((run.run_id for run in runs), varying([run.config for run in runs]), strict=True))
    found = {"run": [run.run_id for run in shown]}
    for name in labels[runs[0].run_id] if runs else ():
        found[name] = [short(labels[run.run_id][name]) for run in shown]
    found["step"] = [_step(run) for run in shown]
    found["left"] = [_left(run) for run in shown]
    for head, name in zip(("nats an item", "rank nats"), (LOSS, RANK_LOSS), strict=True):
        found[head] = [_number((run.row or {}).get(name)) for run in shown]
    found["status"] = [_status(run) for run in shown]
    return {name: cells for name, cells in found.items() if set(cells) != {"-"}}


def heading(name: str) -> str:
    """Returns the last part of a dotted name, in words."""
    return name.rpartition(".")[2].replace("_", " ")


def references(runs: list[RunState]) -> list[str]:
    """Returns sentences about the losses of popularity and the known floors, and about FLOPs that were not spent."""
    rows = [run.row for run in runs if run.row is not None]
    found = [
        f"{what}: {text}"
        for what, column_of in (("popularity", baseline_of), ("known floors", floor_of))
        if (text := _range(rows, column_of))
    ]
    return [*found, *([saved] if (saved := _saved(rows)) else [])]


def _step(run: RunState) -> str:
    """Returns the steps done, and those planned if the run is not done."""
    if run.row is not None or run.steps is None:
        return "-" if run.step is None else f"{run.step:,}"
    return f"{run.step + 1:,} of {run.steps:,}"


def _left(run: RunState) -> str:
    return "-" if run.seconds_left is None else str(timedelta(seconds=round(run.seconds_left)))


def _status(run: RunState) -> str:
    where = {"running": f" on {run.past.worker}", "stale": f": {run.past.worker} died or is silent"}
    return run.status + where.get(run.status, "")


def notes(runs: list[RunState]) -> list[str]:
    """Returns why runs have no loss, and how often runs without a row were killed or failed."""
    found = []
    for run in runs:
        if run.fault:
            reason = run.fault
        elif run.row is not None:
            reason = run.row.get("reason")
        else:
            before = [f"killed {_times(run.past.deaths)}"] if run.past.deaths else []
            failures = run.past.failures
            before += [f"failed {_times(len(failures))}, last by {failures[0]}"] if failures else []
            reason = "; ".join(before)
        if reason:
            found.append(f"{run.run_id} {run.status}: {reason}")
        found += run.past.faults
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _number(value: float | None) -> str:
    """Returns four decimals, or a dash for a missing number."""
    return "-" if value is None else f"{value:.4f}"


def _saved(rows: list[dict[str, Any]]) -> str:
    """Returns a sentence about the FLOPs that runs did not spend, because another run had taken their first steps or
    because they were dropped."""
    done = [row for row in rows if FLOPS_SPENT in row and FLOPS in row]  # an older release has no such column
    spent, trained = (sum(row[name] for row in done) for name in (FLOPS_SPENT, FLOPS))
    shared = [f"{trained - spent:.3g} saved by shared steps"] if spent < trained else []
    if dropped := saved_flops(rows):
        spent += sum(row[FLOPS_SPENT] for row in rows if row["status"] == "dropped")
        shared.append(f"{dropped:.3g} saved by halving")
    return ", ".join([f"FLOPs: {spent:.3g} spent", *shared]) if shared else ""


def _range(rows: list[dict[str, Any]], column_of: Callable[[str], str]) -> str:
    """Returns the value of a reference loss, or the range of its values, for each of the two losses."""
    ranges = []
    for name, sentence in zip((LOSS, RANK_LOSS), ("{} nats an item", "rank {} nats an exposure"), strict=True):
        column = column_of(name)
        ends = sorted(value for row in rows if (value := row.get(column)) is not None)
        if ends:
            ranges.append(sentence.format(" to ".join(dict.fromkeys((_number(ends[0]), _number(ends[-1]))))))
    return ", ".join(ranges)
