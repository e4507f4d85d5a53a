"""Prints what `sessionrec pod` found: memory, collectives, time, and what would fit."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from doors.terminal import Terminal
from doors.text import markup
from experiments.cli.output import narrow_table
from experiments.pod import verdict
from experiments.pod.chips import Chip

_MOST_LINES = 12
_WORTH_A_WARNING_BYTES = 8e6
"""A copy of fewer bytes takes some ten microseconds, even if it is a device's whole part of a small table."""


def show(found: dict[str, Any], chip: Chip, title: str, microbatches: int) -> None:
    """Prints memory, collectives, warnings and time of a run."""
    say = Terminal(highlight=False, soft_wrap=True).print
    mesh = ", ".join(f"{name} {size}" for name, size in found["mesh"].items())
    say(f"[bold]{markup(title)}[/]   {found['devices']:,} devices ({found['device_kind']}): {mesh}")
    say(f"{found['rows']:,} rows of a batch, {found['rows_per_device']:g} a device\n")
    Terminal(highlight=False).print(_memory(found, chip))
    step = found["programs"]["step"]
    if not verdict.fits(step, chip):
        words = markup(step.get("words", ""))
        say(f"[bold red]The step does not fit.[/] {markup(verdict.advice(found, chip, microbatches))}")
        if words:
            say(words)
    if "collectives" in step:
        Terminal(highlight=False).print(_collectives(step))
        for line in (*_traffic(step, chip), *_time(found, chip)):
            say(line, markup=False)
    for warning in warnings(found, chip):
        say(f"[yellow]warning:[/] {markup(warning)}")


def _memory(found: dict[str, Any], chip: Chip) -> Table:
    shown = narrow_table(
        "memory a device, GB", "arguments", "outputs", "temporaries", "peak", f"of {chip.hbm_bytes / 1e9:g}"
    )
    for name, program in found["programs"].items():
        if "peak_bytes" in program:
            parts = [program[f"{part}_bytes"] for part in ("arguments", "outputs", "temporaries", "peak")]
        else:
            parts = [None, None, None, program["out_of_memory_bytes"]]
        word = "[green]fits[/]" if verdict.fits(program, chip) else "[red]too large[/]"
        shown.add_row(name, *("" if size is None else f"{size / 1e9:.3f}" for size in parts), word)
    return _right(shown)


def _collectives(step: dict[str, Any]) -> Table:
    shown = narrow_table(
        "the step sends", "over", "devices", "times", "MB a device", "ms at link rate", "MB outside", "source"
    )
    for each in step["collectives"][:_MOST_LINES]:
        outside = f"{each['dcn_bytes'] / 1e6:,.2f}" if each["dcn_bytes"] else ""
        times = f"{each['times']}{'+' if each['in_open_loop'] else ''}"
        shown.add_row(
            each["kind"], each["axes"], f"{each['devices']:,}", times, f"{each['sent_bytes'] / 1e6:,.2f}",
            f"{each['seconds'] * 1e3:.2f}" if each["seconds"] else "", outside, markup(each["line"] or ""),
        )  # fmt: skip
    return _right(shown, 2, 7)


def _traffic(step: dict[str, Any], chip: Chip) -> list[str]:
    sent, dcn = verdict.sent_bytes(step), verdict.sent_bytes(step, "dcn_bytes")
    left = len(step["collectives"]) - _MOST_LINES
    lines = [f"and {left} smaller kinds"] if left > 0 else []
    other = f"at least {dcn / 1e6:,.2f} MB of them go" if dcn else "nothing goes"
    outside = "other machines" if chip.is_gpu else "other slices over the data-centre network"
    lines.append(
        f"A device sends {sent / 1e6:,.1f} MB a step, {verdict.link_seconds(step) * 1e3:.3g} ms at the rates of the "
        f"links; {other} to {outside}."
    )
    if step["unknown_loops"]:
        lines.append(
            "Loops whose turns the compiler does not know count once: the exchange of rows normally takes one round "
            f"({', '.join(step['unknown_loops'])})."
        )
    return lines


def _time(found: dict[str, Any], chip: Chip) -> list[str]:
    step = found["programs"]["step"]
    share, missing = verdict.matrix_share(found, chip), step["unestimated"]
    parts = ", ".join(f"{count:,} {kind}s" for kind, count in missing.items()) or "none here"
    estimate = (
        f"XLA estimates {verdict.compute_seconds(step, chip) * 1e3:.3g} ms of compute a step. It leaves out "
        f"collectives, gathers, scatters and sorts ({parts}), so a real step takes longer."
    )
    return [
        estimate if step["cycles"] else f"The compiler of {chip.name} gives no estimate of the time to compute.",
        f"The matrix products of a step, {found['flops']:.3g} FLOPs, take "
        f"{verdict.matrix_seconds(found, chip) * 1e3:.3g} ms at the chips' peak: at most {share:.1%} of compute and "
        "links together. More rows a device raise the share.",
    ]


def warnings(found: dict[str, Any], chip: Chip) -> list[str]:
    """Returns a sentence for each copy of an array as large as a device's part of an item table, if it takes time."""
    lines, narrow = [], found["id_width"] % chip.lanes
    moves = [(name, move) for name, program in found["programs"].items() for move in program.get("moves", [])]
    moves = [(name, move) for name, move in moves if move["bytes"] >= _WORTH_A_WARNING_BYTES]
    for name, move in moves:
        at = f", made by {move['line']}" if move["line"] else ""
        times = f", {move['times']} times a run" if move["times"] > 1 else ""
        way = " to or from on-chip memory" if move["on_chip"] else ""
        lines.append(
            f"the {name} has a {move['kind']}{way} of {move['bytes'] / 1e6:,.1f} MB, as large as a device's part of an "
            f"item table ({move['name']}{at}){times}"
        )
    if narrow and not all(move["on_chip"] for _, move in moves):
        lines.append(
            f"{chip.name} keeps rows narrower than {chip.lanes} numbers in another order than it reads them; "
            f"--model.id-width {found['id_width'] - narrow + chip.lanes} needs no such copy"
        )
    return lines


def weak_scaling_table(runs: list[tuple[str, dict[str, Any]]], chip: Chip) -> Table:
    """Returns one row for each slice, at the same rows a device."""
    heads = ("slice", "devices", "mesh", "rows", "peak GB", "temporaries GB", "MB sent", "link ms", "compute ms")
    shown = narrow_table(*heads, "matrix units")
    for name, found in runs:
        step, mesh = found["programs"]["step"], "x".join(map(str, found["mesh"].values()))
        start = (name, f"{found['devices']:,}", mesh, f"{found['rows']:,}")
        if "peak_bytes" not in step:
            needed = verdict.needed_bytes(step)
            shown.add_row(*start, "too large" if needed is None else f"{needed / 1e9:.2f}, too large")
            continue
        compute = verdict.compute_seconds(step, chip)
        shown.add_row(
            *start, f"{step['peak_bytes'] / 1e9:.3f}", f"{step['temporaries_bytes'] / 1e9:.3f}",
            f"{verdict.sent_bytes(step) / 1e6:,.1f}", f"{verdict.link_seconds(step) * 1e3:.2f}",
            f"{compute * 1e3:.2f}" if compute else "", f"{verdict.matrix_share(found, chip):.1%}",
        )  # fmt: skip
    return _right(shown)


def _right(table: Table, first: int = 1, last: int | None = None) -> Table:
    for column in table.columns[first:last]:
        column.justify = "right"
    return table
