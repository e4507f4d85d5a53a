"""One page about a table of runs: figures, fits and what they cannot tell, every run and why some were left out.

The page is self-contained: it opens from disk with no network. Its figures lie beside it too, as SVG and PNG, in
`<page's stem>_figures/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from scaling.errors import InputError, Refusal
from scaling.fit import Fit
from scaling.table import RunTable
from scaling.theory import Theory

PNG_PIXELS_PER_INCH = 144
HELDOUT_SHOWN = 20
RUN_COLUMNS = ("seed", "learning_rate_peak", "epochs", "status")
"""Columns that the table of runs shows beside the fitted ones, where they exist."""

CSS = """
:root { --ink: #22272e; --soft: #6a737d; --line: #e3e6ea; --wash: #f6f7f9; --warn: #8a5a00; --bad: #b3342d; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  background: #fff; max-width: 1060px; margin: 2.5rem auto 5rem; padding: 0 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .5rem; } p.lead, figcaption, .soft { color: var(--soft); }
figure { margin: 1.4rem 0 2.2rem; } figcaption { font-size: .9rem; } .chart { min-height: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); white-space: nowrap; }
td { border-bottom: 1px solid var(--line); } th, td { padding: .32rem .9rem .32rem 0; vertical-align: top; }
td.number, th.number { text-align: right; } tr.out td { color: var(--soft); } code { font-size: .92em; }
.formula { font-family: ui-monospace, Menlo, Consolas, monospace; } .refusal { color: var(--bad); }
ul.notes { padding-left: 1.2rem; } ul.notes li { margin: .3rem 0; } .warn { color: var(--warn); }
"""

CAPTIONS = {
    "loss_against_data": "Both axes are logarithmic. The band is the 95 % bootstrap band of the law; a single run's "
    "noise comes on top. Triangles are predicted, in the check below, by a refit that does not see them.",
    "excess_against_data": "Loss less the floor: a power of D alone is a straight line of slope -beta here. The "
    "theory's slope is drawn through the centre of the data; only its steepness is a prediction.",
    "loss_against_size": "Where the points of one colour lie level, size is no bottleneck at that D.",
    "residuals": "A trend or a fan means that the law, or the assumption of equal noise, is wrong.",
}


def write(
    out: str | Path,
    table: RunTable,
    fits: Sequence[tuple[str, Fit | Refusal]],
    theory: Theory | None = None,
    title: str = "Scaling report",
) -> Path:
    """Writes the page and its figures, the page last and whole.

    Args:
      out: the .html file; its folder must exist.
      table: the runs.
      fits: (law's name, its fit or why there is none); the first fit is drawn.
      theory: what is known of the truth, if anything is.

    Returns: the folder of the figures.
    """
    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"the report is {out}; wanted a name that ends in .html")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no folder {out.parent}")
    drawn = next((fit for _, fit in fits if isinstance(fit, Fit)), None)
    folder = out.with_name(f"{out.stem}_figures")
    charts = _figures(table, drawn, theory, folder) if len(table) else {}
    _replace(out, lambda part: part.write_text(_page(title, table, fits, theory, charts), encoding="utf-8"))
    return folder


def _figures(table: RunTable, drawn: Fit | None, theory: Theory | None, folder: Path) -> dict[str, dict]:
    from scaling.figures import all_figures

    folder.mkdir(exist_ok=True)
    charts = all_figures(table, drawn, theory)
    for name in CAPTIONS:
        for suffix in (".svg", ".png"):
            file = folder / f"{name}{suffix}"
            if name not in charts:
                file.unlink(missing_ok=True)  # of an earlier report of this name
                continue
            options = {"ppi": PNG_PIXELS_PER_INCH} if suffix == ".png" else {}
            _replace(file, lambda part, name=name, options=options: charts[name].save(str(part), **options))
    return {name: chart.to_dict() for name, chart in charts.items()}


def _replace(path: Path, write_to: Callable[[Path], Any]) -> None:
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write_to(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _page(
    title: str, table: RunTable, fits: Sequence[tuple[str, Fit | Refusal]], theory: Theory | None, charts: dict
) -> str:
    import vl_convert

    counts = f"{len(table)} runs used, {len(table.excluded)} left out, each with its reason below."
    lead = f"{counts} Source: {Path(table.source).name}."
    body = [f"<h1>{escape(title)}</h1><p class=lead>{escape(lead)}</p>"]
    if theory is not None:
        body.append(f"<p>Theory: exponent {theory.exponent:.4g}, floor {theory.floor:.6g}. {escape(theory.note)}</p>")
    body += [_figure(name) for name in charts] or ["<p class=refusal>No run is left to draw.</p>"]
    body.append("<h2>Fits</h2>")
    body += [_fit(name, fit) for name, fit in fits]
    body.append("<h2>What this report cannot tell</h2>" + _notes(_limits(table, fits, theory)))
    body += [_runs(table), _exclusions(table)]
    script = ""
    if charts:
        specs = json.dumps(charts, allow_nan=False).replace("</", "<\\/")
        actions = "{actions: {export: true, source: false, compiled: false, editor: false}, renderer: 'svg'}"
        script = (
            f"<script>{vl_convert.javascript_bundle()}</script>\n<script>const specs = {specs};\n"
            f"for (const name in specs) vegaEmbed('#' + name, specs[name], {actions});</script>"
        )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + f"\n{script}\n</body></html>\n"
    )


def _figure(name: str) -> str:
    return f'<figure><div class=chart id="{name}"></div><figcaption>{escape(CAPTIONS[name])}</figcaption></figure>'


def _fit(name: str, fit: Fit | Refusal) -> str:
    if isinstance(fit, Refusal):
        return f"<h3>{escape(name)}</h3><p class=refusal>Refused: {escape(str(fit))}</p>"
    delta = f", delta {fit.objective.delta:.4g}" if fit.objective.name == "huber" else ""
    minima = "1 minimum" if len(fit.minima) == 1 else f"{len(fit.minima)} competing minima"
    facts = (
        f"{len(fit.table)} runs; {fit.objective.name}{delta} on log loss; objective {fit.objective_value:.8g}, {minima}"
        f"; robust standard deviation of the residuals {fit.residual_sigma:.2g}; {len(fit.cloud_SP)} bootstrap draws."
    )
    parts = [
        f"<h3>{escape(name)}: <span class=formula>{escape(fit.law.formula)}</span></h3>",
        f"<p class=soft>{escape(facts)} {escape(fit.law.assumptions)} {escape(fit.law.source)}.</p>",
        _parameters(fit),
    ]
    if fit.free_floor is not None:
        verdict = {True: "which agrees with the known one", False: "which does not hold the known one"}
        says = verdict.get(fit.free_floor.agrees, "which cannot be told")
        parts.append(f"<p>A freely fitted floor lies in {_interval(fit.free_floor.interval95)}, {says}.</p>")
    if fit.heldout:
        parts.append(_heldout(fit))
    return "\n".join(parts + ([_notes(fit.warnings, "warn")] if fit.warnings else []))


def _parameters(fit: Fit) -> str:
    rows = []
    for name in fit.params:
        size = fit.sizes_at_centre.get(name)
        cells = ("", "") if size is None else (f"{size:.5g}", _interval(fit.sizes_at_centre95.get(name)))
        rows.append((name, fit.describe(name), *cells))
    centre = ", ".join(f"{axis.upper()} = {value:.4g}" for axis, value in fit.centre.items())
    return _table(("parameter", "value [95 %]", f"term's size at {centre}", "95 %"), rows)


def _heldout(fit: Fit) -> str:
    furthest = sorted(fit.heldout, key=lambda run: -run.extrapolation_factor)
    rows = [
        (
            run.run, _short(run.n), _short(run.d), f"{run.extrapolation_factor:.3g}×", f"{run.loss:.6g}",
            f"{run.predicted:.6g}", _interval(run.predicted95), f"{run.relative_error:+.2%}",
            "-" if run.excess_relative_error is None else f"{run.excess_relative_error:+.1%}",
        )
        for run in furthest[:HELDOUT_SHOWN]
    ]  # fmt: skip
    heads = ("run", "N", "D", "past the data", "loss", "predicted", "95 % of the law", "error", "error of the excess")
    more = f" The {HELDOUT_SHOWN} furthest of {len(furthest)} are shown." if len(furthest) > HELDOUT_SHOWN else ""
    text = f"Held-out check: a refit without the largest runs predicts them.{more}"
    return f"<p>{text}</p>" + _table(heads, rows, numbers=range(1, 9))


def _limits(table: RunTable, fits: Sequence[tuple[str, Fit | Refusal]], theory: Theory | None) -> list[str]:
    notes = []
    for name, fit in fits:
        if isinstance(fit, Refusal):
            notes.append(f"{name}: nothing, since it was refused.")
            continue
        notes += [f"{name}: the value of {p}; {fit.describe(p)}." for p in fit.open_intervals]
        if fit.law.has_floor and fit.known_floor is None and "E" not in fit.open_intervals:
            notes.append(f"{name}: the floor is fitted, and the exponents move with it.")
        if not fit.law.has_floor:
            notes.append(f"{name}: assumes that the loss falls to 0; with a floor, the exponent would be steeper.")
        if not fit.heldout:
            notes.append(f"{name}: how it extrapolates, since no held-out check was possible or asked for.")
        if theory is not None:
            notes.append(f"{name}: {_against_theory(fit, theory)}")
    if len(table):
        notes.append(f"The loss beyond D = {_short(table.d.max())}: every prediction there is an extrapolation.")
        if table.columns.seed is not None and table.frame[table.columns.seed].n_unique() == 1:
            notes.append("The noise between seeds, since all runs have the same one: residuals mix it with misfit.")
    if table.known_floor is None and theory is None:
        notes.append("The true floor: the data do not come with one.")
    return notes


def _against_theory(fit: Fit, theory: Theory | None) -> str:
    interval = fit.interval95.get("beta")
    if interval is None:
        return f"whether beta agrees with the theory's {theory.exponent:.4g}; it has no interval."
    says = f"beta's interval {_interval(interval)} %s the theory's {theory.exponent:.4g}"
    if interval[0] <= theory.exponent <= interval[1]:
        return says % "holds" + ", which is no proof of it."
    return says % "does not hold" + "; whether finite size, training or the form of the law is why, is not told here."


def _runs(table: RunTable) -> str:
    columns = table.columns
    named = {"run": columns.run_id, "N": columns.n, "D": columns.d or columns.flops, "loss": columns.loss}
    named |= {"baseline": columns.baseline, "floor": columns.floor, "tuned by": columns.select_by}
    shown = {head: name for head, name in named.items() if name is not None}
    shown |= {name.replace("_", " "): name for name in RUN_COLUMNS if name in table.frame.columns}
    rule = {row.row: row.rule for row in table.excluded}

    def rows(frame: pl.DataFrame, names: Iterable[str]) -> list[tuple[str, ...]]:
        ids = list(names)
        return [
            (*(_short(run[name]) for name in shown.values()), rule.get(ids[i], ""))
            for i, run in enumerate(frame.iter_rows(named=True))
        ]

    without_row = len(table.excluded) - len(table.left_out)
    out_ids = [row.row for row in table.excluded]
    if columns.run_id is not None:
        out_ids = [str(v) for v in table.left_out[columns.run_id]]
    used = rows(table.frame.sort(columns.d or columns.flops), [""] * len(table))
    numbers = [i for i, head in enumerate(shown) if head not in ("run", "status")]
    note = f" {without_row} more have no row and stand below." if without_row else ""
    return f"<h2>Runs</h2><p class=soft>The fitted ones first.{note}</p>" + _table(
        (*shown, "left out because"), used + rows(table.left_out, out_ids), numbers, out_from=len(used)
    )


def _exclusions(table: RunTable) -> str:
    if not table.excluded:
        return "<h2>Left out</h2><p>No run.</p>"
    counts = ", ".join(f"{count} {escape(rule)}" for rule, count in table.excluded_by_rule().items())
    rows = [(row.row, row.rule, row.reason) for row in table.excluded]
    return f"<h2>Left out</h2><p>{counts}.</p>" + _table(("run", "rule", "reason"), rows)


def _notes(lines: Iterable[str], kind: str = "") -> str:
    return f'<ul class="notes {kind}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), out_from: int | None = None
) -> str:
    numbers = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in numbers else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    body = "".join(
        f"<tr{' class=out' if out_from is not None and i >= out_from else ''}>{line(row, 'td')}</tr>"
        for i, row in enumerate(rows)
    )
    return f"<div class=scroll><table><thead><tr>{line(heads, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def _short(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, float) and not (value.is_integer() and abs(value) < 1e9):
        return f"{value:.6g}"
    return f"{value:,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _interval(interval: tuple[float | None, float | None] | None) -> str:
    low, high = interval or (None, None)
    return "[" + ", ".join("-" if end is None else f"{end:.5g}" for end in (low, high)) + "]"
