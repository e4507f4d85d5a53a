"""Compile a run for a pod that is not here: does it fit, what does it send, how long does it compute.

    sessionrec pod --topology v5e:4x4 --mesh data=4,model=4 --items 10000000
    sessionrec pod --topology v5p:16x16x16 --slices 2 --mesh data=1024,model=8 --items 1000000000 --model.width 1024
    sessionrec pod --topology v5p:4x4x4 --mesh model=8 --items 10000000 --weak-scaling
    sessionrec pod --topology H100:32x8 --mesh data=256 --items 10000000

It takes the flags of `sessionrec train`, and needs neither a log nor an accelerator: the programs are compiled on
shapes alone, by the compiler of the chip. Nothing is measured. A program takes minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from doors.files import STDOUT, check_outputs, write_json
from doors.terminal import Terminal
from experiments.cli.devices import written_out
from experiments.cli.parsing import JsonFile, OutputFile, parse_flags
from experiments.cli.show_pod import show, weak_scaling_table
from experiments.pod import page, verdict
from experiments.pod.chips import Chip
from experiments.pod.job import PROGRAMS, Job, Shapes
from experiments.pod.launch import check_compiler, compile_job
from experiments.pod.topology import Topology, check_mesh, ladder, parse
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    topology: str
    """A slice of TPUs as CHIP:SIZES, such as v5e:4x4, v6e:16x16, v5p:16x16x16 or tpu7x:4x4x4, or NVIDIA GPUs as
    CHIP:MACHINESxGPUS, such as H100:32x8."""
    shapes: Annotated[Shapes, tyro.conf.arg(name="")] = field(default_factory=Shapes)
    slices: int = 1
    """TPU slices of this topology, connected by the data-centre network. --mesh data must be a multiple."""
    also: bool = False
    """Also compile the initial state and the evaluation."""
    weak_scaling: bool = False
    """Compile the step for slices of 16, 64, 256, 1,024 and 4,096 chips, as far as the family goes, with the same rows
    a device."""
    json: JsonFile = None
    """A file for everything that was found."""
    page: OutputFile = None
    """An HTML file with the findings and two figures: bytes sent, and milliseconds, by kind."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> int:
    command = parse_flags(Command, written_out(argv), prog="sessionrec pod", description=__doc__)
    check_outputs(command.json, command.page)
    topology = _checked(command)
    check_compiler(topology.chip)
    runs = _weak_scaling(command, topology) if command.weak_scaling else [(_title(command), _compiled(command))]
    if command.json:
        write_json(command.json, [{"slice": name, **found} for name, found in runs])
    if command.page:
        page.write(command.page, runs, topology.chip)
    if command.json != STDOUT:
        _show(command, runs, topology.chip)
    fit = all(verdict.fits(program, topology.chip) for _, found in runs for program in found["programs"].values())
    return 0 if fit else InputError.exit_code


def _show(command: Command, runs: list[tuple[str, dict[str, Any]]], chip: Chip) -> None:
    if command.weak_scaling:
        Terminal(highlight=False).print(weak_scaling_table(runs, chip))
    else:
        show(runs[0][1], chip, runs[0][0], command.config.train.microbatches)


def _checked(command: Command) -> Topology:
    """Returns the topology. Raises InputError for settings that cannot run or do not fit it."""
    check(command.config)
    topology, shapes = parse(command.topology), command.shapes
    if command.config.data.fresh != "no":
        raise InputError("--data.fresh draws sessions from a log, which a pod that is not here has not; leave it out")
    for name, came in (("--items", shapes.items), ("--rows-per-shard", shapes.rows_per_shard),
                       ("--slices", command.slices), ("--longest-session", shapes.longest_session)):  # fmt: skip
        if came < 1:
            raise InputError(f"{name} is {came}; wanted a whole number from 1")
    if command.weak_scaling and (command.slices > 1 or command.config.data.rows or command.config.mesh.data):
        raise InputError(
            "--weak-scaling chooses the devices itself, with the same rows a device; leave out --slices, --data.rows "
            "and the data of --mesh, and use --rows-per-shard"
        )
    if topology.chip.is_gpu and command.slices > 1:
        raise InputError(f"--slices {command.slices} is for TPUs; the first size of {topology.name} counts machines")
    if not command.weak_scaling:
        check_mesh(topology, command.slices, command.config.mesh)
    return topology


def _title(command: Command) -> str:
    return f"{command.slices} x {command.topology}" if command.slices > 1 else command.topology


def _compiled(command: Command) -> dict[str, Any]:
    programs = PROGRAMS if command.also else PROGRAMS[:1]
    job = Job(command.topology, command.slices, command.config, command.shapes, programs)
    with _says(f"compiling for {_title(command)}, which takes minutes"):
        return compile_job(job)


def _weak_scaling(command: Command, topology: Topology) -> list[tuple[str, dict[str, Any]]]:
    """Compiles the step for each slice of the family."""
    job = Job(command.topology, 1, replace(command.config, {"mesh.data": 0}), command.shapes)
    runs = []
    for step in ladder(topology, command.config.mesh):
        with _says(f"compiling for {step.name}"):
            runs.append((step.name, compile_job(job.on(step.name))))
    return runs


@contextmanager
def _says(text: str) -> Iterator[None]:
    """Shows the text while the block runs: on a terminal next to a moving sign, elsewhere as a line."""
    console = Terminal(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text, markup=False)
        yield
