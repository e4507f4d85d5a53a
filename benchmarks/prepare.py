"""The speed and memory of preparation, and how both grow with the log.

    python benchmarks/prepare.py [--full]

Logs of the known-truth process of 1e6 and 1e7 exposures (--full: 1e8 too), as parquet files, sessions cut at pauses
of 30 minutes. The other side is DuckDB. It drops duplicates, cuts the same sessions and writes them as lists. That is
only part of the work: no checks, no dense ids, no split, no counts, and no record a user. Each side runs in a process
of its own, in turns, start included. CPU seconds depend less on what else the machine does. `pip install
'sessionrec-jax[bench]'` brings DuckDB. `ratio`: DuckDB's seconds over ours at the longest log.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _bench import need, ratio, report, significant

from sessionrec_jax.data.synthetic.process import ZipfIntent

USERS_A_FILE = 32_768
EXPOSURES_A_USER = 144
TURNS = 3
GIBIBYTE = 2**20  # in kibibytes, which getrusage counts

SESSIONS = """
COPY (
  WITH distinct_rows AS (
    SELECT * FROM read_parquet('{log}/*.parquet', file_row_number = true)
    QUALIFY row_number() OVER (PARTITION BY user_id, item_id, timestamp_ms ORDER BY clicked DESC, file_row_number) = 1
  ), opened AS (
    SELECT *, coalesce(timestamp_ms - lag(timestamp_ms) OVER of_user > 1800000, true) AS opens FROM distinct_rows
    WINDOW of_user AS (PARTITION BY user_id ORDER BY timestamp_ms, file_row_number)
  ), cut AS (
    SELECT *, sum(opens::INT) OVER (PARTITION BY user_id ORDER BY timestamp_ms, file_row_number) AS session FROM opened
  )
  SELECT user_id, session, min(timestamp_ms) AS start_ms, list(item_id ORDER BY timestamp_ms, file_row_number) AS items,
    list(clicked ORDER BY timestamp_ms, file_row_number) AS clicked
  FROM cut GROUP BY user_id, session ORDER BY hash(user_id), user_id, session
) TO '{out}' (FORMAT parquet)
"""


def ours(log: Path, out: Path) -> int:
    """Prepares the log and returns the number of sessions."""
    import polars as pl

    from sessionrec_jax.data.preparation.prepare import Settings, prepare
    from sessionrec_jax.data.sources import RawLog

    raw = RawLog("known truth", pl.scan_parquet(log / "*.parquet"), session_rule="gap_minutes=30")
    return prepare(raw, out, Settings()).manifest["sessions"]


def duckdb(log: Path, out: Path) -> int:
    import duckdb

    connection = duckdb.connect(config={"temp_directory": str(out.parent), "threads": 2})
    connection.execute(SESSIONS.format(log=log, out=out))
    return connection.execute(f"SELECT count(*) FROM read_parquet('{out}')").fetchone()[0]


SIDES = {"ours": ours, "duckdb": duckdb}


def run(side: str, log: Path, folder: Path) -> dict[str, float]:
    """Returns seconds, CPU seconds, GiB and sessions of one side, run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--side", side, "--log", str(log), "--out", f"{out}/{side}"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def make(exposures: int, folder: Path) -> Path:
    log = folder / f"log{exposures}"
    log.mkdir()
    users = exposures // EXPOSURES_A_USER
    process = ZipfIntent(users=users, depth=4)
    for first in range(0, users, USERS_A_FILE):
        part = process.exposures(first, min(first + USERS_A_FILE, users))
        part.drop("session_id").write_parquet(log / f"{first:09d}.parquet")
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.side:
        start = time.perf_counter()
        sessions = SIDES[asked.side](asked.log, asked.out)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu_seconds = used.ru_utime + used.ru_stime
        measured = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "gib": used.ru_maxrss / GIBIBYTE,
            "sessions": sessions,
        }
        print(json.dumps(measured))
        return
    need("duckdb", "bench")
    sizes = [10**6, 10**7, *([10**8] if asked.full else [])]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            log = make(size, Path(folder))
            turns = 1 if size > 10**7 else TURNS
            found = {side: [] for side in SIDES}
            for _ in range(turns):
                for side, runs in found.items():
                    runs.append(run(side, log, Path(folder)))
            assert found["ours"][0]["sessions"] == found["duckdb"][0]["sessions"]
            seconds = {side: [each["seconds"] for each in runs] for side, runs in found.items()}
            cases.append(
                {"exposures": size}
                | {f"{side}_rows_per_second": significant(size / median(of)) for side, of in seconds.items()}
                | {
                    f"{side}_cpu_seconds": significant(median(each["cpu_seconds"] for each in runs))
                    for side, runs in found.items()
                }
                | {f"{side}_gib": significant(max(each["gib"] for each in runs)) for side, runs in found.items()}
                | ratio(seconds["duckdb"], seconds["ours"])
            )
    report(
        "preparation of a log, against DuckDB cutting the same sessions and no more",
        "seconds of DuckDB / ours, longest log",
        **{name: cases[-1][name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        cases=cases,
    )


if __name__ == "__main__":
    main()
