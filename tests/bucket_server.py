"""A server of the S3 API in a process of its own at the loopback address, and servers that fail, for tests of buckets.

moto's server keeps the objects in memory and checks the conditions of puts. It checks no rights, so the refusals come
from a server that refuses everything.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from doors.storage import cache, copies

BUCKET = "tests"
NEEDED = ("moto", "flask", "obstore", "boto3")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running() -> Iterator[str]:
    """Starts moto's server and makes an empty bucket. Gives its endpoint."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server does not answer"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=5).close()
                break
            time.sleep(0.1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def use(endpoint: str, home, monkeypatch) -> None:
    """Makes this process, and those that it starts, use the server and a cache of its own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    values = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "XDG_CACHE_HOME": str(home),
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    as_another_process(monkeypatch)


def as_another_process(monkeypatch) -> None:
    """Forgets all copies, as a process does not know those of another. The folder of the first one is left as it is."""
    monkeypatch.setattr(copies, "_copies", {})
    cache.of_this_process.cache_clear()


REFUSED = """<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"""


@contextmanager
def answering(status: int, body: str = REFUSED) -> Iterator[str]:
    """Gives the endpoint of a server that answers every request with a status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

        def log_message(self, format, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """Gives the endpoint of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
