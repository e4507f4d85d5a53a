"""Ends a process that takes no step for too long, after it has written the stack of every thread."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

_LOOKS = 10
_LONGEST_PAUSE_SECONDS = 30.0


class Watchdog:
    """Ends the process with exit code 1 if `beat` is not called for `stuck_after_seconds`."""

    def __init__(self, stuck_after_seconds: float, who: str):
        self._seconds, self._who, self._last = stuck_after_seconds, who, time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        self._last = time.monotonic()

    def end(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / _LOOKS, _LONGEST_PAUSE_SECONDS)):
            if time.monotonic() - self._last > self._seconds:
                print(
                    f"error: {self._who} has taken no step for {self._seconds:g} s; these are the stacks of its "
                    "threads. --hosts stuck_after_seconds=S waits longer",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)
