"""Train one model on a prepared log and write its row.

sessionrec train DATA --out RUN --model.width 128 --model.layers 4
sessionrec train DATA --out RUN --mesh data=4,model=2
srun sessionrec train DATA --out RUN --hosts auto
sessionrec train DATA --out RUN --hosts coordinator=10.0.0.1:8476,count=2,index=0   # and index=1 on the other machine

The same command resumes a run that was stopped. SIGTERM and Ctrl-C save first; a second one ends the command at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

import sessionrec_jax as sr
from doors.private import check_compile_cache
from experiments.cli.devices import written_out
from experiments.cli.evaluate import print_metrics
from sessionrec_jax.config.rules import check_hosts
from sessionrec_jax.config.settings import Config, Hosts
from sessionrec_jax.config.values import run_id


@dataclass(frozen=True)
class Command:
    data_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="DATA")]
    """The prepared log, a folder that `sessionrec prepare` wrote."""
    out: Path
    """The run folder. It gets config.json, metrics.jsonl, checkpoints/ and row.json."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    hosts: Hosts = field(default_factory=Hosts)


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=written_out(argv), prog="sessionrec train", description=__doc__)
    check_hosts(command.hosts)
    check_compile_cache()
    from sessionrec_jax.devices.processes import is_process_zero, joined  # starts jax, which --help need not wait for

    with joined(command.hosts, f"{command.out.name} {run_id(command.config)}"):
        run = sr.train(command.data_path, command.out, command.config)
        if is_process_zero():
            print_metrics(run.row, f"{command.out}, held-out sessions")
    return 0
