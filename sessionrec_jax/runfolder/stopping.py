"""A run that is asked to stop saves first. Asked by SIGTERM (a scheduler wants the machine) or SIGINT (Ctrl-C).

The exit code is then 128 + the signal's number, 143 or 130: what a shell reports of a process that the signal ended,
and what schedulers can be told to try again (Kubernetes by a podFailurePolicy, LSF by `bsub -Q 143`, a SLURM job by
`scontrol requeue`, preempted or not). The same command goes on from the checkpoint.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

Stop = AbstractContextManager[Callable[[], int]]
"""Entered for the time in which a run can stop; gives a function that tells the signal that asked for it, 0 so far."""

NEVER: Stop = contextlib.nullcontext(lambda: 0)


class Stopped(RuntimeError):
    """What was asked to stop has saved and stopped."""

    def __init__(self, where: str, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; the same command goes on from there")
        self.exit_code = 128 + number


class StopSignals:
    """A Stop, for the main thread. `again`: what a second signal does; by default it ends the process at once.

    A signal that is ignored stays so, as `nohup` wants it. One that came when nobody asked any more is sent again.
    """

    def __init__(self, again: Any = signal.SIG_DFL):
        self._again = again
        self._came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Callable[[], int]:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return lambda: self._came

    def _take(self, number: int, _: FrameType | None) -> None:
        self._came = number
        for each in self._before:
            signal.signal(each, self._again)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._came and error is None:
            signal.raise_signal(self._came)
