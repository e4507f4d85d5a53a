"""Reads the text of a compiled XLA program: its computations, how often each runs, and the source line of each
instruction.

A computation that a loop calls counts as often as the loop turns. A loop whose number of turns the text does not give,
such as the rounds of an exchange of rows, counts once. Every branch of a conditional counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

_ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
    "u64": 8, "f64": 8, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")


def shape_bytes(text: str) -> float:
    """Returns the bytes of all arrays in the text of a type."""
    shapes = (match.groups() for match in _SHAPE.finditer(text))
    return sum(_ITEM_BYTES.get(kind, 0) * math.prod(map(int, filter(None, sizes.split(",")))) for kind, sizes in shapes)


def sizes_of(text: str) -> set[int]:
    """Returns the dimensions of all arrays in the text of a type."""
    return {int(size) for _, sizes in _SHAPE.findall(text) for size in sizes.split(",") if size}


def memory_of(text: str) -> tuple[str, str]:
    """Returns the order of the dimensions of the first array in the text of a type, and its memory: "0" is the large
    one. In `f32[16,100]{1,0:T(8,128)S(1)}` they are "1,0" and "1"."""
    layout = re.search(r"\{([\d,]*)([^}]*)\}", text)
    memory = re.search(r"S\((\d+)\)", layout[2]) if layout else None
    return layout[1] if layout else "", memory[1] if memory else "0"


@dataclass(frozen=True)
class Instruction:
    """One instruction: `%name = type kind(operands), attributes`."""

    name: str
    type: str
    kind: str
    operands: tuple[str, ...]
    text: str
    """Everything after `kind(`."""

    def called(self) -> list[tuple[str, str]]:
        """Returns the computations that it calls, each with its role."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.text)
        names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
        return _CALLED.findall(self.text) + [("branch", name) for name in names]

    def found(self, pattern: str) -> str | None:
        """Returns the first group of `pattern` in the text after `kind(`."""
        match = re.search(pattern, self.text)
        return match[1] if match else None


@dataclass
class Program:
    """The computations of a program."""

    entry: str = ""
    computations: dict[str, list[Instruction]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    """`file.py:line` of each number of a stack frame."""

    @cached_property
    def fused(self) -> set[str]:
        """The computations that a fusion calls; the fusion is one operation of the device."""
        every = (each for instructions in self.computations.values() for each in instructions)
        return {name for each in every if each.kind == "fusion" for _, name in each.called()}

    @cached_property
    def _runs(self) -> tuple[Counter[str], list[Instruction]]:
        times: Counter[str] = Counter()
        unknown: list[Instruction] = []

        def visit(name: str, count: int) -> None:
            times[name] += count
            for each in self.computations.get(name, ()):
                turns = 1
                if each.kind == "while":
                    known = self.turns(each)
                    unknown.extend([each] if known is None and each not in unknown else [])
                    turns = 1 if known is None else known
                for _, called in each.called():
                    visit(called, count * turns)

        visit(self.entry, 1)
        return times, unknown

    @property
    def times(self) -> Counter[str]:
        """The number of times that each computation runs."""
        return self._runs[0]

    @property
    def unknown_loops(self) -> list[Instruction]:
        """The loops that count once, because the text does not say how often they turn."""
        return self._runs[1]

    def turns(self, loop: Instruction) -> int | None:
        """Returns the turns of a loop, None if unknown: what XLA has written down, or the constant of a condition
        `i < N`, which is what lax.scan and fori_loop become (i begins at 0)."""
        if known := loop.found(r'known_trip_count"?:\s*\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations.get(dict(loop.called()).get("condition", ""), [])
        inside = [other for each in condition for _, name in each.called() for other in self.computations.get(name, ())]
        compares = [each for each in (*condition, *inside) if "direction=LT" in each.text]
        constants = [each.text.partition(")")[0] for each in (*condition, *inside) if each.kind == "constant"]
        numbers = [text for text in constants if text.isdecimal()]
        return int(numbers[0]) if len(compares) == 1 and len(numbers) == 1 else None

    def is_cut(self, computation: str, each: Instruction) -> bool:
        """Returns True if its computation reads only slices of what `each` returns: a TPU's all-reduce-scatter is a
        fusion of an all-reduce and of the slices that a device keeps, and sends no more than them."""
        readers = [other for other in self.computations[computation] if each.name in other.operands]
        of_tuple = [self.is_cut(computation, other) for other in readers if other.kind == "get-tuple-element"]
        return bool(readers) and all(of_tuple) and {x.kind for x in readers} <= {"get-tuple-element", "dynamic-slice"}

    def line_of(self, instruction: Instruction) -> str | None:
        """Returns the source line that made the instruction, as `file.py:line`."""
        if frame := instruction.found(r"stack_frame_id=(\d+)"):
            return self.lines.get(frame)
        file, line = instruction.found(r'source_file="([^"]*)"'), instruction.found(r"source_line=(\d+)")
        return f"{_short(file)}:{line}" if file and line else None


def parse(text: str) -> Program:
    """Returns the program of a compiled program's `as_text()`."""
    program, current = Program(lines=_frames(text)), None
    for line in text.splitlines():
        if current is None:
            if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                current = match[2]
                program.computations[current] = []
                program.entry = current if match[1] else program.entry
        elif line.startswith("}"):
            current = None
        elif instruction := _instruction(line):
            program.computations[current].append(instruction)
    return program


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", line)
    if match is None:
        return None
    rest = line[match.end() :]
    end = _closed(rest) if rest.startswith("(") else rest.index(" ")
    kind, _, text = rest[end:].lstrip().partition("(")
    operands = text[: _closed("(" + text) - 1]
    return Instruction(match[1], rest[:end], kind, tuple(re.findall(r"%([\w.\-]+)", operands)), text)


def _closed(text: str) -> int:
    """Returns the index after the parenthesis that closes the first one, which `text` begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _frames(text: str) -> dict[str, str]:
    """Returns the source line of each stack frame, from the tables at the head of the text."""
    files = dict(re.findall(r'^(\d+) "([^"]*)"$', text.partition("FunctionNames")[0], re.MULTILINE))
    locations = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", text, re.MULTILINE)
    lines = {number: f"{_short(files.get(file, '?'))}:{line}" for number, file, line in locations}
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", text, re.MULTILINE)
    return {number: lines[location] for number, location in frames if location in lines}


def _short(path: str) -> str:
    """Returns the last two parts of a path, such as training/step.py."""
    return "/".join(path.split("/")[-2:])
