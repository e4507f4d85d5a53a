"""Prints a fit at the terminal."""

from __future__ import annotations

from rich.table import Table

import scaling
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from scaling.fitting.misfit import REPEATS

HELDOUT_SHOWN = 8


def show_fit(fit: scaling.Fit, console: Terminal) -> None:
    """Prints the parameters, the checks, the held-out errors and the warnings of a fit."""

    def line(text: str) -> None:
        console.print(text, highlight=False)

    for note in fit.table.notes:
        line(markup(note))
    style = "[bold red]" if fit.misfit.verdict == "misfits" else "[bold]"
    for sentence in fit.misfit.sentences:
        line(f"{style}{markup(sentence)}[/]")
    delta = f", delta {fit.objective.delta:.4g}" if fit.objective.name == "huber" else ""
    line(f"[bold]{fit.law.formula}[/]   {fit.law.name}; {fit.objective.name}{delta}")
    line(f"{len(fit.table)} runs fitted, objective {fit.objective_value:.8g}, {_minima(fit)}")
    for rule, count in fit.table.excluded_by_rule().items():
        line(f"{count} left out: {rule}")
    console.print(_parameters(fit))
    if fit.free_floor is not None:
        verdict = {True: "agrees", False: "[red]disagrees[/]", None: "is too uncertain"}[fit.free_floor.agrees]
        line(f"A freely fitted floor, 95 %: {_interval(fit.free_floor.interval95)}: {verdict}")
    if fit.seed_noise is not None:
        line(_noise(fit))
    if fit.variants:
        console.print(_variants(fit))
    if fit.forms is not None and fit.forms.rows:
        console.print(_forms(fit.forms, fit.law.name))
    if fit.heldout:
        console.print(_heldout(fit))
    for warning in fit.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)


def _minima(fit: scaling.Fit) -> str:
    others = len(fit.minima) - 1
    return f"{others} competing minima, the next {fit.minima[1].gap:.2g} above" if others else "no competing minimum"


def _parameters(fit: scaling.Fit) -> Table:
    table = narrow_table("", "value  [95 %]", "std. error", "at the centre  [95 %]")
    errors = fit.standard_error()
    for name in fit.params:
        size = fit.sizes_at_centre.get(name)
        interval = fit.sizes_at_centre95.get(name)
        at_centre = "" if size is None else f"{size:.5g}" + (f"  {_interval(interval)}" if interval else "")
        known = name not in fit.free or name in fit.bounds or name not in errors
        table.add_row(name, markup(fit.describe(name)), "" if known else f"{errors[name]:.4g}", at_centre)
    at = ", ".join(f"{axis.upper()} {value:.4g}" for axis, value in fit.centre.items())
    table.caption = f"centre: {at}"
    return table


def _interval(interval: tuple[float | None, float | None] | None) -> str:
    low, high = interval or (None, None)
    return r"\[" + ", ".join("-" if end is None else f"{end:.5g}" for end in (low, high)) + "]"


def _noise(fit: scaling.Fit) -> str:
    noise, repeats = fit.seed_noise, fit.misfit.of(REPEATS)
    style = "[red]" if repeats.misfits else "[default]"
    says = f"{style}{markup(repeats.says)}[/]"
    return f"Noise between repeats {noise.sigma:.2g} in log loss ({noise.groups} repeated points); {says}"


def _variants(fit: scaling.Fit) -> Table:
    table = narrow_table("by choice", *(variant.name for variant in fit.variants))
    table.add_row("runs", *(str(variant.rows) for variant in fit.variants))
    for name in fit.params:
        table.add_row(name, *(_number(variant.params.get(name)) for variant in fit.variants))
    table.add_row("objective", *(_number(variant.objective) for variant in fit.variants))
    table.caption = "\n".join(markup(f"- {v.name}: {v.refused}") for v in fit.variants if v.refused) or None
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.7g}"


def _forms(forms: scaling.Forms, fitted: str) -> Table:
    held = sorted({(row.fraction_held, row.extrapolation_factor) for row in forms.rows})
    table = narrow_table("form: error of", *(f"top {part:.0%}" for part, _ in held), "pooled", "at target")
    for name in dict.fromkeys(row.law for row in forms.rows):
        errors = {row.fraction_held: row.rms_log_error for row in forms.rows if row.law == name}
        cells = ("-" if errors.get(part) is None else f"{errors[part]:.3%}" for part, _ in held)
        pooled = f"{forms.pooled[name]:.3%}" if name in forms.pooled else "-"
        mark = " *" if name == forms.best else ""
        target = f"{forms.at_target[name]:.5g}" if name in forms.at_target else "-"
        table.add_row((f"[bold]{name}[/]" if name == fitted else name) + mark, *cells, pooled, target)
    reach = ", ".join(f"{factor:.3g}x" for _, factor in held)
    spread = (
        ""
        if forms.spread is None
        else f"; the forms close to it differ by {forms.spread:.2%} at the target, 10 times the largest run"
    )
    best = "* predicts the held-out runs best" if forms.best else "no two forms could be compared on the same runs"
    table.caption = f"{best}; extrapolated {reach}{spread}"
    return table


def _heldout(fit: scaling.Fit) -> Table:
    table = narrow_table("held-out run", "reach", "loss", "predicted", "[95 %] of a run", "error", "of excess")
    furthest = sorted(fit.heldout, key=lambda run: -run.extrapolation_factor)
    if len(furthest) > HELDOUT_SHOWN:
        worst = max(fit.heldout, key=lambda run: abs(run.relative_error))
        table.caption = (
            f"the {HELDOUT_SHOWN} furthest of {len(furthest)} held-out runs (all: --json); "
            f"largest error {worst.relative_error:+.2%}, {worst.run}"
        )
    for run in furthest[:HELDOUT_SHOWN]:
        excess = "-" if run.excess_relative_error is None else f"{run.excess_relative_error:+.1%}"
        error = f"{run.relative_error:+.2%}"
        factor = f"{run.extrapolation_factor:.3g}x"
        table.add_row(
            run.run,
            factor,
            f"{run.loss:.5g}",
            f"{run.predicted:.5g}",
            _interval(run.run95),
            error,
            excess,
        )
    return table
