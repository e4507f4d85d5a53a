"""List the logs that `sessionrec prepare` reads: licence, size, where to download them, and the expected files.

sessionrec sources
sessionrec sources --json

Logs without a source of their own follow, each with the lines that turn it into a table and the command that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from doors.files import STDOUT, check_outputs, write_json
from doors.terminal import Terminal
from experiments.cli.parsing import JsonFile, parse_flags
from sessionrec_jax.data.sources.by_table import BY_TABLE, ByTable
from sessionrec_jax.data.sources.files import layout
from sessionrec_jax.registry import SOURCES

_FACTS = {"what": "TITLE", "licence": "LICENCE", "size": "SIZE", "where": "WHERE", "citation": "CITATION"}


@dataclass(frozen=True)
class Command:
    json: JsonFile = None
    """Write the list to this file."""


def main(argv: list[str]) -> None:
    command = parse_flags(Command, argv, prog="sessionrec sources", description=__doc__)
    check_outputs(command.json)
    modules = {name: SOURCES.find(name) for name in SOURCES}
    if command.json is not None:
        write_json(command.json, _for_programs(modules))
    if command.json == STDOUT:
        return
    console = Terminal(highlight=False, soft_wrap=True)
    for name, module in modules.items():
        console.print(f"[bold]{name}[/]  {module.TITLE}")
        for line in _lines_of_module(module):
            console.print(line, markup=False)
    console.print("\nBy the source table, with these lines of Python first (SRC is the folder of the download):\n")
    for name, log in BY_TABLE.items():
        console.print(f"[bold]{name}[/]  {log.what}")
        for line in _lines_of_table(log):
            console.print(line, markup=False)


def _for_programs(modules: dict[str, ModuleType]) -> dict[str, dict[str, object]]:
    own = {
        name: {fact: getattr(module, at) for fact, at in _FACTS.items()}
        | {"files": [file._asdict() for file in module.FILES]}
        for name, module in modules.items()
    }
    return own | {name: log._asdict() for name, log in BY_TABLE.items()}


def _lines_of_module(module: ModuleType) -> Iterator[str]:
    for fact, at in _FACTS.items():
        if fact != "what":
            yield f"    {fact:<9} {getattr(module, at) or '-'}"
    for number, line in enumerate(layout(module.FILES)):
        yield f"    {'' if number else 'files':<9} {line}"


def _lines_of_table(log: ByTable) -> Iterator[str]:
    """Yields the facts, then the lines of Python and the command, which can be copied as they are."""
    for fact in ("licence", "size", "where", "citation", "layout", "choice"):
        yield f"    {fact:<9} {getattr(log, fact)}"
    yield from ("", *log.python.splitlines(), "", log.command, "")
