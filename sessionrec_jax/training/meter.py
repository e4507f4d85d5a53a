"""Measures where a run's wall time goes; metrics.jsonl has these numbers next to the losses.

Nothing here waits for the devices: a step counts as done when the loop has read its sums, which it does after it has
dispatched the next one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sessionrec_jax.runfolder.history import Counters, speed


class Meter:
    """Times the loop. A window is the time between two lines of metrics.jsonl; the first window begins when the first
    step has been compiled. Batches are read one step ahead, so a window has the waits of the steps one later.
    """

    def __init__(self, counters: Counters, devices: Sequence[Any]):
        self._counters, self._devices = counters, devices
        self._compiled = False
        self.step_seconds = math.inf
        """Seconds of a step in the last call that was read; infinite before the first."""
        self._begin(time.perf_counter())

    def _begin(self, now: float) -> None:
        self._before, self._begun, self._step_done = dataclasses.replace(self._counters), now, now
        self._input_seconds, self._step_seconds = 0.0, []

    @contextmanager
    def input(self) -> Iterator[None]:
        """Wraps the wait for the next batch."""
        start = time.perf_counter()
        yield
        self._input_seconds += time.perf_counter() - start

    @contextmanager
    def dispatch(self) -> Iterator[None]:
        """Wraps the call of the step. The first call compiles; the others return before the step is done."""
        start = time.perf_counter()
        yield
        if not self._compiled:
            now, self._compiled = time.perf_counter(), True
            self._counters.compile_seconds += now - start
            self._begin(now)

    def done(self, steps: int = 1) -> None:
        """Notes that the sums of one more call of the step have been read, which took `steps` steps."""
        now = time.perf_counter()
        self.step_seconds = (now - self._step_done) / steps
        self._step_seconds += [self.step_seconds] * steps
        self._step_done = now

    def window(self) -> dict[str, float | None]:
        """Returns the numbers of this window for a line of metrics.jsonl, and begins a new window.

        A step's seconds run from the end of the step before to its own end, whatever the loop does in between.
        `device_memory_peak_bytes` is the largest of this process's devices since it started; None if they do not say.
        """
        seconds = self._step_done - self._begun
        p50, p95, longest = np.quantile(self._step_seconds, (0.5, 0.95, 1.0)).tolist()
        line = {
            **speed(self._counters, self._before, seconds),
            "input_wait_share": self._input_seconds / max(seconds, 1e-9),
            "step_seconds_p50": p50,
            "step_seconds_p95": p95,
            "step_seconds_max": longest,
            "compile_seconds": self._counters.compile_seconds,
            "device_memory_peak_bytes": _memory_peak_bytes(self._devices),
        }
        self._begin(self._step_done)
        return line


def _memory_peak_bytes(devices: Sequence[Any]) -> int | None:
    stats = [device.memory_stats() or {} for device in devices]  # the CPU has none
    return max((each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each), default=None)
