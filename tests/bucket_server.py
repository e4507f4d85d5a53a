"""A server of the S3 API in a process of its own at the loopback address, and servers that fail, for tests of buckets.

moto's server keeps the objects in memory and checks the conditions of puts. It checks no rights, so the refusals come
from a server that refuses everything.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
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


class _Google(http.server.BaseHTTPRequestHandler):
    """The requests of Google Cloud Storage's XML API that this project makes, as its documentation describes them."""

    objects: dict[str, tuple[bytes, int]]
    lock = threading.Lock()
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, content: bytes = b"", generation: int = 0, size: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if size is None else size))
        if generation:
            self.send_header("x-goog-generation", str(generation))
            self.send_header("ETag", f'"etag-{generation}"')
            self.send_header("Last-Modified", email.utils.formatdate(usegmt=True))
        self.end_headers()
        self.wfile.write(content)

    def _name(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        wanted = self.headers.get("x-goog-if-generation-match")
        with self.lock:
            before = self.objects.get(self._name(), (b"", 0))[1]
            if wanted is not None and int(wanted) != before:
                return self._answer(412)
            generation = 1_000 + len(self.objects) + before
            self.objects[self._name()] = content, generation
        return self._answer(200, generation=generation)

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            rows = "".join(
                f"<Contents><Key>{name}</Key><Size>{len(content)}</Size><ETag>&quot;etag-{generation}&quot;</ETag>"
                f"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for name, (content, generation) in sorted(self.objects.items())
                if name.startswith(prefix)
            )
            return self._answer(200, f"<ListBucketResult>{rows}</ListBucketResult>".encode())
        if self._name() not in self.objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>" if self.command == "GET" else b"")
        content, generation = self.objects[self._name()]
        body = b"" if self.command == "HEAD" else content
        return self._answer(200, body, generation=generation, size=len(content))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self._answer(204 if self.objects.pop(self._name(), None) else 404)

    def log_message(self, format, *args) -> None:
        pass


@contextmanager
def google() -> Iterator[str]:
    """Gives the endpoint of a stand-in for Google Cloud Storage. No package has a server with these requests."""
    handler = type("Handler", (_Google,), {"objects": {}})
    with _serving(handler) as endpoint:
        yield endpoint


@contextmanager
def _serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


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

    with _serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def silent() -> Iterator[str]:
    """Gives the endpoint of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
