"""Recommend the top-K items after a user's last session, in the publisher's ids.

sessionrec recommend RUN --histories users.jsonl --k 50 --out top50.jsonl

sessionrec recommend RUN --log-users 100 --seen masked

A line of users.jsonl is a user, oldest session first:

{"user": 7, "sessions": [[{"item": 31, "clicked": true}, ...], ...], "times": [1700000000, ...],
 "context": [{"device": "phone"}, ...]}

clicked is true, false, or null for context, whose kind "feedback" names. times is the start of each session in UTC
seconds: wanted by models that read time (positions relative_time, which is HSTU's, or hours and days as session
context), optional for others. context holds what is known of the log's columns of session context, session by session.
A line of the answer has user, items, scores (log probabilities, nats), seen_items (kept or masked), unknown_items,
sessions_used (items_used for the paradigms nipp and nipp_plus), and unknown_context from models that read it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from experiments.cli.devices import mesh_of
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN")]
    """Run folder of `sessionrec train` or of a sweep."""
    histories: Path | None = None
    """JSON lines, one user each."""
    log_users: int | None = None
    """Instead of --histories: the first N users of the run's log with all their stored sessions. 0: all."""
    k: int = 50
    """Items to recommend to each user."""
    seen: Literal["kept", "masked"] = "kept"
    """Items that the history shows as clicked or ignored. kept: recommended like any other. masked: left out, and where
    fewer than k are left the answer is shorter."""
    out: Path | None = None
    """File for the answers, written whole or not at all. Left out: standard output."""
    data: Path | None = None
    """Where the run's prepared log lies now, if it was moved."""
    mesh: str | None = None
    """Devices, such as data=4,model=2; item tables are spread by rows over model. Left out: as many as the run had, or
    as there are."""


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec recommend", description=__doc__)
    if (command.histories is None) == (command.log_users is None):
        raise InputError("whose histories? wanted either --histories users.jsonl or --log-users N")
    if command.out is not None and not command.out.parent.is_dir():
        raise InputError(f"cannot write {command.out}: there is no folder {command.out.parent}")
    from sessionrec_jax.runfolder.files import read_json
    from sessionrec_jax.serving.histories import log_histories, read_histories
    from sessionrec_jax.serving.load import restore
    from sessionrec_jax.serving.recommend import recommend  # starts jax

    run = restore(command.run, command.data, None if command.mesh is None else mesh_of(command.mesh))
    row = command.run / "row.json"
    if not row.exists() or read_json(row)["status"] != "done":
        say = Console(stderr=True, highlight=False, soft_wrap=True).print
        say(f"{command.run} was not trained to its end: its newest checkpoint, step {run.step}, answers", markup=False)
    if command.histories is not None:
        histories = read_histories(command.histories, run.log, run.config)
    else:
        histories = log_histories(run.log, command.log_users)
    lines = recommend(run, histories, command.k, command.seen, quiet=command.out is None)
    if command.out is None:
        sys.stdout.writelines(_json_lines(lines))
    else:
        partial = command.out.with_name(f".{command.out.name}.{os.getpid()}")
        with partial.open("w") as file:
            file.writelines(_json_lines(lines))
        partial.rename(command.out)
    return 0


def _json_lines(lines: Iterable[dict[str, Any]]) -> Iterable[str]:
    return (json.dumps(line, allow_nan=False) + "\n" for line in lines)
