"""Train one model on a prepared log and write its row.

    sessionrec train DATA --out RUN --model.width 128 --model.layers 4
    sessionrec train DATA --out RUN --config settings.toml --train.seed 1
    sessionrec train DATA --out RUN --mesh data=4,model=2 --log-to tensorboard
    sessionrec train s3://BUCKET/DATA --out s3://BUCKET/RUN
    srun sessionrec train DATA --out RUN --hosts auto
    sessionrec train DATA --out RUN --hosts coordinator=10.0.0.1:8476,count=2,index=0  # index=1 on the other host

The same command resumes a run that was stopped. SIGTERM and Ctrl-C save first; a second one ends the command at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

import sessionrec_jax as sr
from doors.address import address_of, shown
from doors.files import typed_path
from doors.private import check_compile_cache
from experiments.cli.devices import written_out
from experiments.cli.evaluate import print_metrics
from experiments.cli.parsing import Quiet, parse_flags
from experiments.watch.live import check_installed, mirrored_while
from sessionrec_jax.config.rules import check_hosts
from sessionrec_jax.config.settings import Config, Hosts
from sessionrec_jax.config.settings_file import read_settings
from sessionrec_jax.config.values import run_id
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    data_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="DATA", metavar="DATA")]
    """The prepared log, a folder that `sessionrec prepare` wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run folder. It gets config.json, metrics.jsonl, checkpoints/ and row.json."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """A file of settings (TOML, YAML, JSON) or a run folder. Flags win over it. `sessionrec config` prints a file."""
    hosts: Hosts = field(default_factory=Hosts)
    log_to: Literal["tensorboard", "wandb"] | None = None
    """Show the curves while the run trains, as `sessionrec watch RUN --to ... --follow` does from another terminal. A
    fault of the other program is reported, and the run goes on."""
    quiet: Quiet = False
    """Show no progress."""


def main(argv: list[str]) -> int:
    words = written_out(argv)
    start = Command(data_path=tyro.MISSING, out=tyro.MISSING, config=_settings_of_file(words))
    command = parse_flags(Command, words, prog="sessionrec train", description=__doc__, default=start)
    check_hosts(command.hosts)
    check_compile_cache()
    check_installed(command.log_to)
    if command.log_to and address_of(command.out):
        raise InputError(f"--log-to reads RUN while it grows, and {shown(command.out)} is in a bucket; name a folder")
    from sessionrec_jax.devices.processes import is_process_zero, joined  # starts jax, which --help need not wait for

    with joined(command.hosts, f"{command.out.name} {run_id(command.config)}"):
        log_to = command.log_to if is_process_zero() else None
        with mirrored_while(command.out, log_to):
            run = sr.train(command.data_path, command.out, command.config, quiet=command.quiet)
        if is_process_zero():
            print_metrics(run.row, f"{shown(command.out)}, held-out sessions")
    return 0


def _settings_of_file(argv: Sequence[str]) -> Config:
    """Returns the settings of --config, to which the flags are changes. What its run took from its log is left out."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=typed_path)
    try:
        path = parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError:
        raise InputError("--config names no file; wanted --config FILE, such as --config settings.toml") from None
    if path is None:
        return Config()
    from sessionrec_jax.data.resolve import without_facts_of_log  # starts jax, which --help need not wait for

    return without_facts_of_log(read_settings(path))
