"""What starts workers and keeps them alive until every run of a sweep folder has a row: a file each.

The leases know who runs what and what became of it, so a launcher keeps no books: it starts again what has no row and
no holder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from experiments.sweep.worker import Run, WorkerOptions
from sessionrec_jax.errors import InputError, near_miss

LAUNCHERS = ("local", "ray", "slurm")


class Launcher(Protocol):
    """A frozen dataclass; its fields are the flags of `sessionrec sweep --launcher NAME`."""

    @property
    def workers(self) -> int:
        """With how many --dry-run reckons."""

    def check(self) -> None:
        """Raises InputError for flags that cannot be, and where what the launcher needs is not installed."""

    def launch(
        self,
        sweep_dir: Path,
        run: Run,
        *,
        handling: WorkerOptions,
        look: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Returns when every run has a row. `look` is called every second or so, `say` hears of workers that died.

        SIGTERM and SIGINT are passed on to the workers, which save and go; then Stopped is raised. A worker that ends
        with an error which is no run's ends the sweep: InputError or SystemExit.
        """


def by_name(name: str) -> type[Launcher]:
    """Raises InputError for a name that is none."""
    if name not in LAUNCHERS:
        raise InputError(f"unknown launcher {name!r}; {near_miss(name, LAUNCHERS)}")
    return importlib.import_module(f"experiments.sweep.launch.{name}").Launcher
