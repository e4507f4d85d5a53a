"""Which runs to make next, which of a pool to pay for, or whether planned runs can identify their law at all.

    sessionrec design runs.csv --n params --d tokens --loss loss --quantity beta --runs 4
    sessionrec design plan.csv --n params --d tokens --planned
    sessionrec design --candidates pool.csv --budget 1e21 --n params --d tokens --criterion v --targets largest.csv

For planned runs the exit code is 0 if they identify the law, and 2 with the reason if they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

import scaling
from doors import bounds
from doors.bounds import Between
from doors.files import STDOUT, check_outputs
from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.columns import table_of
from experiments.cli.design_pool import PoolAdvice, advise_pool, show_pool
from experiments.cli.fit_flags import ColumnFlags
from experiments.cli.output import narrow_table
from experiments.cli.parsing import JsonFile, parse_flags
from scaling.design.assumption import SIGMA_TYPICAL, Assumption, assume
from scaling.design.cure import cure
from scaling.design.identify import Verdict, check_axes, identify
from scaling.design.next_runs import NextRuns, design_points, next_runs, read_planned
from scaling.design.pool import Kind
from scaling.design.propose import candidate_grid
from scaling.errors import InputError, Refusal
from scaling.fitting.export import plain, write_json
from scaling.fitting.fitted import FittedLaw
from scaling.laws import registry
from scaling.table.files import load
from scaling.table.run_table import RunTable

OF_NEXT_RUNS = ("--planned", "--runs", "--per", "--n-limits", "--d-limits")
"""Flags that have no use with --candidates."""


@dataclass(frozen=True, kw_only=True)
class Args:
    table: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")] = None
    """A file .csv, .parquet or .jsonl, or a sweep folder with runs/*/row.json. It may be left out with --candidates."""
    candidates: Path | None = None
    """A table of runs that could be made, a row a run: choose among them, each once, for --budget."""
    criterion: Literal["d", "v", "quantity"] | None = None
    """With --candidates: learn all parameters (d), the law at the --targets (v), or the --quantity. The default is the
    quantity if one is named, else v if targets are, else d."""
    targets: Path | None = None
    """With --criterion v: a table with the N and D to predict. The default is the candidates."""
    planned: bool = False
    """The runs are planned only: show whether they can identify the law. This is the default if no loss is named."""
    law: str | None = None
    """A law of N and D, or of D alone. The default is that of --from, else chinchilla."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FIT.JSON")] = None
    """Assume the law that `sessionrec fit ... --json` wrote."""
    assume: str | None = None
    """Assume these parameters, as A=400,B=900,E=1.7,alpha=0.34,beta=0.29."""
    floor: float | None = None
    """The known irreducible loss, which is then not a parameter."""
    sigma: float | None = None
    """The noise of log loss. The default is the spread of the table around the law; 0.005 for planned runs."""
    quantity: str | None = None
    """The quantity to learn: a parameter, a (of N* ~ C^a), loss@N,D or nstar@FLOPS. The default is beta."""
    runs: Annotated[int, Between(1, 1_000)] = 4
    """The number of runs to propose."""
    per: Literal["flop", "run"] = "flop"
    """Rank runs by their information per FLOP, or by their information alone."""
    budget: float | None = None
    """The limit on training FLOPs of all proposed runs together."""
    n_limits: tuple[float, float] | None = None
    """The lowest and highest N of a proposed run. The default is one step beyond the table's."""
    d_limits: tuple[float, float] | None = None
    """The lowest and highest D of a proposed run. The default is one step beyond the table's."""
    json: JsonFile = None
    """Write everything to this file."""
    columns: ColumnFlags = field(default_factory=scaling.Columns)


def main(argv: list[str]) -> int:
    args = parse_flags(
        Args,
        argv,
        prog="sessionrec design",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    bounds.check(args)
    check_outputs(
        args.json, inputs=[p for p in (args.table, args.from_, args.candidates, args.targets) if p is not None]
    )
    if args.floor is not None and args.columns.floor_column is not None:
        raise InputError("--floor and --floor-column both name the floor; give one")
    if args.candidates is not None:
        _refuse_flags_of_next_runs(argv)
        chosen = _advise_pool(args)
        if args.json is not None:
            write_json(plain(chosen), args.json)
        if args.json != STDOUT:
            show_pool(chosen, Terminal())
        return 0
    if args.table is None:
        raise InputError("no table is named; give a table of runs, or --candidates with --budget")
    if args.criterion is not None or args.targets is not None:
        raise InputError("--criterion and --targets choose among --candidates; name their table")
    planned = args.planned or (args.columns.loss is None and args.columns.metric is None)
    found = _advise_planned(args, args.table) if planned else _advise_finished(args, args.table)
    if args.json is not None:
        write_json(plain(found), args.json)
    if args.json != STDOUT:
        show(found, Terminal())
    if planned and not found.verdict.identifies:
        raise Refusal(f"these runs cannot identify {found.verdict.law}: {' '.join(found.verdict.reasons)}")
    return 0


def _refuse_flags_of_next_runs(argv: list[str]) -> None:
    """Raises InputError for flags that a choice among candidates has no use for."""
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    if foreign := [flag for flag in OF_NEXT_RUNS if flag in given]:
        raise InputError(
            f"{' and '.join(foreign)}: not for --candidates, where --budget and --criterion decide; leave the flags out"
        )


def _advise_pool(args: Args) -> PoolAdvice:
    """Chooses among the candidates by the law of the flags, or of the finished runs, or by typical parameters."""
    assert args.candidates is not None
    pool, assumed = read_planned(args.candidates, args.columns), None
    if args.table is None or args.assume or args.from_:
        assumed = _assumed(args, pool)
    default: Kind = "quantity" if args.quantity is not None else "v" if args.targets is not None else "d"
    return advise_pool(
        args.candidates,
        args.budget,
        args.columns,
        assumed=assumed,
        finished=args.table,
        law=args.law or "chinchilla",
        sigma=args.sigma,
        floor=args.floor,
        criterion=default if args.criterion is None else args.criterion,
        quantity=args.quantity,
        targets=args.targets,
    )


def _advise_planned(args: Args, path: Path) -> NextRuns:
    table = read_planned(path, args.columns)
    fitted, source = _assumed(args, table)
    points = design_points(table, fitted.law)
    assumption = Assumption(fitted, SIGMA_TYPICAL if args.sigma is None else args.sigma, source)
    verdict = identify(assumption, points, () if args.quantity is None else (args.quantity,))
    cured = None
    if not verdict.identifies:
        candidates = candidate_grid(table.n, table.d, args.n_limits, args.d_limits)
        cured = cure((assumption,), points, candidates=candidates, flops_limit=args.budget)
    return NextRuns(None, verdict, cured, None)


def _advise_finished(args: Args, path: Path) -> NextRuns:
    frame, unfinished = load(path)
    table = table_of(path, frame, args.columns, unfinished)
    fitted, source = _assumed(args, table) if args.assume or args.from_ else (None, "")
    law = (args.law or "chinchilla") if fitted is None else fitted.law.name
    design_points(table, registry.by_name(law))  # names the flag of a column that is missing
    return next_runs(
        table,
        law,
        assumed=fitted,
        source=source,
        sigma=args.sigma,
        floor=args.floor if fitted is None else fitted.known_floor,
        wanted=args.quantity,
        runs=args.runs,
        candidates=candidate_grid(table.n, table.d, args.n_limits, args.d_limits),
        flops_limit=args.budget,
        per=args.per,
    )


def _assumed(args: Args, table: RunTable) -> tuple[FittedLaw, str]:
    """Returns the law to assume and its source, in words."""
    if args.from_ is None:
        law = registry.by_name(args.law or "chinchilla")
        check_axes(law)
        params = None if args.assume is None else _params(args.assume)
        if params is None and args.floor is not None:
            raise InputError("--floor has the unit of the loss, typical parameters have none: give --assume or --from")
        source = "typical parameters: nothing is known yet" if params is None else f"assumed {args.assume}"
        points = design_points(table, law)
        return assume(law, params, points, known_floor=args.floor, flops_per_nd=table.flops_per_nd), source
    if args.assume is not None:
        raise InputError("--from and --assume both name the law to assume; give one")
    fitted = scaling.load(args.from_)
    for flag, given, stored in (("law", args.law, fitted.law.name), ("floor", args.floor, fitted.known_floor)):
        if given is not None and given != stored:
            raise InputError(f"--{flag} is {given} and {args.from_} has {stored}; leave the flag out")
    check_axes(fitted.law)
    return fitted, str(args.from_)


def _params(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise InputError(f"--assume is {text!r}; expected NAME=NUMBER, with commas between them") from error


def show(found: NextRuns, console: Terminal) -> None:
    """Prints advice at the terminal."""
    _show_verdict(found.verdict, console)
    if found.refused is not None:
        console.print("[yellow]refused:[/]", markup(found.refused), highlight=False)
    if found.cure is not None:
        _show_cure(found, console)
    if found.proposal is not None:
        _show_proposal(found, console)
    for warning in found.verdict.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)


def _show_verdict(verdict: Verdict, console: Terminal) -> None:
    console.print(f"{verdict.runs} runs, {verdict.law}; assumed: {markup(verdict.assumption)}", highlight=False)
    console.print(f"noise: {verdict.sigma:.3g} of log loss (one standard deviation)", highlight=False)
    table = narrow_table("", "expected of these runs (95 %)")
    for each in verdict.expected:
        table.add_row(each.name, str(each))
    console.print(table)
    if verdict.identifies:
        console.print("[green]These runs identify the law.[/]")


def _show_cure(found: NextRuns, console: Terminal) -> None:
    cured = found.cure
    if cured.note:
        console.print(markup(cured.note), highlight=False)
    head = "The cheapest two runs that cure it" if not cured.note else f"{len(cured.runs)} runs that cure it"
    console.print(f"[bold]{head if cured.cures else 'The best runs among the candidates, which do not cure it'}:[/]")
    table = narrow_table("N", "D", "FLOPs")
    for run in cured.runs:
        table.add_row(f"{run.n:.4g}", f"{run.d:.4g}", f"{run.flops:.3g}")
    table.caption = f"{cured.flops:.3g} FLOPs together"
    console.print(table)
    for assumed, expected in ((found.verdict.assumption, cured.expected), *cured.sensitivity):
        values = ", ".join(f"{e.name} {e}" for e in expected if e.factor95 is None)
        console.print(f"then expected: {values}\n  under {markup(assumed)}", highlight=False)


def _show_proposal(found: NextRuns, console: Terminal) -> None:
    proposal = found.proposal
    before = proposal.runs[0].before
    console.print(
        f"[bold]Next runs, those with most information about {proposal.quantity} per {proposal.per}[/] (now {before}):",
        highlight=False,
    )
    table = narrow_table("N", "D", "FLOPs", "together", f"then {proposal.quantity}")
    for run in proposal.runs:
        table.add_row(f"{run.n:.4g}", f"{run.d:.4g}", f"{run.flops:.3g}", f"{run.flops_total:.3g}", str(run.after))
    console.print(table)
    if proposal.note:
        console.print(proposal.note, highlight=False)
