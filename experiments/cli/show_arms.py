"""Prints the comparison of arms at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.fit_arms import Arms
from experiments.cli.output import narrow_table
from scaling.arms.compare import ArmsFit
from scaling.arms.multiplier import BEYOND, AtCost, Crossing, Versus
from scaling.arms.sentences import percent, sentences, times
from scaling.table.rules import by_rule


def show_arms(found: ArmsFit, others: Sequence[Versus], arms: Arms, console: Terminal) -> None:
    """Prints the answer in sentences, the parameters of each arm, and each arm against the first one."""

    def line(text: str) -> None:
        console.print(text, highlight=False)

    for sentence in sentences(found, others):
        line(f"[bold]{markup(sentence)}[/]")
    runs = ", ".join(f"{arm.name} {arm.runs}" for arm in found.arms)
    line(f"{found.law.formula}   {found.law.name}; runs: {markup(runs)}; {found.pairs}")
    for where, excluded in arms.left_out.items():
        for rule, count in by_rule(excluded).items():
            line(f"{count} left out {markup(where)}: {markup(rule)}")
    Terminal(highlight=False).print(_parameters(found))
    if found.equal is not None:
        table = narrow_table("difference", r"value  \[95 %]")
        for name, value in found.equal.differences.items():
            table.add_row(markup(name), markup(str(value)))
        table.caption = f"with common exponents the objective is {found.equal.objective_ratio:.4g} times that without"
        Terminal(highlight=False).print(table)
    for one in others:
        Terminal(highlight=False).print(_along(found, one))
        line(markup(_crossing(one.crossing, found.cost)))
    for warning in found.warnings:
        console.print("[yellow]warning:[/]", markup(warning), highlight=False)


def _parameters(found: ArmsFit) -> Table:
    table = narrow_table("", *(markup(arm.name) for arm in found.arms))
    for name in found.arms[0].params:
        mark = "  (shared)" if name in found.shared else ""
        table.add_row(name + mark, *(markup(str(arm.params[name])) for arm in found.arms))
    return table


def _along(found: ArmsFit, one: Versus) -> Table:
    first, what = markup(found.arms[0].name), "FLOPs" if found.cost == "C" else "data"
    heads = (f"{markup(one.arm)} needs", f"its {markup(found.response)}, of {first}'s", "better with probability")
    table = narrow_table(found.cost, *heads)
    for at in (*one.along, one.beyond):
        table.add_row(f"{at.cost:.3g}", *map(markup, _cells(at)))
    table.caption = f"needs: times the {what} of {first} for its loss. The last line is {BEYOND:g} times past the runs."
    return table


def _cells(at: AtCost) -> tuple[str, str, str]:
    return times(at.multiplier), percent(at.difference), "-" if at.better is None else f"{at.better:.3f}"


def _crossing(crossing: Crossing, cost: str) -> str:
    at = f"The curves cross at {cost} {crossing.cost}" if crossing.cost.value is not None else "The curves do not cross"
    if crossing.within_data is None or crossing.to_beyond is None:
        return at + "."
    return (
        f"{at}; they cross within the data of both with probability {crossing.within_data:.2g}, and up to {BEYOND:g} "
        f"times past them with {crossing.to_beyond:.2g}."
    )
