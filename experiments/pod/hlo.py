"""Finds in the text of a compiled program what it sends and copies, and how long XLA expects it to compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.pod.groups import Layout, group_across_slices, groups_of
from experiments.pod.hlo_text import Instruction, Program, memory_of, parse, shape_bytes, sizes_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")  # fmt: skip
_MOVES = ("copy", "copy-start", "transpose", "convert")
_HOST_MOVES = ("send", "recv", "infeed", "outfeed")
_UNESTIMATED = 1e15
"""XLA writes an absurd number of cycles where it has given up."""
_BLIND = ("gather", "scatter", "sort")


class Collective(NamedTuple):
    """All collectives of one kind, group and source line."""

    kind: str
    axes: str
    """The mesh axes over which it goes, such as `data,model`."""
    devices: int
    """Devices of one group."""
    times: int
    sent_bytes: float
    """Bytes that one device sends in a step."""
    dcn_bytes: float
    """The part of them that must at least leave the slice (TPU) or the machine (GPU)."""
    seconds: float
    """Time to send them at the rate of the links: within a slice in both directions of each dimension of the network
    that the group spans, then `dcn_bytes` over the network between slices or machines."""
    line: str | None
    in_open_loop: bool
    """True if it is in a loop whose turns are unknown; it counts once."""


class Links(NamedTuple):
    """The rates of a chip (chips.py), in bytes a second."""

    link: float
    """One direction of one link."""
    network: float
    """To other slices or machines."""


class Part(NamedTuple):
    """A device's part of the largest item table."""

    rows: int
    bytes: float


class Move(NamedTuple):
    """A copy of an array as large as a device's part of an item table, also one into another type."""

    kind: str
    name: str
    bytes: float
    times: int
    line: str | None
    on_chip: bool
    """True if it only goes between the memory and the on-chip memory, where XLA updates an array that fits."""


class Findings(NamedTuple):
    """The facts that the text of a program gives."""

    collectives: list[Collective]
    moves: list[Move]
    unknown_loops: list[str]
    """The source lines of the loops that count once."""
    cycles: float
    """XLA's estimate; it leaves out collectives, gathers, scatters and sorts."""
    unestimated: dict[str, int]
    """Operations without an estimate, by what they do."""

    def to_dict(self) -> dict[str, Any]:
        own = self._asdict()
        return own | {name: [each._asdict() for each in own[name]] for name in ("collectives", "moves")}


def read(text: str, layout: Layout, *, table: Part, links: Links) -> Findings:
    """Returns the findings of a scheduled program."""
    program = parse(text)
    cycles, unestimated = _cycles(program)
    return Findings(
        sorted(_collectives(program, layout, links), key=lambda each: -each.sent_bytes),
        _moves(program, table),
        sorted({program.line_of(loop) or loop.name for loop in program.unknown_loops}),
        cycles,
        unestimated,
    )


def sent_bytes(kind: str, operand_bytes: float, devices: int) -> float:
    """Returns the bytes that a device sends in the algorithm that sends least: an all-reduce is a reduce-scatter and an
    all-gather, and nothing is sent to the device itself."""
    others = (devices - 1) / devices
    factors = {"all-reduce": 2 * others, "all-gather": devices - 1, "reduce-scatter": others, "all-to-all": others,
               "ragged-all-to-all": others}  # fmt: skip
    return operand_bytes * factors.get(kind, 1.0)


def dcn_bytes(kind: str, operand_bytes: float, devices: int, slices: int) -> float:
    """Returns the least bytes that a device sends to other slices: the devices of a slice first add up or share what
    they have, so that each array crosses once for each other slice."""
    if slices == 1:
        return 0.0
    others, own = (slices - 1) / slices, devices / slices
    factors = {"all-reduce": 2 * others / own, "reduce-scatter": others / own, "all-gather": slices - 1,
               "all-to-all": others, "ragged-all-to-all": others}  # fmt: skip
    return operand_bytes * factors.get(kind, 1.0)


def _each(program: Program) -> Iterator[tuple[str, int, Instruction]]:
    for name, times in program.times.items():
        for instruction in program.computations.get(name, ()):
            yield name, times, instruction


