"""Stopping a run: it saves first. A scheduler asks by SIGTERM, a person by Ctrl-C (SIGINT), a lost terminal by SIGHUP.

The exit code is then 128 + the signal's number, 143, 130 or 129, like that of a process that the signal ended. A
scheduler can be set to try again on it (Kubernetes by a podFailurePolicy, LSF by `bsub -Q 143`; a SLURM job by
`scontrol requeue`). The same command goes on from the checkpoint.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

Stop = AbstractContextManager[Callable[[], int]]
"""A context for the time in which a run can stop. It gives a function that returns the signal received so far, or 0."""

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a run to save and stop."""

NEVER: Stop = contextlib.nullcontext(lambda: 0)


class Stopped(RuntimeError):
    """A signal asked the run to stop; it has saved and stopped."""

    def __init__(self, where: str, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; the same command goes on from there")
        self.exit_code = 128 + number


class StopSignals:
    """A Stop, for the main thread. `again` handles a second signal; by default it ends the process at once.

    A signal that is ignored stays ignored, as `nohup` needs it. A signal that arrived too late for the run to act on is
    sent again when the context ends.
    """

    def __init__(self, again: Any = signal.SIG_DFL):
        self._again = again
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Callable[[], int]:
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return lambda: self._received

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._received = number
        for each in self._before:
            signal.signal(each, self._again)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received and error is None:
            signal.raise_signal(self._received)
