"""Prints every run of `sessionrec sweep PLAN --dry-run` with its cost here, and the expected intervals of the law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from experiments.plans.sizes import labels
from experiments.sweep.halving import expected_savings
from experiments.sweep.layout import Layout
from experiments.sweep.probe import probe
from scaling.design.identify import Verdict
from sessionrec_jax.config.rules import doubts
from sessionrec_jax.config.settings import Config

MIB = 2**20


def show(layout: Layout, rows: Sequence[dict[str, Any]], verdict: Verdict | None, workers: int) -> None:
    """Prints the runs, their totals and the expected intervals. `rows` are the rows of `cost.CostEstimate`."""
    configs, report = layout.configs, layout.files.get("report.json", {})
    per_step_R = np.array([row["flops_train"] / row["steps"] for row in rows])
    programs = {_program(config): at for at, config in enumerate(configs)}
    in_order = sorted(programs.values(), key=lambda at: per_step_R[at])
    ends = list(dict.fromkeys([in_order[0], in_order[-1]]))
    costs = [probe(configs[at], workers) for at in ends]
    step_seconds_R = np.interp(per_step_R, per_step_R[ends], [cost.step_seconds for cost in costs])
    taken_R = np.array(
        [1 - config.train.steps_shared / row["steps"] for config, row in zip(configs, rows, strict=True)]
    )
    seconds_R = step_seconds_R * [row["steps"] for row in rows] * taken_R
    log_bytes_E = np.log([cost.step_bytes for cost in costs])
    bytes_R = np.exp(np.interp(np.log(per_step_R), np.log(per_step_R[ends]), log_bytes_E))
    settings = labels(configs)
    d = report.get("d", "")
    axes = {"N": "params_body", "D": d if d.startswith("sessions") else "sessions_seen"}
    table = narrow_table("run", *settings[0], *axes, "FLOPs", "steps", "time", "MiB")
    for row, label, seconds, size in zip(rows, settings, seconds_R, bytes_R, strict=True):
        counts = (f"{row[name]:,}" for name in axes.values())
        costs_here = (f"{row['flops_train']:.3g}", f"{row['steps']:,}", _time(seconds), f"{size / MIB:,.1f}")
        table.add_row(row["run_id"], *label.values(), *counts, *costs_here)
    for column in table.columns[1 + len(settings[0]) :]:
        column.justify = "right"
    say = Terminal(highlight=False, soft_wrap=True).print
    Terminal(highlight=False).print(table)
    compiling = len(programs) * float(np.mean([cost.compile_seconds for cost in costs]))
    at_best = _time((seconds_R.sum() + compiling) / workers)
    say(
        f"{_count(len(configs), 'run')}: {sum(row['flops_train'] for row in rows):.3g} FLOPs, "
        f"{_time(seconds_R.sum())} of training and {_time(compiling)} of compiling "
        f"{_count(len(programs), 'program')}; {at_best} in {_count(workers, 'worker')} at best. "
        "Evaluation is not included."
    )
    if (saved := float(np.dot(1 - taken_R, [row["flops_train"] for row in rows]))) > 0:
        say(f"{saved:.3g} of the FLOPs are saved, because {_branches(taken_R)} from a longer run's checkpoint.")
    if halved := expected_savings(configs, [row["flops_train"] for row in rows]):
        say(
            f"Halving will save about {halved:.3g} of the FLOPs: rates are dropped after a quarter and a half of a run."
        )
    measured = [
        f"{cost.step_seconds * 1e3:.3g} ms a step of {rows[at]['params_body']:,} parameters"
        for at, cost in zip(ends, costs, strict=True)
    ]
    between = "; between them it is linear in FLOPs a step, and memory is a power of them" if len(ends) > 1 else ""
    say(
        f"N is {axes['N']}, D {axes['D']}. Time: {' and '.join(measured)}, real steps on {costs[0].device_kind}, on a "
        f"CPU on a worker's share of the cores{between}. Memory: XLA's plan of the step; the workers of a host "
        f"also share {costs[0].log_bytes / MIB:,.1f} MiB of log."
    )
    if verdict is not None:
        _show_verdict(verdict, say)


def warn_of_short_runs(configs: Sequence[Config], rows: Sequence[dict[str, Any]], epochs_flag: str) -> None:
    """Prints to stderr how many runs are too short to learn, and what is wrong with the shortest of them."""
    by_steps = sorted(zip((row["steps"] for row in rows), configs, strict=True), key=lambda pair: pair[0])
    found = [doubt for steps, config in by_steps if (doubt := doubts(config, steps, epochs_flag))]
    if found:
        text = f"{len(found)} of {_count(len(configs), 'run')} can hardly learn. Of the shortest: {found[0]}"
        Terminal(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]warning:[/] {markup(text)}")


def _program(config: Config) -> Any:
    """Returns a key that is equal for runs that share a compiled program."""
    data = config.data
    shape = (data.rows, data.sessions_per_row, data.items_per_row)
    return config.paradigm, config.model, config.loss, data.fingerprint, *shape


def _show_verdict(verdict: Verdict, say: Any) -> None:
    expected = ", ".join(f"{each.name} {each}" for each in verdict.expected)
    say(
        f"These runs identify {verdict.law}. Expected with {verdict.assumption} and a noise of {verdict.sigma:g} in "
        f"log loss (95 %): {expected}."
    )
    for warning in verdict.warnings:
        say(f"[yellow]warning:[/] {markup(warning)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _branches(taken_R: np.ndarray) -> str:
    count = int(np.sum(taken_R < 1))
    return _count(count, "run") + (" begins" if count == 1 else " begin")


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