def _collectives(program: Program, layout: Layout, links: Links) -> list[Collective]:
    found: dict[tuple[Any, ...], Collective] = {}
    stages: set[tuple[str | None, str]] = set()
    open_loops = _inside(program, [name for loop in program.unknown_loops for _, name in loop.called()])
    devices = math.prod(size for _, size in layout.axes)
    for computation, times, each in _each(program):
        across = each.found(r'_xla_megascale_transfer_type="(\w+)"') if each.kind == "send" else None
        kind = across.lower().replace("_", "-") if across else each.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        if computation in program.fused:
            # An asynchronous collective has one fusion for each of its stages, and its text in all of them.
            stage = (each.found(r"channel_id=(\d+)"), kind)
            if stage in stages:
                continue
            stages.add(stage)
            kind = "reduce-scatter" if kind == "all-reduce" and program.is_cut(computation, each) else kind
        types = {other.name: other.type for other in program.computations[computation]}
        operand = sum(shape_bytes(types.get(name, "")) for name in each.operands)
        groups = [group_across_slices(each.text, layout)] if across else groups_of(each.text, devices)
        group, slices = groups[0], max(layout.slices_of(group) for group in groups)
        sent, dcn = sent_bytes(kind, operand, len(group)), dcn_bytes(kind, operand, len(group), slices)
        within = 0.0 if across else (sent - dcn) / (layout.links_of(group) * links.link)
        seconds = within + dcn / links.network
        line = program.line_of(each) or each.found(r'_xla_host_transfer_rendezvous="([\w\-]+)')
        new = Collective(
            kind, ",".join(layout.axes_of(group)) or "none", len(group), times, times * sent, times * dcn,
            times * seconds, line, computation in open_loops,
        )  # fmt: skip
        key = (kind, new.axes, len(group), slices, new.line, new.in_open_loop)
        found[key] = _added(found[key], new) if key in found else new
    return list(found.values())


def _added(one: Collective, other: Collective) -> Collective:
    summed = ("times", "sent_bytes", "dcn_bytes", "seconds")
    return one._replace(**{name: getattr(one, name) + getattr(other, name) for name in summed})


def _inside(program: Program, names: list[str]) -> set[str]:
    """Returns the computations that `names` call, with themselves."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names += [called for each in program.computations.get(name, ()) for _, called in each.called()]
    return found


def _moves(program: Program, table: Part) -> list[Move]:
    """Returns copies and host transfers of arrays that have every row of a device's part of an item table, and at least
    half its bytes (a table may be copied in bfloat16)."""
    found = []
    for computation, times, each in _each(program):
        kind = each.kind
        is_move = (kind in _MOVES and computation not in program.fused) or (
            kind in _HOST_MOVES and "_xla_megascale" not in each.text
        )
        if is_move or (kind == "fusion" and _is_only_copy(program, each)):
            types = {other.name: other.type for other in program.computations[computation]}
            moved = [types.get(name, "") for name in each.operands]
            size = max((shape_bytes(text) for text in moved if table.rows in sizes_of(text)), default=0.0)
            if size >= table.bytes / 2:
                on_chip = kind in ("copy", "copy-start") and _changes_memory_alone(moved[0], each.type)
                found.append(Move(kind.removesuffix("-start"), each.name, size, times, program.line_of(each), on_chip))
    return sorted(found, key=lambda move: -move.bytes)


def _changes_memory_alone(old: str, new: str) -> bool:
    """Returns True if the first arrays of two types are in different memories and have the same layout."""
    (old_order, old_memory), (new_order, new_memory) = memory_of(old), memory_of(new)
    return old_order == new_order and old_memory != new_memory


def _is_only_copy(program: Program, fusion: Instruction) -> bool:
    inside = _fused_kinds(program, fusion)
    return bool(inside & set(_MOVES)) and inside <= {*_MOVES, "bitcast", "parameter"}


def _cycles(program: Program) -> tuple[float, dict[str, int]]:
    """Returns XLA's cycles of everything outside fusions, which carry the cycles of what is in them, and how many
    operations of each kind have none."""
    cycles, missing = 0.0, Counter()
    for computation, times, each in _each(program):
        if computation in program.fused:
            continue
        estimate = each.found(r'"estimated_cycles":"(\d+)"')
        if estimate and float(estimate) < _UNESTIMATED:
            cycles += times * float(estimate)
        else:
            inside = {each.kind, *_fused_kinds(program, each)}
            missing.update({kind: times for kind in _BLIND if kind in inside})
    return cycles, dict(missing)


def _fused_kinds(program: Program, each: Instruction) -> set[str]:
    """Returns the kinds of the instructions of a fusion; none for anything else."""
    called = [name for _, name in each.called()] if each.kind == "fusion" else []
    return {other.kind for name in called for other in program.computations.get(name, ())}
