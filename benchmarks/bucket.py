"""The time of a bucket at three places where a command waits for it: a log, a checkpoint, a lease.

    AWS_ENDPOINT_URL=http://127.0.0.1:5000 python benchmarks/bucket.py s3://BUCKET/NAME [--users 20000]

A log of the known-truth process is written, then opened by a machine without a copy (`first`) and by one with a copy
(`again`); the same log in a folder is `folder`. `checkpoint_MiB` are written as one object, and read. `lease` is a
heartbeat with its look at the successor, `look` what a worker that waits does each time. Wall seconds, least of five.
`ratio`: seconds of the first opening over those of the next.
"""

from __future__ import annotations

import argparse
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import need, report, significant

MEBIBYTES = 64


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def least(call: Callable[[], Any], runs: int = 5) -> float:
    return significant(min(seconds(call) for _ in range(runs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--users", type=int, default=20_000)
    asked = parser.parse_args()
    need("obstore", "bucket")
    import sessionrec_jax as sr
    from doors.address import address_of
    from doors.storage import cache, copies
    from experiments.sweep.bucket_leases import leases_of

    address = address_of(f"{asked.address}/{uuid.uuid4().hex}")
    prepare = {"users": asked.users, "base": 4, "depth": 3, "quiet": True}
    data, folder = str(address / "DATA"), cache.of_this_process() / "DATA"
    found = {"write": seconds(lambda: sr.prepare("synthetic", out=data, **prepare))}
    found["prepare_folder"] = seconds(lambda: sr.prepare("synthetic", out=folder, **prepare))
    copy = sr.open_log(data).path

    def first() -> None:
        shutil.rmtree(copy)
        sr.open_log(data)

    found |= {"first": least(first), "again": least(lambda: sr.open_log(data))}
    found["folder"] = least(lambda: sr.open_log(folder))

    run = copies.for_writing(str(address / "RUN"))
    checkpoint: Path = run / "checkpoints" / "1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "arrays").write_bytes(bytes(MEBIBYTES << 20))
    found["checkpoint_write"] = least(lambda: copies.push_checkpoint(checkpoint))
    copies.drop(run / "checkpoints")
    found["checkpoint_read"] = seconds(lambda: copies.pull(run))

    leases = leases_of(copies.opened(str(address / "SWEEP")))
    lease = leases.take("0", 0, lambda: None)
    found |= {"lease": least(lease.renew), "look": least(leases.newest)}
    report(
        "waiting for a bucket",
        "wall seconds of the first opening of a log / of the next",
        ratio=significant(found["first"] / found["again"]),
        users=asked.users,
        log_bytes=sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
        checkpoint_MiB=MEBIBYTES,
        seconds={name: significant(value) for name, value in found.items()},
    )


if __name__ == "__main__":
    main()
