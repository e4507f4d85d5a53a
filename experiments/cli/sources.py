"""List the logs that `sessionrec prepare` reads: licence, size, where to download them, and the expected files.

sessionrec sources
sessionrec sources --json
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from doors.terminal import Terminal
from experiments.cli.parsing import parse_flags
from sessionrec_jax.data.sources.files import layout
from sessionrec_jax.registry import SOURCES

_FACTS = {"what": "TITLE", "licence": "LICENCE", "size": "SIZE", "where": "WHERE", "citation": "CITATION"}


@dataclass(frozen=True)
class Command:
    json: bool = False
    """Print the list as JSON."""


def main(argv: list[str]) -> None:
    command = parse_flags(Command, argv, prog="sessionrec sources", description=__doc__)
    modules = {name: SOURCES.find(name) for name in SOURCES}
    found = {name: {fact: getattr(module, at) for fact, at in _FACTS.items()} for name, module in modules.items()}
    if command.json:
        files = {name: [file._asdict() for file in module.FILES] for name, module in modules.items()}
        print(json.dumps({name: facts | {"files": files[name]} for name, facts in found.items()}, indent=1))
        return
    console = Terminal(highlight=False, soft_wrap=True)
    for name, facts in found.items():
        console.print(f"[bold]{name}[/]  {facts.pop('what')}")
        for fact, text in facts.items():
            console.print(f"    {fact:<9} {text or '-'}", markup=False)
        for heading, line in zip(
            ["files", *[""] * len(modules[name].FILES)], layout(modules[name].FILES), strict=False
        ):
            console.print(f"    {heading:<9} {line}", markup=False)
