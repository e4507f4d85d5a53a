"""Launchers: each starts workers and keeps them alive until every run of a sweep folder has a row. One file each.

The leases record who does what and how it ended, so a launcher keeps no records: it starts workers for runs that have
no row and no holder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from experiments.sweep.worker_options import DoRun, WorkerOptions
from sessionrec_jax.errors import InputError, near_miss

LAUNCHERS = ("local", "ray", "slurm")


class Launcher(Protocol):
    """A frozen dataclass; its fields are the flags of `sessionrec sweep --launcher NAME`."""

    @property
    def workers(self) -> int:
        """The number of workers that --dry-run assumes."""

    def check(self) -> None:
        """Raises InputError for wrong flags, and if the package that the launcher needs is not installed."""

    def launch(
        self,
        sweep_dir: Path,
        run: DoRun,
        *,
        options: WorkerOptions,
        refresh: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """Returns when every run has a row. Calls `refresh` every second or so, and `report` with a sentence about
        workers that died.

        SIGTERM and SIGINT are passed on to the workers, which save and end; then Stopped is raised. A worker that ends
        with an error that is not a run's error ends the sweep: InputError or SystemExit.
        """


def by_name(name: str) -> type[Launcher]:
    """Returns the launcher of this name. Raises InputError for an unknown name."""
    if name not in LAUNCHERS:
        raise InputError(f"unknown launcher {name!r}; {near_miss(name, LAUNCHERS)}")
    return importlib.import_module(f"experiments.sweep.launch.{name}").Launcher
