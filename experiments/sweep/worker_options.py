"""The options of a worker, and the two functions that it calls for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sessionrec_jax.config.settings import Config
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.stopping import Stop

Write = Callable[[Path, Any], None]
"""Writes a row to its path. Raises Lost if another worker has the run now."""


class DoRun(Protocol):
    """Does a run in its folder and writes its row by `write`. Under --halving it gets `part`: where to stop, saved and
    validated, without a row."""

    def __call__(
        self, config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write, part: float = 1.0
    ) -> Any: ...


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker. They are no part of a sweep: each worker may have others, each time."""

    retries: int = 2
    """Further attempts at a run that failed or killed its worker, before it gets a failed row."""
    together: int = 1
    """Most runs that a worker trains side by side in one program: runs that differ in seed, learning rate or table
    prior alone. For small models on an accelerator, where a step of one does not fill the device; on a CPU it costs
    time."""

    def check(self) -> WorkerOptions:
        """Returns itself, or raises InputError."""
        check_least(self, retries=0, together=1)
        return self


DEFAULT_OPTIONS = WorkerOptions()


def check_least(options: Any, **least: int) -> None:
    """Raises InputError if an option is below its least value. An option that was not given has the value None."""
    for name, lowest in least.items():
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise InputError(f"--{name} {value}; wanted at least {lowest}")
