"""A trace of a few steps for XProf or TensorBoard, taken once the loop has warmed up."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

_WARM_UP_STEPS = 10


class Profile:
    """`with Profile(folder, traced, first, last) as profile:` around the loop over steps first .. last - 1, with
    `profile.before(step, state)` before each. Traces `traced` steps (0: none) after ten others, or the last ones where
    the loop is too short for that."""

    def __init__(self, folder: Path, traced: int, first: int, last: int):
        begin = max(first, min(first + _WARM_UP_STEPS, last - traced))
        self._folder, self._steps, self._tracing = folder, range(begin, begin + traced), False

    def __enter__(self) -> Profile:
        return self

    def before(self, step: int, state: Any) -> None:
        """`state`: what the last step that was dispatched returned; waited for where a trace begins or ends, so that it
        holds the devices' work of its own steps."""
        if (step in self._steps) == self._tracing:
            return
        jax.block_until_ready(state)
        if self._tracing:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self._folder)
        self._tracing = not self._tracing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A trace that the loop's end cut short is written all the same."""
        if self._tracing:
            jax.profiler.stop_trace()
