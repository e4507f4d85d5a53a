"""Turn a published log, any table, or the known-truth process into a prepared folder.

sessionrec prepare kuairand SRC --out DATA
sessionrec prepare table --exposures 'logs/*.parquet' --user user --item item --time ts --clicked label --out DATA
sessionrec prepare recflow SRC --out DATA --beam runner=FlinkRunner flink_master=HOST:8081
sessionrec prepare synthetic --users 20000 --alpha 0.5 --seed 1 --out DATA
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

import sessionrec_jax as sr
from doors.terminal import Terminal
from experiments.cli.describe import summary
from experiments.cli.parsing import HELP_ALL, Quiet, parse_flags
from sessionrec_jax.data.preparation.prepare import Settings
from sessionrec_jax.data.sources.by_table import BY_TABLE
from sessionrec_jax.errors import InputError
from sessionrec_jax.registry import SOURCES

Options = TypeVar("Options")


@dataclass(frozen=True)
class Command(Generic[Options]):
    source: Annotated[Options, tyro.conf.arg(name="")]
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(metavar="DATA")]
    """The prepared folder to write, or its address in a bucket. It appears when it is complete."""
    overwrite: bool = False
    """Replace a prepared folder that is already there, once the new one is complete."""
    beam: tuple[str, ...] = ()
    """Prepare on many machines through Apache Beam, with these options of its runner. The default is this machine."""
    quiet: Quiet = False
    """Show no progress."""


def main(argv: list[str]) -> None:
    names = ", ".join(SOURCES)
    if not argv:
        raise InputError(f"which source? expected one of {names}; `sessionrec prepare --help` has examples")
    if argv[0] in ("-h", "--help", HELP_ALL):
        print(f"{__doc__}\nsources: {names}; `sessionrec prepare SOURCE --help` explains the options")
        return
    name, *rest = argv
    if name in BY_TABLE:
        raise InputError(
            f"{name} is read by the source table, after a few lines of Polars; `sessionrec sources` prints both"
        )
    source = SOURCES.find(name)
    command = parse_flags(
        Command[source.Options],
        rest,
        prog=f"sessionrec prepare {name}",
        description=source.TITLE,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    options = _values(command.source) | _values(command.settings)
    log = sr.prepare(
        name, out=command.out, overwrite=command.overwrite, beam=command.beam, quiet=command.quiet, **options
    )
    Terminal(highlight=False).print(summary(log))


def _values(options: Any) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(options)}
