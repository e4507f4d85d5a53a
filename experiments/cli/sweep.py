"""Run a plan: every run that has no row yet, in worker processes.

sessionrec sweep grid --data DATA --out SWEEP --users 500 2000 8000 --sizes xs s m

Killed and typed again, it goes on where it stopped, and tries failed runs anew. Typed on another host too, or beside
`sessionrec worker SWEEP` there, it shares the runs. A plan is a list of runs; --dry-run shows it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from experiments.sweep import default_workers, run_sweep
from experiments.varying import told, varying
from experiments.worker import RETRIES
from sessionrec_jax.config import Config
from sessionrec_jax.config_values import replace, run_id, to_dict
from sessionrec_jax.data.store import open_log
from sessionrec_jax.errors import InputError, near_miss

PLANS = ("grid", "paradigm", "ablation")

P = TypeVar("P")


@dataclass(frozen=True)
class Command(Generic[P]):
    plan: Annotated[P, tyro.conf.arg(name="")]
    log: Annotated[Path, tyro.conf.arg(name="data")]
    """Folder that `sessionrec prepare` wrote."""
    out: Path
    """Sweep folder: sweep.json, report.json or comparison.json, runs/RUN_ID/."""
    workers: int = field(default_factory=default_workers)
    """Worker processes; on a CPU each keeps to its share of the cores. Left out: one where there is an accelerator,
    else one a core and at most four. 0: write the folder and leave its runs to `sessionrec worker`."""
    retries: int = RETRIES
    """Times that a run is tried again that failed or took its worker down, before it becomes a failed row."""
    dry_run: bool = False
    """Show the runs and stop."""
    base: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nplans: {', '.join(PLANS)}; `sessionrec sweep PLAN --help` explains the options")
        if not argv:
            raise InputError(f"which plan? wanted one of {', '.join(PLANS)}")
        return 0
    name, *rest = argv
    if name not in PLANS:
        raise InputError(f"unknown plan {name!r}; {near_miss(name, PLANS)}")
    plan = importlib.import_module(f"experiments.{name}")
    command = tyro.cli(
        Command[plan.Plan],
        args=rest,
        prog=f"sessionrec sweep {name}",
        description=plan.__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    for flag, value in (("workers", command.workers), ("retries", command.retries)):
        if value < 0:
            raise InputError(f"--{flag} {value}; wanted at least 0")
    _refuse_what_the_plan_sets(name, command.plan.SETS, command.base)
    base = replace(command.base, {"data.path": str(command.log)})
    layout = command.plan.lay_out(base, open_log(command.log))
    if command.dry_run:
        _show(layout.configs)
        return 0
    rows = run_sweep(name, layout, command.out, workers=command.workers, retries=command.retries)
    if not command.workers:
        print(f"{len(layout.configs) - len(rows)} runs left in {command.out} for `sessionrec worker {command.out}`")
        return 0
    bad = sum(row["status"] != "done" for row in rows)
    reader = "report" if "report.json" in layout.files else "compare"
    Console(highlight=False).print(
        f"{len(rows)} runs in {command.out}, {bad} of them failed; `sessionrec {reader} {command.out}` shows them"
    )
    return 1 if bad == len(rows) else 0


def _refuse_what_the_plan_sets(plan: str, sets: dict[str, str], base: Config) -> None:
    """Such a setting would be taken and have no effect."""
    flags = {field: value for field, value in varying([to_dict(Config()), to_dict(base)])[1].items() if field in sets}
    if flags:
        told_each = (f"--{field.replace('_', '-')} by {sets[field]}" for field in flags)
        raise InputError(f"plan {plan} decides these settings itself: {', '.join(told_each)}")


def _show(configs: list[Config]) -> None:
    labels = varying([to_dict(config) for config in configs])
    columns = [name.rpartition(".")[2].replace("_", " ") for name in labels[0]] if labels else []
    table = Table("run", *columns, title=f"{len(configs)} runs", title_justify="left")
    for config, label in zip(configs, labels, strict=True):
        table.add_row(run_id(config), *map(told, label.values()))
    Console().print(table)
