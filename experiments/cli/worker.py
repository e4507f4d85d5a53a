"""Work on a sweep folder from any host that mounts it, together with its other workers.

    sessionrec worker SWEEP
    CUDA_VISIBLE_DEVICES=1 sessionrec worker SWEEP

A worker takes the costliest run that nobody holds, then the next, until every run has a row. It then exits with 0.
Workers may come and go at any time. Start one for each machine or each GPU (CUDA_VISIBLE_DEVICES) by any means: ssh, a
SLURM job array, a Kubernetes Job (parallelism N and no completions, restartPolicy OnFailure,
terminationGracePeriodSeconds 180). A worker needs no number and no address. It needs the sweep folder and the log
under the same paths as the others, on a file system with hard links (a local disk, NFS, Lustre, Filestore; no mounted
bucket), or in a bucket by their addresses (s3://BUCKET/SWEEP).

`sessionrec sweep PLAN ... --out SWEEP` writes the folder and starts workers itself; with --workers 0 it starts none.
SIGTERM and Ctrl-C save, release the run and exit with 143 and 130; the other workers continue. A killed worker loses
the steps since its last checkpoint. Another worker resumes the run there: at once on the same machine, after two
minutes on another one. A worker that hung for longer than that, and so lost its run, exits with 75.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from doors.storage import copies
from experiments.cli.parsing import Quiet, parse_flags
from experiments.sweep.ticker import Ticker
from experiments.sweep.worker import work
from experiments.sweep.worker_options import DEFAULT_OPTIONS, WorkerOptions


@dataclass(frozen=True)
class Command:
    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="SWEEP", metavar="SWEEP")]
    """The sweep folder that `sessionrec sweep` wrote, or its address in a bucket."""
    options: Annotated[WorkerOptions, tyro.conf.arg(name="")] = DEFAULT_OPTIONS
    quiet: Quiet = False
    """Show no progress, and of the rows only those of runs that went wrong."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec worker", description=__doc__)
    command.options.check()
    sweep_dir = copies.for_reading(command.sweep, copies.for_workers)
    with Ticker(sweep_dir, quiet=command.quiet) as ticker:
        work(sweep_dir, options=command.options, refresh=ticker.refresh)
    return 0
