"""Recommend the top-K items after a user's last session, in the publisher's ids.

    sessionrec recommend RUN --histories users.jsonl --k 50 --out top50.jsonl
    sessionrec recommend RUN --log-users 100 --seen masked

A line of users.jsonl is one user, oldest session first:

    {"user": 7, "sessions": [[{"item": 31, "clicked": true}, ...], ...], "times": [1700000000, ...],
     "context": [{"device": "phone"}, ...]}

clicked is true, false, or null for context; "feedback" then names its kind. times is the start of each session in UTC
seconds; models that read time need it (positions relative_time, the default of HSTU, or hours and days as session
context). context has the known columns of session context, one object a session.
A line of the answer has user, items, scores (log probabilities, nats), seen_items (kept or masked), unknown_items and
sessions_used (items_used for the paradigms nipp and nipp_plus); models that read session context add unknown_context.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import sessionrec_jax as sr
from doors import bounds
from doors.address import shown
from doors.bounds import Between
from doors.files import check_outputs, writing
from doors.terminal import Terminal
from experiments.cli.devices import mesh_of
from experiments.cli.parsing import OutputFile, Quiet, parse_flags
from sessionrec_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN", metavar="RUN")]
    """The run folder of `sessionrec train` or of a sweep."""
    histories: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of JSON lines, one user each."""
    log_users: Annotated[int | None, Between(0, 10**15)] = None
    """Instead of --histories: the first N users of the run's log with all their stored sessions. 0 takes all users."""
    k: Annotated[int, Between(1, 2**31 - 1)] = 50
    """The number of items to recommend to each user."""
    seen: Literal["kept", "masked"] = "kept"
    """Items that the history shows as clicked or ignored.
    kept: recommended like any other
    masked: left out; an answer is shorter if fewer than k items are left"""
    out: OutputFile = None
    """The file for the answers, written whole or not at all. The default is standard output."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """The prepared log, if it has moved since training."""
    mesh: str | None = None
    """The devices, such as data=4,model=2; the axis model shards the item tables by rows. The default is as many as the
    run had, or as there are."""
    quiet: Quiet = False
    """Show no progress."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec recommend", description=__doc__)
    if (command.histories is None) == (command.log_users is None):
        raise InputError("whose histories? expected either --histories users.jsonl or --log-users N")
    bounds.check(command)
    check_outputs(command.out, inputs=[command.histories])
    run = sr.load(command.run, command.data, None if command.mesh is None else mesh_of(command.mesh))
    if run.row is None or run.row["status"] not in ("done", "stuck"):
        say = Terminal(stderr=True, highlight=False, soft_wrap=True, markup=False).print
        say(f"{shown(command.run)} has not finished training; its newest checkpoint, step {run.model.step}, answers")
    histories = command.histories or "log"
    quiet = command.quiet or command.out is None
    lines = run.answers(histories, command.k, command.seen, users=command.log_users or 0, quiet=quiet)
    if command.out is None:
        sys.stdout.writelines(_json_lines(lines))
    else:
        with writing(command.out) as target, target.open("w") as file:
            file.writelines(_json_lines(lines))
    return 0


def _json_lines(lines: Iterable[dict[str, Any]]) -> Iterable[str]:
    return (json.dumps(line, allow_nan=False) + "\n" for line in lines)
