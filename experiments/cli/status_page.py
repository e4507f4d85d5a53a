"""The page of a sweep that `sessionrec status --html` writes: progress, curves, failures, and the law so far.

The page holds everything it needs. It is written whole or not at all, so that a browser may load it at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import scaling
from doors.files import write_text
from experiments.cli import run_states
from experiments.cli.law_so_far import BOOTSTRAP, FitSoFar, LawSoFar
from experiments.sweep.sweep_folder import RunState
from experiments.watch.runs import WatchedRun, runs_of, values
from scaling.errors import InputError, Refusal
from scaling.report.answer import answer
from scaling.report.document import document, figure
from scaling.report.html import element, notes, paragraph, table
from scaling.report.numbers import interval

RELOAD_SECONDS = 10
CURVES = {
    "retrieval_nats_per_item": "Training: retrieval loss, nats an item",
    "rank_nats_per_term": "Training: rank loss, nats",
    "validation_objective": "Validation: objective, nats",
}
"""{column of metrics.jsonl: title of its figure}."""
MOST_CURVES, MOST_POINTS = 40, 200
EXPONENTS = ("alpha", "beta", "gamma")


class StatusPage:
    """Writes the page of one sweep, as often as `write` is called."""

    def __init__(self, out: Path, sweep: Path, plan: str):
        self._out, self._sweep, self._plan = out, sweep, plan
        self._law = LawSoFar(sweep)
        self._watched: list[WatchedRun] | None = None
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._written = float("-inf")

    @property
    def is_due(self) -> bool:
        """True if the page is older than a browser takes it to be."""
        return time.monotonic() - self._written >= RELOAD_SECONDS

    def write(self, runs: list[RunState], *, is_followed: bool = False) -> None:
        """Writes the page. `is_followed`: it will be written again, and a browser loads it again.

        Raises InputError or NotSaved if it cannot be written.
        """
        charts: dict[str, dict] = {}
        title = f"Sweep {self._sweep.resolve().name}"
        body = [
            element("h1", title),
            *_progress(self._plan, runs, is_followed=is_followed),
            *self._failures(runs),
            *self._law_section(charts),
            *self._curves(runs, charts),
            *_runs(runs),
        ]
        write_text(self._out, document(title, body, charts, reload_seconds=RELOAD_SECONDS if is_followed else None))
        self._written = time.monotonic()

    def _failures(self, runs: list[RunState]) -> Iterator[str]:
        if found := run_states.notes(runs):
            yield "<h2>Failures and their reasons</h2>"
            yield notes(found, "warn")

    def _law_section(self, charts: dict[str, dict]) -> Iterator[str]:
        yield "<h2>The law so far</h2>"
        try:
            fits = self._law.fits()
        except (InputError, Refusal) as reason:
            yield paragraph(f"No law yet: {reason}", "refusal")
            return
        now = fits[-1]
        if isinstance(now.fit, Refusal):
            yield paragraph(f"No law yet, from {now.runs} runs: {now.fit}", "refusal")
        else:
            yield paragraph(answer(now.fit), "answer")
            yield paragraph(
                f"In brackets: 95 % intervals of {BOOTSTRAP} bootstrap resamplings. The checks of `sessionrec fit` and "
                "`report` (profiles, held-out runs, other forms) come when the sweep is over.",
                "soft",
            )
            if now.fit.table.d is not None and now.fit.law.response == "loss":
                charts["loss_against_data"] = _law_chart(now.fit)
                yield figure("loss_against_data", "The runs that are done, and the law through them with its band.")
        rows = _intervals(fits)
        if len({row["runs"] for row in rows}) > 1:
            charts["narrowing"] = _narrowing_chart(rows)
            yield figure("narrowing", "Each exponent with its 95 % interval, fitted to the first runs that ended.")
        yield table(["runs", "law", "exponents"], [_so_far(each) for each in fits], numbers=[0])

    def _curves(self, runs: list[RunState], charts: dict[str, dict]) -> Iterator[str]:
        yield "<h2>Curves</h2>"
        try:
            drawn = self._drawn(runs)
        except InputError as error:
            yield paragraph(f"The curves cannot be read: {error}", "refusal")
            return
        for column, title in CURVES.items():
            rows = [
                {"run": run.name, "settings": run.label, "step": line["step"], "nats": line[column]}
                for run in drawn
                for line in _thinned([line for line in self._lines[run.name] if column in values(line)])
            ]
            if rows:
                charts[column] = _curve_chart(rows, title)
                yield figure(column, "Hover over a line to see its run and settings.")
        left_out = len([run for run in self._watched or () if self._lines.get(run.name)]) - len(drawn)
        if left_out:
            yield paragraph(f"{left_out} more runs are not drawn; `sessionrec watch` shows all.", "soft")
        if not drawn:
            yield paragraph("No run has trained yet.")

    def _drawn(self, runs: list[RunState]) -> list[WatchedRun]:
        """Reads new lines of all runs. Returns the runs to draw: those at work first, then the newest in the plan."""
        self._watched = runs_of(self._sweep) if self._watched is None else self._watched
        for run in self._watched:
            if (news := run.poll()) is not None:
                old = [] if news.rewritten else self._lines.get(run.name, [])
                self._lines[run.name] = [*old, *news.lines]
        at_work = {run.run_id for run in runs if not run.has_ended}
        with_lines = [run for run in reversed(self._watched) if self._lines.get(run.name)]
        return sorted(with_lines, key=lambda run: run.name not in at_work)[:MOST_CURVES]


def _progress(plan: str, runs: list[RunState], *, is_followed: bool) -> Iterator[str]:
    ended = sum(run.has_ended for run in runs)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    reloads = f" It is written again every {RELOAD_SECONDS} s, and loads itself again." if is_followed else ""
    yield paragraph(f"Plan {plan}, {len(runs)} runs. This page is of {now}.{reloads}", "lead")
    yield f'<p><progress value="{ended}" max="{len(runs)}" style="width: 100%"></progress></p>'
    yield paragraph(f"{ended} of {len(runs)} runs have ended: {run_states.counts(runs)}.{_time_left(runs)}", "answer")
    if found := run_states.references(runs):
        yield notes(found)


def _time_left(runs: list[RunState]) -> str:
    """Returns a sentence about the time left; empty if all runs have ended or none says how long it takes."""
    working = [run for run in runs if run.status == "running"]
    lasts = [run.row["wall_seconds"] for run in runs if run.row is not None and run.row.get("wall_seconds") is not None]
    waiting = sum(run.status in ("waiting", "stopped", "stale") for run in runs)
    seconds = max((run.seconds_left or 0.0 for run in working), default=0.0)
    if waiting and not (lasts and working):
        return f" {waiting} runs are not being trained, and their time is not known yet." if working else ""
    if waiting:
        seconds += sum(lasts) / len(lasts) * waiting / len(working)
    if not seconds:
        return ""
    guess = " if the waiting runs take as long as the finished ones did on average" if waiting else ""
    return f" About {timedelta(seconds=round(seconds))} left{guess}."


def _runs(runs: list[RunState]) -> Iterator[str]:
    found = run_states.columns(runs, runs)
    heads = [run_states.heading(name) for name in found]
    numbers = [place for place, name in enumerate(found) if name not in run_states.WITH_TEXT]
    yield "<h2>Every run</h2>"
    marks = ["missing" if run.status in ("failed", "diverged", "damaged") else "" for run in runs]
    yield table(heads, list(zip(*found.values(), strict=True)), numbers, marks)


def _exponents(fit: scaling.Fit) -> list[str]:
    return [name for name in EXPONENTS if name in fit.params and fit.params[name] is not None]


def _intervals(fits: Sequence[FitSoFar]) -> list[dict[str, Any]]:
    """Returns a row for each exponent of each fit that has an interval."""
    rows = []
    for runs, fit in fits:
        for name in () if isinstance(fit, Refusal) else _exponents(fit):
            low, high = fit.interval95.get(name) or (None, None)
            if low is not None and high is not None:
                rows.append({"runs": runs, "exponent": name, "value": fit.params[name], "low": low, "high": high})
    return rows


def _so_far(each: FitSoFar) -> list[str]:
    if isinstance(each.fit, Refusal):
        return [str(each.runs), "-", f"refused: {each.fit}"]
    fit = each.fit
    says = ", ".join(f"{name} {fit.params[name]:.4g} {interval(fit.interval95.get(name))}" for name in _exponents(fit))
    return [str(each.runs), fit.law.name, says or "-"]


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns at most MOST_POINTS of the lines, evenly spaced, with the newest one."""
    every = -(-len(lines) // MOST_POINTS) or 1
    return lines[::-1][::every][::-1]


def _law_chart(fit: scaling.Fit) -> dict[str, Any]:
    from scaling.report.figures.parts import Subject, as_dict, themed  # Altair takes seconds to import
    from scaling.report.figures.runs import loss_against_data

    return as_dict(themed(loss_against_data(Subject(fit.table, fit))))


def _narrowing_chart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import altair as alt

    from scaling.report.figures.parts import as_dict, data, single, themed

    x = alt.X("runs:Q", title="runs in the fit", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(zero=False))
    y = alt.Y("value:Q", title="exponent", scale=alt.Scale(zero=False))
    tooltip = ["runs:Q", "exponent:N", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("value", "low", "high"))]
    base = alt.Chart(data(rows)).encode(x=x, color=alt.Color("exponent:N", title=None), tooltip=tooltip)
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q", title="exponent"), y2="high:Q")
    return as_dict(themed(single(bars, base.mark_point(filled=True, size=60).encode(y=y), title="Intervals narrow")))


def _curve_chart(rows: list[dict[str, Any]], title: str) -> dict[str, Any]:
    import altair as alt

    from scaling.report.figures.parts import as_dict, data, single, themed

    x = alt.X("step:Q", title="training step", axis=alt.Axis(format="~s"))
    y = alt.Y("nats:Q", title="nats", scale=alt.Scale(zero=False))
    colour = alt.Color("run:N", legend=None, scale=alt.Scale(scheme="viridis"))
    base = alt.Chart(data(rows)).encode(
        x=x, y=y, color=colour, tooltip=["run:N", "settings:N", "step:Q", alt.Tooltip("nats:Q", format=".5g")]
    )
    return as_dict(themed(single(base.mark_line(strokeWidth=1.4, opacity=0.8), base.mark_point(size=12), title=title)))
