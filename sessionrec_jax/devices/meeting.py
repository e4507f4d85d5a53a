"""The meeting of processes that train together, before jax connects them.

Process 0 listens at the coordinator's address. Each other process connects, and says to which run it belongs and which
index it has. So a process of another run is turned away, and if some do not come, the others know which. When all are
there, jax's coordinator takes over the port; the connections stay open as a lifeline (lifeline.py).

Everything is sent in clear and nobody is asked for a password: the network must be trusted.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sessionrec_jax.errors import InputError

_HELLO_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_LONGEST_LINE = 65536
_MEGASCALE = "MEGASCALE_COORDINATOR_ADDRESS"


class Place(NamedTuple):
    """The place of this process among those that train together."""

    host: str
    """The machine of process 0."""
    ports: Sequence[int]
    """Process 0 listens at the first one that is free."""
    count: int
    index: int
    run: str
    """Names the run: processes of different runs do not meet."""


class Peer(NamedTuple):
    """Another process, and the connection to it."""

    name: str
    """Its index, machine and address, for messages."""
    connection: socket.socket


class Meeting(NamedTuple):
    """The outcome of a meeting."""

    coordinator: str
    """HOST:PORT that the other processes reach."""
    bind: str
    """ADDRESS:PORT where jax's coordinator may listen."""
    peers: dict[int, Peer]
    """On process 0 all others; on another process only process 0."""
    claim: socket.socket | None = None
    """On process 0: keeps the port from other jobs. To be closed when jax's coordinator listens there."""


def check_megascale(host: str) -> None:
    """Raises InputError if variables of another job on TPU slices are set, because libtpu would wait for that job."""
    other = os.environ.get(_MEGASCALE, "").rpartition(":")[0] or os.environ.get(_MEGASCALE, "")
    if other and other != host:
        raise InputError(
            f"{_MEGASCALE} is {os.environ[_MEGASCALE]}, but --hosts names the coordinator {host}: the variable is of "
            "another job. Unset every MEGASCALE_ variable, or use --hosts auto"
        )


def meet(place: Place, seconds: float) -> Meeting:
    """Waits until every process is there. Raises InputError that names those that are missing after `seconds`, or says
    why this process cannot take part."""
    until = time.monotonic() + seconds
    return _receive(place, until, seconds) if place.index == 0 else _call(place, until, seconds)


def _receive(place: Place, until: float, seconds: float) -> Meeting:
    """The side of process 0."""
    server, claim = _listen(place)
    peers: dict[int, Peer] = {}
    try:
        while len(peers) < place.count - 1:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, address = server.accept()
            except TimeoutError:
                raise InputError(_missing(place, peers, seconds)) from None
            _welcome(connection, address[0], place, peers)
    except InputError as error:
        for peer in peers.values():
            _send(peer.connection, {"refused": str(error)})
            peer.connection.close()
        claim.close()
        raise
    finally:
        bound = server.getsockname()
        server.close()
    for peer in peers.values():
        _send(peer.connection, {"go": True})
    return Meeting(f"{place.host}:{bound[1]}", _address(bound[0], bound[1]), peers, claim)


def _listen(place: Place) -> tuple[socket.socket, socket.socket]:
    """Returns the server and the claim on its port."""
    host = _bindable(place.host)
    for port in place.ports:
        claim = _claimed(port)
        if claim is None:
            continue
        try:
            return socket.create_server((host, port), family=_family(host)), claim
        except OSError as error:
            claim.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    f"--hosts names the coordinator {place.host}, which is no address of this machine; process 0 must "
                    "run on the coordinator's machine"
                ) from None
            if error.errno != errno.EADDRINUSE:
                raise InputError(f"process 0 cannot listen at {place.host}:{port}: {error.strerror}") from None
    raise InputError(
        f"port {' and '.join(map(str, place.ports))} of {place.host} is in use by another process; choose another one "
        "for --hosts coordinator"
    )


