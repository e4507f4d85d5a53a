"""Compare the arms of a sweep: means with intervals, and differences paired by user and seed.

    sessionrec compare SWEEP
    sessionrec compare SWEEP --metrics ndcg_at_50 rank_auc --out paradigm.md
    sessionrec compare SWEEP --out paradigm.html

The command reads the sweeps of the plans `paradigm` and `ablation`. For each arm and seed it takes the run that is best
on the validation sessions; the numbers come from the test sessions.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from doors.files import STDOUT, check_outputs, write_json, write_text
from doors.storage import copies
from doors.terminal import Terminal
from experiments.cli.comparison_page import write_page
from experiments.cli.parsing import JsonFile, OutputFile, parse_flags
from experiments.sweep.comparison import ArmResult, compare, left_out

LABELS = {"ndcg": "NDCG", "recall": "Recall", "hit": "Hit", "mrr": "MRR", "auc": "AUC", "gauc": "GAUC"}


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP", metavar="SWEEP")]
    """The sweep folder."""
    metrics: tuple[str, ...] = ("ndcg_at_50", "recall_at_50", "recall_at_500", "rank_auc", "retrieval_auc")
    """The columns of the rows to compare; each needs a standard error over users."""
    out: OutputFile = None
    """Also write the tables to this file: a page with forest plots if its name ends in .html, else Markdown."""
    json: JsonFile = None
    """Also write every number to this file."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec compare", description=__doc__)
    check_outputs(command.out, command.json)
    sweep_dir = copies.for_reading(command.sweep, copies.for_readers)
    lines = compare(sweep_dir, command.metrics)
    if command.json is not None:
        write_json(command.json, [dataclasses.asdict(line) for line in lines])
    if command.out is not None and command.out.suffix in (".html", ".htm"):
        groups = _tables(lines)
        tables = [(_header(group), [_cells(line) for line in group]) for _, group in groups]
        title = sweep_dir.resolve().name
        write_page(command.out, title, groups, tables=tables, label=_label, legend=_LEGEND)
    elif command.out is not None:
        write_text(command.out, markdown(lines))
    if command.json == STDOUT:
        return 0
    console = Terminal()
    for title, group in _tables(lines):
        table = Table(*_header(group), title=title, title_justify="left")
        for line in group:
            table.add_row(*_cells(line))
        console.print(table)
    console.print(_LEGEND)
    for status, runs in left_out(sweep_dir).items():
        console.print(f"[yellow]warning:[/] {runs} runs are left out, because they are {status}")
    return 0


_LEGEND = (
    "Means over seeds. In parentheses: the difference to the reference and its 95 % interval over users and seeds. "
    "* p < .05 after Holm's correction within the table. † nats that the arm's settings leave "
    "uncalibrated: compare its ranks."
)


def markdown(lines: list[ArmResult]) -> str:
    """Returns all tables and the legend as Markdown."""
    parts = []
    for title, group in _tables(lines):
        header = _header(group)
        rows = [header, ["---"] * len(header), *(_cells(line) for line in group)]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join([*parts, _LEGEND]) + "\n"


def _tables(lines: list[ArmResult]) -> list[tuple[str, list[ArmResult]]]:
    groups = itertools.groupby(lines, key=lambda line: (line.table, line.budget))
    return [(f"{table}, {budget}", list(group)) for (table, budget), group in groups]


def _header(lines: list[ArmResult]) -> list[str]:
    return ["", *map(_label, lines[0].values), "epochs", "TFLOPs", "body", "rate", "prior"]


def _label(metric: str) -> str:
    name, _, cutoff = metric.partition("_at_")
    words = name.removeprefix("loss_").replace("_per_", "_an_").split("_")
    return " ".join(LABELS.get(word, word) for word in words) + (f"@{cutoff}" if cutoff else "")


def _cells(line: ArmResult) -> list[str]:
    name = line.arm if line.seeds == line.seeds_planned else f"{line.arm} ({line.seeds} of {line.seeds_planned} seeds)"
    return [
        name,
        *(_number(line, metric) for metric in line.values),
        "-" if line.epochs is None else f"{line.epochs:.3g}",
        "-" if line.flops_train is None else f"{line.flops_train / 1e12:.3g}",
        "-" if line.params_body is None else f"{line.params_body:,}",
        _each(line.learning_rates),
        _each(line.table_priors),
    ]


def _each(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in sorted(set(values))) or "-"


def _number(line: ArmResult, metric: str) -> str:
    value, difference = line.values[metric], line.differences[metric]
    if value is None:
        return "-"
    text = _short(value.value) + "†" * (metric in line.uncalibrated)
    if difference is None:
        return f"{text} ±{_short((value.high - value.low) / 2)}"
    star = "*" if difference.p < 0.05 else ""
    ends = f"{_short(difference.low, sign=True)}, {_short(difference.high, sign=True)}"
    return f"{text} ({_short(difference.value, sign=True)} [{ends}]{star})"


def _short(value: float, *, sign: bool = False) -> str:
    """Returns four decimals, without a zero as the only digit before the point."""
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{'+' if sign else ''}.4f}")
