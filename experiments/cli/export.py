"""Write a trained run as a folder to take away: weights, item vectors, a portable program, a model card.

    sessionrec export RUN --to MODEL
    sessionrec export RUN --to MODEL --k 500 --data DATA
    sessionrec export RUN --to MODEL --search approximate

The folder needs neither this package nor the log: model.safetensors (weights), recommend.stablehlo (histories in, top K
out, for CPU, CUDA and TPU), items.parquet (the publisher's ids and item vectors), model.json and README.md (the model
card). docs/serving.md shows how to load it with jax and numpy alone. `sessionrec serve MODEL` answers over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import sessionrec_jax as sr
from doors import bounds
from doors.bounds import Between
from doors.state import read_object
from doors.terminal import say
from experiments.cli.parsing import parse_flags
from sessionrec_jax.serving.search import Search, recall_line


@dataclass(frozen=True)
class Command:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN", metavar="RUN")]
    """The run folder of `sessionrec train` or of a sweep."""
    to: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The new folder. It appears when it is complete."""
    k: Annotated[int, Between(1, 10_000)] = 100
    """The number of items that the program recommends; whoever calls it may use fewer."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """The prepared log, if it has moved since training."""
    search: Search = "exact"
    """approximate adds an index for `sessionrec serve --search approximate`, and its recall on histories of the log;
    one below .99 is refused (extra `search`)."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec export", description=__doc__)
    bounds.check(command)
    run = sr.load(command.run, command.data)
    run.export(command.to, command.k, command.search)
    if command.search == "approximate":
        from sessionrec_jax.serving.export import MODEL  # it loads jax, which --help must not need

        say(recall_line(read_object(command.to / MODEL, {"search": dict})["search"]))
    say(f"{command.to} has the model; `sessionrec serve {command.to}` answers over HTTP")
    return 0
