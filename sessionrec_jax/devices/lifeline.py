"""Connections over which the processes of a run learn when one of them is lost, and which one.

Each process sends a sign of life to process 0 and gets one back. A process whose connection closes, or that is silent
for too long, is lost: process 0 informs all others, and everyone ends with a message that names it.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable

from sessionrec_jax.devices.meeting import Peer

_SIGNS_BEFORE_LOST = 4
_LONGEST_PAUSE_SECONDS = 5.0
_ALIVE, _PARTED, _LOST = b"alive", b"parted", b"lost "


class Lifeline:
    """Watches the connections of a meeting in a thread. `on_lost(sentence)` is called at most once, in that thread."""

    def __init__(self, peers: dict[int, Peer], lost_after_seconds: float, on_lost: Callable[[str], None]):
        self._peers, self._on_lost, self._lost_after = dict(peers), on_lost, lost_after_seconds
        self._pause = min(lost_after_seconds / _SIGNS_BEFORE_LOST, _LONGEST_PAUSE_SECONDS)
        self._heard = dict.fromkeys(peers, time.monotonic())
        self._unread = dict.fromkeys(peers, b"")
        self._parting = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def part(self) -> None:
        """Informs the others that this process ends as agreed, and closes the connections."""
        self._parting.set()
        self._thread.join(self._pause + 1)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, peer in self._peers.items():
                peer.connection.setblocking(False)
                selector.register(peer.connection, selectors.EVENT_READ, index)
            next_sign = 0.0
            while self._peers and not self._parting.is_set():
                if time.monotonic() >= next_sign:
                    self._say(_ALIVE)
                    next_sign = time.monotonic() + self._pause
                for key, _ in selector.select(min(self._pause, 0.2)):
                    self._hear(key.data, selector)
                self._look_for_silence()
            self._say(_PARTED)
            for peer in self._peers.values():
                peer.connection.close()

    def _hear(self, index: int, selector: selectors.BaseSelector) -> None:
        connection = self._peers[index].connection
        try:
            got = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self._lose(index, "its connection closed")
            return
        self._heard[index] = time.monotonic()
        *lines, self._unread[index] = (self._unread[index] + got).split(b"\n")
        for line in lines:
            if line.startswith(_LOST):
                self._end(line.removeprefix(_LOST).decode(errors="replace"))
            elif line == _PARTED:
                selector.unregister(connection)
                self._peers.pop(index).connection.close()
                return

    def _look_for_silence(self) -> None:
        for index, heard in self._heard.items():
            if index in self._peers and time.monotonic() - heard > self._lost_after:
                self._lose(index, f"nothing was heard of it for {self._lost_after:g} s")

    def _lose(self, index: int, why: str) -> None:
        sentence = f"{self._peers.pop(index).name} is lost: {why}"
        self._say(_LOST + sentence.encode())
        self._end(sentence)

    def _end(self, sentence: str) -> None:
        if not self._parting.is_set():
            self._parting.set()
            self._on_lost(sentence)

    def _say(self, line: bytes) -> None:
        for peer in self._peers.values():
            try:
                peer.connection.send(line + b"\n")
            except OSError:  # full, or closed, which the next read finds out
                continue
