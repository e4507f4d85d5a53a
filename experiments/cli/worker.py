"""Work on a sweep folder from any host that has it mounted, beside its other workers.

sessionrec worker SWEEP

Takes the costliest run that nobody has, and the next, until every run has a row; then it ends with 0. Any number of
workers may come and go at any time: start one a machine, or a GPU (CUDA_VISIBLE_DEVICES), by whatever starts processes:
a shell over ssh, a SLURM job array, a Kubernetes Job (parallelism N and no completions, restartPolicy OnFailure,
terminationGracePeriodSeconds 180). They need no number and no address, but the sweep folder and the log under the same
paths, on a file system with hard links (a local disk, NFS, Lustre, Filestore; no mounted bucket).

`sessionrec sweep PLAN ... --out SWEEP` writes the folder and starts such workers itself, none with --workers 0.
SIGTERM and Ctrl-C save, let the run go and end with 143 and 130; whether the worker is started again or not, the others
go on. A killed one loses the steps since its last checkpoint: another worker goes on there, at once on the same
machine, elsewhere after two minutes. One that stood still for longer than that, and lost its run, ends with 75.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.ticker import Ticker
from experiments.worker import RETRIES, work
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP")]
    """Sweep folder that `sessionrec sweep` wrote."""
    retries: int = RETRIES
    """Times that a run is tried again that failed or took its worker down, before it becomes a failed row."""
    together: int = 1
    """Most runs that a worker trains side by side in one program: those that differ in seed, learning rate or table
    prior alone. Pays where a step of one does not fill the device: small models on an accelerator, not on a CPU."""


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec worker", description=__doc__)
    for flag, value, least in (("retries", command.retries, 0), ("together", command.together, 1)):
        if value < least:
            raise InputError(f"--{flag} {value}; wanted at least {least}")
    with Ticker(command.sweep) as ticker:
        work(command.sweep, retries=command.retries, together=command.together, look=ticker.look)
    return 0
