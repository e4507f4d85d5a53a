"""Answer over HTTP with an exported model: POST /recommend, GET /health.

    sessionrec serve MODEL
    sessionrec serve MODEL --host 0.0.0.0 --port 80 --batch 64 --wait-ms 5
    sessionrec serve MODEL --search approximate --processes 4

    curl -d '{"user": 7, "sessions": [[{"item": "i3", "clicked": true}]], "k": 5}' http://127.0.0.1:8000/recommend

MODEL is a folder of `sessionrec export`. Requests that arrive together are answered by one call of the program. All its
shapes are compiled before the service listens. A process reads requests with one core: on a machine with more, give
--processes. SIGTERM answers what was accepted and ends. There is no login and no encryption: outside of the machine
itself put a proxy that has both in front. The extra `serve` installs the server.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from doors import bounds
from doors.bounds import Between
from doors.terminal import say
from experiments.cli.parsing import parse_flags
from experiments.exit_code import exit_code
from experiments.service.app import Service
from experiments.service.micro_batches import Size
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.exported import ExportedModel, check_folder
from sessionrec_jax.serving.search import Search, recall_line

_GRACE_SECONDS = 10
_BACKLOG = 2_048
_SILENT_SECONDS = 120
"""A process of several that gives no sign of life for this long is killed and replaced."""


@dataclass(frozen=True)
class Command:
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="MODEL", metavar="MODEL")]
    """The folder of `sessionrec export`."""
    host: str = "127.0.0.1"
    """The address to listen at; the default can only be reached from this machine."""
    port: Annotated[int, Between(0, 65_535)] = 8000
    """The port; 0 takes a free one, which is printed."""
    processes: Annotated[int, Between(1, 1_024)] = 1
    """Processes that share the port, each with a copy of the model. For CPUs; a GPU has room for one."""
    batch: Annotated[int, Between(1, 4_096)] = 32
    """Histories that are answered together, at most."""
    wait_ms: Annotated[float, Between(0, 10_000)] = 2.0
    """Milliseconds for which the first history of a batch waits for others, at most."""
    waiting: Annotated[int, Between(1, 1_000_000)] = 1_024
    """Requests that may wait; further ones get status 503."""
    body_bytes: Annotated[int, Between(1_000, 1_000_000_000)] = 1_000_000
    """Bytes of a request's body, at most."""
    exposures: Annotated[int, Between(1, 100_000)] = 1_000
    """Exposures of a history, at most. The model reads the newest of them."""
    search: Search = "exact"
    """exact scores the whole catalogue. approximate reads a part of the index that `export --search approximate` made
    and measured, and answers with logits in place of log probabilities (extra `search`)."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec serve", description=__doc__)
    bounds.check(command)
    with _bound(command.host, command.port) as bound:
        if command.processes == 1:
            uvicorn.Server(_config(command, _app(command, bound))).run(sockets=[bound])
            return 0
        check_folder(command.model, command.search)
        return _supervised(command, bound)


def _app(command: Command, bound: socket.socket) -> Starlette:
    """Returns the service, compiled, and lets clients connect."""
    model = ExportedModel.read(command.model, command.search)
    if command.search == "approximate":
        say(recall_line(model.facts["search"]))
    say(f"compiling for up to {command.batch} histories at once")
    size = Size(command.batch, command.wait_ms / 1000, command.waiting, command.exposures)
    service = Service(model, size, command.body_bytes)
    gc.collect()
    gc.freeze()  # else each full collection looks at everything that was imported, while requests wait
    bound.listen(_BACKLOG)
    host = f"[{command.host}]" if ":" in command.host else command.host
    say(f"listening at http://{host}:{bound.getsockname()[1]}")
    return service.app


def _config(command: Command, app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        workers=command.processes,
        **more,
    )


def _supervised(command: Command, bound: socket.socket) -> int:
    """Runs the processes, and replaces one that dies. Returns 1 if one cannot start; a signal ends them all."""
    make = functools.partial(_app_of_one, command, bound)
    config = _config(command, make, factory=True, timeout_worker_healthcheck=_SILENT_SECONDS)
    processes = Multiprocess(config, [bound])
    processes.run()
    if any(process.exitcode == STARTUP_FAILURE for process in processes.processes):
        return 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)  # as one process ends
    return 0


def _app_of_one(command: Command, bound: socket.socket) -> Starlette:
    """Called in each process of several. If it fails, the process is not started again."""
    made: list[Starlette] = []
    try:
        code = exit_code(lambda: made.append(_app(command, bound)) or 0)
    except Exception:  # noqa: BLE001 - uvicorn starts a process again unless it has this exit code
        traceback.print_exc()
        code = 1
    if code:
        sys.exit(STARTUP_FAILURE)
    return made[0]


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that has the address and refuses connections until it listens."""
    with contextlib.ExitStack() as on_failure:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            raise InputError(f"--host {host} --port {port}: {error.strerror}; name another address or port") from None
        on_failure.pop_all()
        return bound
