"""Independent parts of a fit on all cores: numpy lets other threads run while it computes.

The parts do not depend on the number of cores, so the digits of an answer do not either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Found = TypeVar("Found")


def in_threads(tasks: Sequence[Callable[[], Found]]) -> list[Found]:
    """Runs the tasks on the cores of this process, and returns their results in the order of the tasks.

    A task sees the context variables of the caller. The first error of a task is raised, and no further task begins.
    """
    threads = min(len(os.sched_getaffinity(0)), len(tasks))
    if threads < 2:
        return [task() for task in tasks]
    pool = ThreadPoolExecutor(threads)
    try:
        return [future.result() for future in [pool.submit(copy_context().run, task) for task in tasks]]
    finally:
        pool.shutdown(cancel_futures=True)
