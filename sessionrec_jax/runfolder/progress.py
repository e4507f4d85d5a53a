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
        self._name, self._total, self._done = name, total, done
        self._start: tuple[float, int] | None = None  # time and steps after the first call, which compiles
        self._lines = not quiet and not console.is_terminal
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._task = self._bar.add_task(name, total=total, completed=done, note="compiling")

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
            say(", ".join(part for part in (f"{self._name} {self._done}/{self._total}", self._left(now), note) if part))
        self._start = self._start or (now, self._done)

    def _left(self, now: float) -> str:
        """Returns the time that is left at the pace since the first call; nothing at the first call."""
        if self._start is None:
            return ""
        since, first = self._start
        return f"{(now - since) / (self._done - first) * (self._total - self._done):.0f} s left"
