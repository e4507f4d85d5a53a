"""Predictions and judged forecasts at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from scaling.forecasts.frozen import Forecast
from scaling.forecasts.judged import HIT, MISS, Judged, calibration

FAR = 10.0
"""Past this many times the largest fitted run a prediction is marked as a guess."""
_COLOURS = {HIT: "green", MISS: "red"}


def show_predictions(forecasts: Sequence[Forecast], console: Console) -> None:
    """Prints one row for each prediction, and what its bands leave out."""
    response = forecasts[0].columns.get("loss") or forecasts[0].columns.get("metric") or "response"
    table = narrow_table("at", markup(str(response)), r"\[95 %] of the law", r"\[95 %] of a run", "over fitted")
    for one in forecasts:
        reach = "-" if one.reach is None else f"{one.reach:.3g}x"
        table.add_row(one.place, f"{one.value:.6g}", _band((one.low, one.high)), _band(one.band()), reach)
    Terminal(highlight=False).print(table)
    if forecasts[0].verdict != "follows":
        says = f"the fit says of {forecasts[0].law}: {forecasts[0].verdict}. The bands hold only if the law does."
        console.print("[yellow]warning:[/]", markup(says), highlight=False)
    if any(one.reach is not None and one.reach > FAR for one in forecasts):
        says = f"past {FAR:g} times the largest fitted run the bands hold only if the law holds that far."
        console.print("[yellow]warning:[/]", says, highlight=False)


def show_judged(judged: Sequence[Judged], console: Console) -> None:
    """Prints one row for each forecast, and the calibration so far."""
    table = narrow_table("frozen", "at", "predicted", r"\[95 %]", "measured", "runs", "error", "")
    for one in judged:
        colour = _COLOURS.get(one.outcome)
        table.add_row(
            one.forecast.date[:10],
            one.forecast.place,
            f"{one.forecast.value:.6g}",
            _band(one.band),
            "-" if one.measured is None else f"{one.measured:.6g}",
            str(len(one.runs)),
            "-" if one.relative_error is None else f"{one.relative_error:+.2%}",
            one.outcome if colour is None else f"[{colour}]{one.outcome}[/]",
        )
    Terminal(highlight=False).print(table)
    console.print(f"[bold]{calibration(judged)}[/]", highlight=False)


def _band(ends: tuple[float, float]) -> str:
    return markup(f"[{ends[0]:.6g}, {ends[1]:.6g}]")
