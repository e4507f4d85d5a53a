"""The time to pack an epoch of windows into rows, against first-fit of every window, and the rows that both need.

    python benchmarks/packing.py [--windows 100000 1000000 6000000]

Windows of six sessions in the mean (geometric, 2 to 64) with about five exposures a session. First-fit packs an epoch
in its own random order, in a Python loop over the windows, as this program did before. The plan of rows is made once
for all epochs and seeds of a run. `again` is what reading an epoch back from a file would cost, with its checksum. CPU
seconds of one core; waste is the share of rows above the fewest that could hold the sessions and the items. `ratio`:
first-fit over an epoch of the plan, most windows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _bench import ratio, report, significant

from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.flat_log import FlatLog
from sessionrec_jax.data.packing import plan_rows
from sessionrec_jax.data.windows import Windows

WINDOWS = (100_000, 1_000_000, 6_000_000)
SESSIONS, ITEMS = 64, 344  # slots of a row
OPEN_ROWS = 16
TURNS = 3


def drawn(count: int) -> Windows:
    random = np.random.default_rng(0)
    sessions_W = np.clip(random.geometric(1 / 6, count), 2, SESSIONS)
    last_W = np.cumsum(sessions_W)
    items_S = np.minimum(1 + random.poisson(4, last_W[-1]), 5).astype(np.int32)
    log = FlatLog(
        item_N=np.zeros(0, np.int32),  # packing reads no item
        feedback_N=np.zeros(0, np.int8),
        session_items_S=items_S,
        session_seconds_S=np.zeros(0, np.int64),
        session_role_S=np.zeros(0, np.int8),
        user_session_offsets_U1=np.append(0, last_W),
    )
    first_W = last_W - sessions_W
    return Windows(log, TRAIN, first_W, last_W, first_target_W=first_W + 1, user_W=np.arange(count))


def first_fit(windows: Windows, seed: int) -> int:
    """Returns the number of rows."""
    order_W = np.random.default_rng(seed).permutation(len(windows))
    room: list[list[int]] = []
    rows = 0
    lengths = windows.sessions_W[order_W].tolist(), windows.items_W[order_W].tolist()
    for sessions, items in zip(*lengths, strict=True):
        for row in room:
            if sessions <= row[0] and items <= row[1]:
                break
        else:
            row, rows = [SESSIONS, ITEMS], rows + 1
            room.append(row)
            if len(room) > OPEN_ROWS:
                del room[0]
        row[0] -= sessions
        row[1] -= items
    return rows


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def case(count: int, folder: Path) -> dict[str, Any]:
    windows = drawn(count)
    least = max(windows.sessions_W.sum() / SESSIONS, windows.items_W.sum() / ITEMS)
    plan_seconds, plan = timed(lambda: plan_rows(windows, SESSIONS, ITEMS))
    ours, loop, again = [], [], []
    for turn in range(TURNS):
        seconds, packed = timed(lambda epoch=turn: plan.epoch(0, epoch))
        ours.append(seconds)
        np.save(folder / "epoch.npy", packed.window_P)
        again.append(timed(lambda: zlib.crc32(np.load(folder / "epoch.npy", mmap_mode="r")))[0])
        seconds, rows = timed(lambda epoch=turn: first_fit(windows, epoch))
        loop.append(seconds)
    return {
        "windows": count,
        "plan_seconds": significant(plan_seconds),
        "epoch_seconds": significant(median(ours)),
        "again_seconds": significant(median(again)),
        "first_fit_seconds": significant(median(loop)),
        "waste": significant(len(plan) / least - 1),
        "first_fit_waste": significant(rows / least - 1),
        **ratio(loop, ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, nargs="+", default=WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        cases = [case(count, Path(folder)) for count in parser.parse_args().windows]
    report(
        "an epoch of windows packed into rows",
        "CPU seconds of first-fit / of the planned epoch, most windows",
        **{name: cases[-1][name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        cases=cases,
    )


if __name__ == "__main__":
    main()
