"""Run a plan: every run without a row, in worker processes here, or by Ray or SLURM.

    sessionrec sweep isoflop --data DATA --out SWEEP --dry-run
    sessionrec sweep grid --data DATA --out SWEEP --users 500 1000 2000 4000 8000 16000 --sizes xs s

The same command resumes a sweep that was killed, and tries failed runs again. Typed on another host too, or together
with `sessionrec worker SWEEP` there, it shares the runs. A plan is a list of runs; --dry-run shows each with its cost.
A plan whose runs cannot identify the law that they are for is refused, with the runs to add.

--launcher ray and --launcher slurm start the workers on a cluster, each with its own options:
`sessionrec sweep PLAN --launcher ray --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

import tyro

from doors.address import absolute, address_of, shown, with_addresses
from doors.files import check_folder
from doors.storage import copies
from doors.terminal import Terminal
from doors.text import shell
from experiments.cli.parsing import HELP_ALL, Quiet, parse_flags
from experiments.plans import PLANS
from experiments.sweep.halving import saved_flops
from experiments.sweep.launch import LAUNCHERS, Launcher, by_name
from experiments.sweep.layout import Layout
from experiments.sweep.run_sweep import run_sweep
from experiments.sweep.sweep_folder import states
from experiments.sweep.varying import varying
from experiments.sweep.worker_options import DEFAULT_OPTIONS, WorkerOptions
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.data.store import open_log
from sessionrec_jax.errors import InputError

if TYPE_CHECKING:
    from experiments.sweep.cost import CostEstimate
    from scaling.design.identify import Verdict

P, L = TypeVar("P"), TypeVar("L")


@dataclass(frozen=True)
class Command(Generic[P, L]):
    plan: Annotated[P, tyro.conf.arg(name="")]
    log: Annotated[Path, tyro.conf.arg(name="data", metavar="DATA")]
    """The prepared log, a folder that `sessionrec prepare` wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="SWEEP")]
    """The sweep folder. It gets sweep.json, report.json or comparison.json, and runs/RUN_ID/."""
    own: Annotated[L, tyro.conf.arg(name="")]
    launcher: Literal[LAUNCHERS] = "local"
    """The program that starts the workers. Each has its own options, which --launcher NAME --help shows.
    local: processes of this machine
    ray: tasks on a Ray cluster
    slurm: a SLURM job array"""
    options: Annotated[WorkerOptions, tyro.conf.arg(name="")] = DEFAULT_OPTIONS
    dry_run: bool = False
    """Only show each run with its N, D, FLOPs, time and memory here, and the expected intervals of the law."""
    quiet: Quiet = False
    """Show no progress, and of the rows only those of runs that went wrong."""
    base: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", HELP_ALL):
        print(f"{__doc__}\nplans: {', '.join(PLANS)}; `sessionrec sweep PLAN --help` explains the options")
        if not argv:
            raise InputError(f"which plan? expected one of {', '.join(PLANS)}")
        return 0
    name, *rest = argv
    plan = PLANS.find(name)
    launcher = _launcher(rest)
    command = parse_flags(
        Command[plan, launcher],
        rest,
        prog=f"sessionrec sweep {name}",
        description=f"{sys.modules[plan.__module__].__doc__}\n\n{launcher.__doc__}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command.options.check()
    command.own.check()
    _refuse_what_the_plan_sets(name, command.plan.SETS, command.base)
    if address_of(command.out) and launcher is not by_name("local"):
        raise InputError(
            f"{shown(command.out)} is in a bucket, and --launcher {command.launcher} writes into a folder that its "
            "nodes mount; start `sessionrec worker` on the nodes, or name a folder"
        )
    sweep_dir = command.out if command.dry_run else copies.for_writing(command.out, copies.for_workers)
    if not command.dry_run:
        check_folder(sweep_dir, "a sweep")
    base = replace(command.base, {"data.path": absolute(command.log)})
    layout = command.plan.lay_out(base, open_log(command.log))
    from experiments.sweep.cost import CostEstimate  # starts jax, which --help need not wait for

    cost = CostEstimate()
    base = replace(base, {"data.rows": layout.configs[0].data.rows})  # for runs that the verdict may add
    verdict = _judged(command.plan, layout, base, cost)
    if command.dry_run:
        from experiments.cli import dryrun

        rows = [cost.row(config) for config in layout.configs]
        dryrun.show(layout, rows, verdict, command.own.workers)
        dryrun.warn_of_short_runs(layout.configs, rows, command.plan.SETS.get("train.epochs", "--train.epochs"))
        return 0
    rows = run_sweep(name, layout, sweep_dir, launcher=command.own, options=command.options, quiet=command.quiet)
    out = shown(command.out)
    show = Terminal(highlight=False, soft_wrap=True).print  # a hint that is wrapped could not be copied
    if not command.own.workers:
        left = len(layout.configs) - len(rows)
        show(f"{left} runs left in {out} for `{shell('sessionrec', 'worker', out)}`", markup=False)
        return 0
    bad = sum(row["status"] not in ("done", "dropped") for row in rows)
    reader = "report" if "report.json" in layout.files else "compare"
    hint = f"`{shell('sessionrec', reader, out)}` shows them"
    show(f"{len(rows)} runs in {out}, {bad} of them failed; {hint}", markup=False)
    if saved := saved_flops(rows):
        dropped = sum(row["status"] == "dropped" for row in rows)
        show(f"halving dropped {dropped} of the runs early, which saved {saved:.3g} FLOPs")
    if bad == len(rows):
        return 1
    if hasattr(command.plan, "conclude"):
        show(with_addresses(command.plan.conclude(sweep_dir, states(sweep_dir)[1])))
        copies.push(sweep_dir)
    return 0


def _launcher(argv: list[str]) -> type[Launcher]:
    """Returns the launcher that --launcher names. Raises InputError if an option belongs to another one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--launcher", default="local")
    name = parser.parse_known_args(argv)[0].launcher
    chosen, given = by_name(name), {argument.partition("=")[0] for argument in argv}
    for other in LAUNCHERS:
        if foreign := sorted(given & _flags(by_name(other)) - _flags(chosen)):
            raise InputError(f"{', '.join(foreign)}: options of --launcher {other}, but --launcher is {name}")
    return chosen


def _flags(launcher: type[Launcher]) -> set[str]:
    return {f"--{each.name}" for each in dataclasses.fields(launcher)}


def _refuse_what_the_plan_sets(plan: str, sets: dict[str, str], base: Config) -> None:
    """Raises InputError for a setting that would have no effect, because the plan sets it for each run."""
    flags = {field: value for field, value in varying([to_dict(Config()), to_dict(base)])[1].items() if field in sets}
    if flags:
        decided = (f"--{field.replace('_', '-')} by {sets[field]}" for field in flags)
        raise InputError(f"plan {plan} decides these settings itself: {', '.join(decided)}")


def _judged(plan: P, layout: Layout, base: Config, cost: CostEstimate) -> Verdict | None:
    """Returns None if the plan has no law. Raises Refusal if its runs cannot identify the law."""
    from experiments.plans.identifiable import judge
    from sessionrec_jax.data.synthetic.known import known_truth

    report = layout.files.get("report.json", {})
    if "law" not in report:
        return None
    prepared = open_log(base.data.path)
    is_known = "floor_column" in report and known_truth(prepared) is not None
    return judge(
        report,
        layout.configs,
        cost,
        lambda: plan.wider(base, prepared).lay_out(base, prepared).configs,
        floor_is_known=is_known,
    )
