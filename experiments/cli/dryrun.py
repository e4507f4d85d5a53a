"""What `sessionrec sweep PLAN --dry-run` prints: every run with what it will cost here, and the plan's expectations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.cli.output import columns
from experiments.console import escape
from experiments.plans.sizes import labels
from experiments.sweep.layout import Layout
from experiments.sweep.probe import probe
from scaling.design.identify import Verdict
from sessionrec_jax.config.settings import Config

MIB = 2**20


def show(layout: Layout, rows: Sequence[dict[str, Any]], verdict: Verdict | None, workers: int) -> None:
    """`rows`: of each run as `budget.Ahead` foresees it."""
    configs, report = layout.configs, layout.files.get("report.json", {})
    per_step_R = np.array([row["flops_train"] / row["steps"] for row in rows])
    programs = {_program(config): at for at, config in enumerate(configs)}
    in_order = sorted(programs.values(), key=lambda at: per_step_R[at])
    ends = list(dict.fromkeys([in_order[0], in_order[-1]]))
    costs = [probe(configs[at], workers) for at in ends]
    step_seconds_R = np.interp(per_step_R, per_step_R[ends], [cost.step_seconds for cost in costs])
    seconds_R = step_seconds_R * [row["steps"] for row in rows]
    log_bytes_E = np.log([cost.step_bytes for cost in costs])
    bytes_R = np.exp(np.interp(np.log(per_step_R), np.log(per_step_R[ends]), log_bytes_E))
    apart = labels(configs)
    d = report.get("d", "")
    axes = {"N": "params_body", "D": d if d.startswith("sessions") else "sessions_seen"}
    table = columns("run", *apart[0], *axes, "FLOPs", "steps", "time", "MiB")
    for row, label, seconds, size in zip(rows, apart, seconds_R, bytes_R, strict=True):
        counts = (f"{row[name]:,}" for name in axes.values())
        told = (f"{row['flops_train']:.3g}", f"{row['steps']:,}", _time(seconds), f"{size / MIB:,.1f}")
        table.add_row(row["run_id"], *label.values(), *counts, *told)
    for column in table.columns[1 + len(apart[0]) :]:
        column.justify = "right"
    say = Console(highlight=False, soft_wrap=True).print
    _whole(table)
    compiling = len(programs) * float(np.mean([cost.compile_seconds for cost in costs]))
    at_best = _time((seconds_R.sum() + compiling) / workers)
    say(
        f"{_count(len(configs), 'run')}: {sum(row['flops_train'] for row in rows):.3g} FLOPs, "
        f"{_time(seconds_R.sum())} of training and {_time(compiling)} of compiling "
        f"{_count(len(programs), 'program')}; {at_best} in {_count(workers, 'worker')} at best. "
        "Evaluation comes on top."
    )
    measured = [
        f"{cost.step_seconds * 1e3:.3g} ms a step of {rows[at]['params_body']:,} parameters"
        for at, cost in zip(ends, costs, strict=True)
    ]
    between = "; between them it is a line in FLOPs a step, and memory a power of them" if len(ends) > 1 else ""
    say(
        f"N is {axes['N']}, D {axes['D']}. Time: {' and '.join(measured)}, real steps on {costs[0].device_kind}, on a "
        f"CPU on a worker's share of the cores{between}. Memory: XLA's plan of the step; each worker also holds "
        f"{costs[0].log_bytes / MIB:,.1f} MiB of log."
    )
    if verdict is not None:
        _tell(verdict, say)


def _whole(table: Table) -> None:
    """Printed as wide as it is: numbers are not cut where the output is no terminal."""
    console = Console()
    wide = console.measure(table, options=console.options.update(max_width=1_000)).maximum
    Console(width=max(console.width, wide)).print(table)


def _program(config: Config) -> Any:
    """Runs that share it share a compiled program."""
    data = config.data
    shape = (data.rows, data.sessions_per_row, data.items_per_row)
    return config.paradigm, config.model, config.loss, data.fingerprint, *shape


def _tell(verdict: Verdict, say: Any) -> None:
    expected = ", ".join(f"{each.name} {each}" for each in verdict.expected)
    say(
        f"These runs identify {verdict.law}. Reckoned with {verdict.assumption} and a noise of {verdict.sigma:g} in "
        f"log loss one expects (95 %): {expected}."
    )
    for warning in verdict.warnings:
        say(f"[yellow]warning:[/] {escape(warning)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
