"""Turn a published log, any table, or the known-truth process into a prepared folder.

sessionrec prepare kuairand SRC --out DATA
sessionrec prepare table --exposures 'logs/*.parquet' --user user_id --item item_id --time ts --clicked label --out DATA
sessionrec prepare recflow SRC --out DATA --beam runner=FlinkRunner flink_master=HOST:8081
sessionrec prepare synthetic --users 20000 --alpha 0.5 --seed 1 --out DATA
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from rich.console import Console

from experiments.cli.describe import summary
from sessionrec_jax.data.preparation.atomic_folder import partial_path
from sessionrec_jax.data.preparation.beam import Beam
from sessionrec_jax.data.preparation.prepare import Settings, check_out, prepare
from sessionrec_jax.errors import InputError
from sessionrec_jax.registry import SOURCES

Options = TypeVar("Options")

ROWS_A_CALL = 20_000_000
"""Of the log, read by a worker of Beam at a time."""


@dataclass(frozen=True)
class Command(Generic[Options]):
    source: Annotated[Options, tyro.conf.arg(name="")]
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    out: Path
    """The prepared folder to write; it appears when all is done."""
    overwrite: bool = False
    """Replace a prepared folder that is there already, when all is done."""
    beam: tuple[str, ...] = ()
    """Prepare on many machines through Apache Beam, with these options of its runner. Left out: on this one."""


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nsources: {', '.join(SOURCES)}; `sessionrec prepare SOURCE --help` explains the options")
        if not argv:
            raise InputError(f"which source? wanted one of {', '.join(SOURCES)}")
        return
    source = SOURCES.find(argv[0])
    command = tyro.cli(
        Command[source.Options],
        args=argv[1:],
        prog=f"sessionrec prepare {source.NAME}",
        description=source.TITLE,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    progress = Console(stderr=True, highlight=False)
    check_out(command.out, command.overwrite)
    raw = source.read(command.source)
    how = {}
    if command.beam:
        how = {"engine": Beam(command.beam, partial_path(command.out)), "piece_rows": ROWS_A_CALL}
    prepared = prepare(raw, command.out, command.settings, overwrite=command.overwrite, say=progress.print, **how)
    Console(highlight=False).print(summary(prepared))
