"""List the sources that `sessionrec prepare` reads, with licence and expected files."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tyro
from rich.console import Console

from sessionrec_jax.data import sources

_FACTS = {"what": "TITLE", "licence": "LICENCE", "where": "WHERE", "files": "FILES", "citation": "CITATION"}


@dataclass(frozen=True)
class Command:
    json: bool = False
    """Print the list as JSON."""


def main(argv: list[str]) -> None:
    command = tyro.cli(Command, args=argv, prog="sessionrec sources", description=__doc__)
    found = {name: {fact: getattr(sources.find(name), at) for fact, at in _FACTS.items()} for name in sources.NAMES}
    if command.json:
        print(json.dumps(found, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, facts in found.items():
        console.print(f"[bold]{name}[/]  {facts['what']}")
        for fact in ("licence", "where", "files", "citation"):
            text = ", ".join(facts[fact]) if isinstance(facts[fact], tuple) else facts[fact]
            console.print(f"    {fact:<9} {text or '-'}", markup=False)
