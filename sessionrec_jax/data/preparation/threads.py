"""Two threads of this process as the engine of preparation on one machine.

Polars and file systems work without Python's lock, so one call computes while another writes records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_CALLS = 2  # at a time, each with its rows in memory; within a call, Polars has threads of its own


def threaded(function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    """The results in order, as `map` gives them. A value is taken only when a thread is free for it."""
    begun: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(_CALLS) as threads:
        try:
            for value in values:
                begun.append(threads.submit(function, value))
                if len(begun) == _CALLS:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for call in begun:
                call.cancel()
