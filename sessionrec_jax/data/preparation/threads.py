"""The engine of preparation on one machine: two threads of this process.

Polars and file systems work without Python's lock, so one call computes while another writes records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_CALLS = 2  # each has its rows in memory, and Polars has more threads within a call


def threaded(function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    """Yields the results in order, as `map` does. A value is taken only when a thread is free for it."""
    calls: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(_CALLS) as threads:
        try:
            for value in values:
                calls.append(threads.submit(function, value))
                if len(calls) == _CALLS:
                    yield calls.popleft().result()
            while calls:
                yield calls.popleft().result()
        finally:
            for call in calls:
                call.cancel()
