"""Says what a fit is doing, for those who wait: `with shown_by(print): scaling.fit(...)`.

Every step of a fit calls `step` with one line of text. Without a listener nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

_LISTENER: ContextVar[Callable[[str], object] | None] = ContextVar("listener", default=None)
_ONE_AT_A_TIME = Lock()
"""The threads of a fit never call a listener at the same time."""


@contextmanager
def shown_by(listener: Callable[[str], object]) -> Iterator[None]:
    """Calls `listener` with a line of text at each step of the fits inside the block."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def step(text: str) -> None:
    listener = _LISTENER.get()
    if listener is not None:
        with _ONE_AT_A_TIME:
            listener(text)
