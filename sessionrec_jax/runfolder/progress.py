"""The progress of a job: a bar on a terminal, a plain line every few seconds elsewhere, nothing if it is quiet."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from doors.terminal import Terminal, say

_SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Use it as `with Bar("train", total) as bar: bar.advance("loss 3.2")`; `done` steps are behind it at the start."""

    def __init__(self, name: str, total: int, done: int = 0, *, quiet: bool = False):
        console = Terminal(stderr=True)
        self._name, self._total, self._done, self._start, self._first = name, total, done, time.monotonic(), done
        self._lines = not quiet and not console.is_terminal
        self._next_line = self._start + _SECONDS_BETWEEN_LINES
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
            self._bar.stop()

    def advance(self, note: str, steps: int = 1) -> None:
        """Counts `steps` more steps; `note` is shown next to the count."""
        self._done += steps
        self._bar.update(self._task, advance=steps, note=note)
        now = time.monotonic()
        if self._lines and now >= self._next_line:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            left = (now - self._start) / (self._done - self._first) * (self._total - self._done)
            say(f"{self._name} {self._done}/{self._total}, {left:.0f} s left, {note}")
