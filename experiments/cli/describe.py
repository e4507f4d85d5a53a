"""Show the facts of a prepared folder: users, sessions, clicks, splits, padding.

sessionrec describe DATA
sessionrec describe DATA --check --json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

import sessionrec_jax as sr
from doors.files import STDOUT, check_outputs, write_json
from doors.terminal import Terminal, say
from doors.text import markup
from experiments.cli.parsing import JsonFile, parse_flags
from sessionrec_jax.data import soundness
from sessionrec_jax.data.preparation.card import lines


@dataclass(frozen=True)
class Command:
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The prepared folder that `sessionrec prepare` wrote."""
    check: bool = False
    """Read every file again and compare its checksum with that of the preparation."""
    json: JsonFile = None
    """Write the card with the distributions that card.html shows to this file."""


def main(argv: list[str]) -> None:
    command = parse_flags(Command, argv, prog="sessionrec describe", description=__doc__)
    check_outputs(command.json)
    log = sr.open_log(command.data)
    if command.check:
        log.arrays()
        say(f"{command.data}: {soundness.check_bytes(log.path)}")
    if command.json is not None:
        write_json(command.json, log.card())
    if command.json != STDOUT:
        Terminal(highlight=False).print(summary(log))


def summary(log: sr.Prepared) -> Table:
    """Returns the card as a table for the terminal."""
    table = Table(
        title=markup(log.address or log.path), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    for name, text in lines(log.card()).items():
        table.add_row(f"[bold]{name}[/]", markup(text))
    return table