def _claimed(port: int) -> socket.socket | None:
    """Returns a claim on `port` of this machine; None if another job has it. Between the end of the meeting and the
    start of jax's coordinator nobody listens at the port, and another job's process 0 would take it; worse, jax's
    coordinators share a port without an error (SO_REUSEPORT). Linux frees the name when its process ends."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if sys.platform == "linux":
        try:
            claim.bind(f"\0sessionrec-coordinator-{port}")
        except OSError:
            claim.close()
            return None
    return claim


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bindable(host: str) -> str:
    """Returns the address of `host`, or that of all interfaces if the name means the loopback interface here, as in
    Debian's /etc/hosts, where others could not reach it. Raises InputError for an unknown name."""
    try:
        address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror as error:
        raise InputError(f"--hosts names the coordinator {host}, which is unknown here: {error.strerror}") from None
    is_name = host != "localhost" and not _is_address(host.strip("[]"))
    return "0.0.0.0" if is_name and ipaddress.ip_address(address).is_loopback else str(address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _welcome(connection: socket.socket, address: str, place: Place, peers: dict[int, Peer]) -> None:
    """Adds the process that has connected to `peers`, or says to it why not."""
    hello = _read(connection, _HELLO_SECONDS)
    if hello is None:  # not one of our processes
        connection.close()
        return
    index, name = hello.get("index"), f"process {hello.get('index')} ({hello.get('machine')}, {address})"
    reason = None
    if hello.get("run") != place.run:
        reason = (
            f"process 0 at {place.host} trains another run, or has other settings; give all processes the same "
            "command, or this run another port"
        )
    elif hello.get("count") != place.count:
        reason = f"{name} expects {hello.get('count')} processes, process 0 expects {place.count}"
    elif not isinstance(index, int) or not 0 < index < place.count:
        reason = f"{name}: indices go from 0 to {place.count - 1}, and only one process has index 0"
    elif index in peers:
        reason = f"{name} and {peers[index].name} have the same index"
    if reason:
        _send(connection, {"refused": reason})
        connection.close()
    else:
        peers[index] = Peer(name, connection)


def _missing(place: Place, peers: dict[int, Peer], seconds: float) -> str:
    absent = [index for index in range(1, place.count) if index not in peers]
    here = ", ".join(peer.name for _, peer in sorted(peers.items())) or "no other"
    shown = ", ".join(map(str, absent[:20])) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
    return (
        f"{len(absent)} of {place.count} processes did not come to {place.host} within {seconds:g} s: missing "
        f"{'index' if len(absent) == 1 else 'indices'} {shown}. Came: {here}. Start the missing ones, or wait longer "
        "with --hosts timeout_seconds=S"
    )


def _call(place: Place, until: float, seconds: float) -> Meeting:
    """The side of every other process."""
    hello = {"run": place.run, "index": place.index, "count": place.count, "machine": socket.gethostname()}
    refused = None
    while time.monotonic() < until:
        for port in place.ports:
            connection = _connected(place.host.strip("[]"), port, until)
            if connection is None:
                continue
            # Process 0 may send the names of the missing ones when the time is over.
            answer = _read(connection, until + _HELLO_SECONDS - time.monotonic()) if _send(connection, hello) else None
            if answer and answer.get("go"):
                peer = Peer(f"process 0 ({place.host})", connection)
                return Meeting(_address(place.host.strip("[]"), port), "", {0: peer})
            connection.close()
            if answer and len(place.ports) == 1:
                raise InputError(str(answer.get("refused")))
            refused = answer.get("refused") if answer else refused
        time.sleep(_RETRY_SECONDS)
    ports = f"{place.ports[0]}" if len(place.ports) == 1 else f"{place.ports[0]} to {place.ports[-1]}"
    raise InputError(
        refused
        or f"process 0 did not answer at {place.host}, port {ports}, within {seconds:g} s. It must run on that "
        "machine, and the port must be open to this one; --hosts timeout_seconds=S waits longer"
    )


def _connected(host: str, port: int, until: float) -> socket.socket | None:
    try:
        return socket.create_connection((host, port), timeout=max(min(until - time.monotonic(), 10.0), 0.01))
    except OSError:  # nobody listens there yet
        return None


def _send(connection: socket.socket, message: dict[str, Any]) -> bool:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Returns the next message; None if the other side says nothing in time, ends, or sends something else."""
    until, got = time.monotonic() + seconds, b""
    while not got.endswith(b"\n") and len(got) < _LONGEST_LINE:
        connection.settimeout(max(until - time.monotonic(), 0.01))
        try:
            part = connection.recv(1)  # what comes after the line is for the lifeline
        except OSError:
            return None
        if not part:
            return None
        got += part
    try:
        message = json.loads(got)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
