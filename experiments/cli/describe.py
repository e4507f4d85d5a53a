"""Say what a prepared folder holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from sessionrec_jax.data.preparation.card import lines
from sessionrec_jax.data.store import Prepared, open_log


@dataclass(frozen=True)
class Command:
    data: tyro.conf.Positional[Path]
    """A folder that `sessionrec prepare` wrote."""
    json: bool = False
    """Print the card as JSON: the numbers, and the distributions that card.html shows."""


def main(argv: list[str]) -> None:
    command = tyro.cli(Command, args=argv, prog="sessionrec describe", description=__doc__)
    prepared = open_log(command.data)
    if command.json:
        print(json.dumps(prepared.card(), indent=1))
    else:
        Console(highlight=False).print(summary(prepared))


def summary(prepared: Prepared) -> Table:
    """The card as a table for people."""
    table = Table(title=str(prepared.path), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in lines(prepared.card()).items():
        table.add_row(f"[bold]{name}[/]", text)
    return table
