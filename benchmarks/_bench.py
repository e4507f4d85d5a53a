"""The parts of all benchmarks: contenders timed in turns, and one JSON line about them."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any


def in_turns(runs: int, *contenders: Callable[[], Any], warm_up: bool = True) -> list[list[float]]:
    """Returns the wall seconds of `runs` calls of each contender.

    The contenders run in turns, so that a busy moment of the machine meets all of them. With `warm_up` the first call
    of each, which compiles, is not counted.
    """
    seconds: list[list[float]] = [[] for _ in contenders]
    for turn in range(-warm_up, runs):
        for call, of_call in zip(contenders, seconds, strict=True):
            start = time.perf_counter()
            call()
            if turn >= 0:
                of_call.append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], other_seconds: list[float]) -> dict[str, float]:
    """Returns the median of `seconds` over that of `other_seconds`, and the range of the ratios of single turns."""
    of_turns = [a / b for a, b in zip(seconds, other_seconds, strict=True)]
    return {
        "ratio": significant(median(seconds) / median(other_seconds)),
        "ratio_lowest": significant(min(of_turns)),
        "ratio_highest": significant(max(of_turns)),
    }


def significant(value: float) -> float:
    """Rounds to three digits, because a second run would not repeat more."""
    return float(f"{value:.3g}")


def report(question: str, ratio_of: str, **numbers: Any) -> None:
    """Prints the line. `ratio_of` names numerator and denominator."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),  # over the last minute, this process included
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps({"question": question, "ratio_of": ratio_of, **numbers, **machine}), flush=True)


def need(module: str, extra: str) -> Any:
    """Imports the module. If it is not installed, exits with 2, and `make bench` leaves the question out."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"this benchmark needs {module} ({error}); wanted: pip install -e '.[{extra}]'", file=sys.stderr)
        sys.exit(2)
