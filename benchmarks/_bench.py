"""What the benchmarks share: contenders timed in turns, and one JSON line about them."""

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
    """Wall seconds of `runs` calls of each contender, one after the other, so that a busy moment of the machine meets
    all of them. With `warm_up` a first call of each, which compiles, is not counted."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for turn in range(-warm_up, runs):
        for call, of_call in zip(contenders, seconds, strict=True):
            start = time.perf_counter()
            call()
            if turn >= 0:
                of_call.append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], other_seconds: list[float]) -> dict[str, float]:
    """Median of `seconds` over that of `other_seconds`, and the range of the ratios of the single turns."""
    of_turns = [a / b for a, b in zip(seconds, other_seconds, strict=True)]
    return {
        "ratio": significant(median(seconds) / median(other_seconds)),
        "ratio_lowest": significant(min(of_turns)),
        "ratio_highest": significant(max(of_turns)),
    }


def significant(value: float) -> float:
    """Three digits: more would not come out again."""
    return float(f"{value:.3g}")


def report(question: str, ratio_of: str, **numbers: Any) -> None:
    """Prints the line. `ratio_of` says what is divided by what."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),  # of the last minute, this process among it
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps({"question": question, "ratio_of": ratio_of, **numbers, **machine}), flush=True)


def need(module: str, extra: str) -> Any:
    """The module; where it is not installed, exit 2, which `make bench` takes for a question left out."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"this benchmark needs {module} ({error}); wanted: pip install -e '.[{extra}]'", file=sys.stderr)
        sys.exit(2)
