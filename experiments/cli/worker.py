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

from experiments.sweep.ticker import Ticker
from experiments.sweep.worker import work
from experiments.sweep.worker_options import DEFAULT_OPTIONS, WorkerOptions


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP")]
    """Sweep folder that `sessionrec sweep` wrote."""
    options: Annotated[WorkerOptions, tyro.conf.arg(name="")] = DEFAULT_OPTIONS


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec worker", description=__doc__)
    command.options.check()
    with Ticker(command.sweep) as ticker:
        work(command.sweep, options=command.options, refresh=ticker.refresh)
    return 0
