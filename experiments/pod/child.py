"""The child process: reads a job as JSON from stdin, compiles its programs, and writes what it found to a file.

python -m experiments.pod.child ANSWER < job.json

launch.py starts it, with the environment that a topology needs. The answer is {"found": ...}, or {"error": ...} for
input that the user can put right.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.pod import hlo
from experiments.pod.groups import Layout
from experiments.pod.job import Job
from experiments.pod.programs import Programs
from experiments.pod.topology import devices_of, parse
from sessionrec_jax.errors import InputError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(argv: list[str]) -> int:
    job = Job.from_dict(json.load(sys.stdin))
    try:
        answer: dict[str, Any] = {"found": found(job, devices_of(parse(job.topology), job.slices))}
    except InputError as error:
        answer = {"error": str(error)}
    Path(argv[0]).write_text(json.dumps(answer))
    return 0


def found(job: Job, devices: Sequence[Any]) -> dict[str, Any]:
    """Compiles the programs of a job for these devices. Returns the facts of the run, and of each program."""
    programs = Programs(job, devices)
    mesh = programs.mesh
    return {
        "devices": mesh.size,
        "device_kind": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "rows": programs.config.data.rows,
        "id_width": programs.spec.model.id_width,
        "rows_per_device": programs.config.data.rows / mesh.size,
        "flops": programs.flops,
        "state_bytes": programs.state_bytes,
        "programs": {name: _compiled(programs, name, job) for name in job.programs},
    }


def _compiled(programs: Programs, name: str, job: Job) -> dict[str, Any]:
    """Returns memory, traffic and time of one program; `out_of_memory_bytes` alone if the compiler refused it."""
    start = time.perf_counter()
    lowered = programs.lower(name)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"out_of_memory_bytes": used_bytes(str(error)), "words": _first_line(str(error))}
    chip = parse(job.topology).chip
    links = hlo.Links(chip.link_bytes_per_second, chip.network_bytes_per_second)
    findings = hlo.read(compiled.as_text(), Layout.of(programs.mesh), table=programs.table, links=links)
    return _memory(compiled) | findings.to_dict() | {"compile_seconds": time.perf_counter() - start}


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes of one device. Outputs that take the place of an argument are not counted again."""
    plan = compiled.memory_analysis()
    outputs = plan.output_size_in_bytes - plan.alias_size_in_bytes
    sizes = {"arguments": plan.argument_size_in_bytes, "outputs": outputs, "temporaries": plan.temp_size_in_bytes,
             "code": plan.generated_code_size_in_bytes}  # fmt: skip
    return {f"{name}_bytes": size for name, size in sizes.items()} | {"peak_bytes": sum(sizes.values())}


def used_bytes(words: str) -> float | None:
    """Returns the bytes that a refused program needs at least, from the compiler's words."""
    match = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", words)
    return float(match[1]) * _UNITS[match[2]] if match else None


def _first_line(words: str) -> str:
    return words.strip().splitlines()[0][:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
