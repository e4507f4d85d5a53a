"""Keeps a CPU worker that a scheduler started to its own cores: as many as it was given.

Ray and SLURM count cores. They leave it to settings that many clusters do not have (cgroups, task/affinity) to keep a
process to its own. XLA makes a thread for each core that it may run on, so it must not see them all.
"""

from __future__ import annotations

import fcntl
import os
from typing import IO

from doors.files import open_own
from doors.private import own_folder
from sessionrec_jax.runfolder.lock import lock

_held: list[IO[str]] = []
"""Locks of this process's cores. They are free again when the process ends, whatever ends it."""


def keep_to(count: int) -> None:
    """Keeps this process to `count` cores that no other such process of this user and machine has. Changes nothing if
    fewer are free, or if the process may run on `count` cores or fewer."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) <= count:
        return
    folder = own_folder("cores")
    mine: dict[int, IO[str]] = {}
    for core in allowed:
        file = open_own(folder / str(core), "w")
        if len(mine) < count and lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            mine[core] = file
        else:
            file.close()
    if len(mine) < count:
        for file in mine.values():
            file.close()
        return
    _held.extend(mine.values())
    os.sched_setaffinity(0, mine)
