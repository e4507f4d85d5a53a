"""A trace of a few steps for XProf or TensorBoard, taken once the loop has warmed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

_WARM_UP_STEPS = 10


class Profiler:
    """Traces `traced` steps of the loop over steps first .. last - 1; 0 traces nothing.

    Use it as a context around the loop and call `profile.before(step, state)` before each step. The trace begins after
    ten steps; in a shorter loop it takes the last ones.
    """

    def __init__(self, folder: Path, traced: int, first: int, last: int):
        begin = max(first, min(first + _WARM_UP_STEPS, last - traced))
        self._folder, self._steps, self._tracing = folder, range(begin, begin + traced), False

    def __enter__(self) -> Profiler:
        return self

    def before(self, step: int, state: Any) -> None:
        """Starts or ends the trace at its steps. It waits for `state`, the result of the last dispatched step, so that
        the trace has exactly the devices' work of its own steps."""
        if (step in self._steps) == self._tracing:
            return
        jax.block_until_ready(state)
        if self._tracing:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self._folder)
        self._tracing = not self._tracing

    def __exit__(self, *raised: Any) -> None:
        """Writes the trace even if the loop ended early."""
        if self._tracing:
            jax.profiler.stop_trace()
