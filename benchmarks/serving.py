"""The time that a client waits for `sessionrec serve`, exact and approximate, with a million items. Needs wrk.

    python benchmarks/serving.py [--requests 20000] [--exact-seconds 60] [--clients 32] [--processes 2]
                                 [--items-base 100]

A model (width 64, two layers) is trained for one epoch on a drawn log, exported with an index and served on the
loopback address; wrk sends histories of four sessions, each client the next one when it has its answer. In the log each
user has three of many topics, and topics and items have power laws of popularity: the item vectors have the structure
of their topics, because an index of random vectors finds nothing. The recall is that of the export, on histories of the
log. The exact service is loaded for `--exact-seconds`, the approximate one for about `--requests`.

The ratio is the median latency of the approximate service over that of the exact one. `cpu_ms` is the CPU time of the
service a request, `errors` counts refused, failed and timed-out requests.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from _bench import need, report, significant

import sessionrec_jax as sr
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import RawLog

K, BODIES, USERS, SESSIONS, SHOWN, TOPICS_OF_USER = 50, 1_000, 6_000, 8, 6, 3
WARM_SECONDS = 5
START_MS, DAY_MS, PAUSE_MS = 1_704_067_200_000, 86_400_000, 10_000
SCRIPT = """
local bodies, place = {}, 0
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
function request()
  place = place % #bodies + 1
  return wrk.format("POST", "/recommend", {["Content-Type"] = "application/json"}, bodies[place])
end
function done(summary, latency)
  local e = summary.errors
  print(string.format('{"requests": %d, "errors": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}', summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3))
end
"""


def exposures(base: int, users: int, seed: int) -> pl.DataFrame:
    """Draws the exposures of users over base ** 3 items in base ** 2 topics: seven of ten from the user's topics, of
    which eight of ten are clicked, and of the others one of ten."""
    rng, topics = np.random.default_rng(seed), base**2
    by_popularity = np.random.default_rng(0).permutation(topics)

    def drawn(count: int, exponent: float, shape: int | tuple[int, int]) -> np.ndarray:
        share = np.arange(1, count + 1) ** -exponent
        return np.searchsorted(np.cumsum(share) / share.sum(), rng.random(shape))

    user_N, place_N = np.divmod(np.arange(users * SESSIONS * SHOWN), SESSIONS * SHOWN)
    session_N, count = place_N // SHOWN, len(user_N)
    own_topic = by_popularity[drawn(topics, 0.6, (users, TOPICS_OF_USER))]
    is_own_N = rng.random(count) < 0.7
    own_topic_N = own_topic[user_N, rng.integers(0, TOPICS_OF_USER, count)]
    topic_N = np.where(is_own_N, own_topic_N, by_popularity[drawn(topics, 0.6, count)])
    return pl.DataFrame(
        {
            "user_id": user_N,
            "item_id": topic_N * base + drawn(base, 0.8, count),
            "timestamp_ms": START_MS + session_N * DAY_MS + place_N % SHOWN * PAUSE_MS,
            "clicked": rng.random(count) < np.where(is_own_N, 0.8, 0.1),
            "session_id": session_N,
        }
    )


def exported(folder: Path, base: int) -> Path:
    """Trains a model and exports it with an index."""
    item_N = np.arange(base**3)
    items = pl.DataFrame({"item_id": item_N, "group": item_N // base**2, "topic": item_N // base})
    raw = RawLog("topics", exposures(base, USERS, seed=1), items, session_rule="session_id")
    log = prepare(raw, folder / "DATA", Settings())
    run = sr.train(log, folder / "RUN", {"train.epochs": 1.0, "data.eval_users": 200}, quiet=True)
    run.export(folder / "MODEL", K, "approximate")
    return folder / "MODEL"


def bodies(base: int) -> list[dict]:
    """Returns histories of four sessions of users who are not in the log of training."""
    sessions = exposures(base, BODIES, seed=2).filter(pl.col("session_id") < 4)
    parts = sessions.select("user_id", "session_id", pl.struct(item="item_id", clicked="clicked")).partition_by(
        "user_id", "session_id", maintain_order=True
    )
    users = [{"user": user, "k": K, "sessions": []} for user in range(BODIES)]
    for part in parts:
        users[part["user_id"][0]]["sessions"].append(part["item"].to_list())
    return users


def loaded(model: Path, search: str, script: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Starts the service, sends requests for some seconds, and returns what wrk counted and the CPU time."""
    serve = [sys.executable, "-m", "experiments", "serve", str(model), "--port", "0", "--search", search]
    count = arguments.processes
    service = subprocess.Popen([*serve, "--processes", str(count)], stderr=subprocess.PIPE, text=True)
    try:
        listening = (found[1] for line in service.stderr if (found := re.search(r"listening at (\S+)", line)))
        *_, address = [next(listening) for _ in range(count)]
        wrk = ["wrk", "-t", "1", "-c", str(arguments.clients), "--timeout", "60s", "-s", str(script), address, "-d"]
        warm = _counted([*wrk, f"{WARM_SECONDS}s"])
        seconds = math.ceil(arguments.requests / max(1, warm["requests"]) * warm["seconds"])
        before = _cpu_seconds(service.pid)
        found = _counted([*wrk, f"{seconds if search == 'approximate' else arguments.exact_seconds}s"])
        return found | {"cpu_ms": (_cpu_seconds(service.pid) - before) / found["requests"] * 1e3}
    finally:
        service.terminate()
        service.wait()


def _counted(wrk: list[str]) -> dict[str, float]:
    return json.loads(subprocess.run(wrk, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def _cpu_seconds(process: int) -> float:
    """Returns the CPU time of a process, its threads and its children so far, by Linux's /proc."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_seconds, map(int, children)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--exact-seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="those of the service")
    parser.add_argument("--items-base", type=int, default=100, help="the cube root of the number of items")
    arguments = parser.parse_args()
    need("uvicorn", "serve")
    need("faiss", "search")
    if shutil.which("wrk") is None:
        print("this benchmark needs wrk; wanted: apt-get install wrk", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = exported(folder, arguments.items_base)
        (folder / "bodies.jsonl").write_text("".join(json.dumps(user) + "\n" for user in bodies(arguments.items_base)))
        script = folder / "requests.lua"
        script.write_text(SCRIPT.replace("BODIES", str(folder / "bodies.jsonl")))
        found = {search: loaded(model, search, script, arguments) for search in ("exact", "approximate")}
        index = json.loads((model / "model.json").read_text())["search"]
    report(
        "how long does a client of `sessionrec serve` wait?",
        "median latency, approximate / exact",
        ratio=significant(found["approximate"]["p50_ms"] / found["exact"]["p50_ms"]),
        items=arguments.items_base**3,
        clients=arguments.clients,
        processes=arguments.processes,
        **{
            f"{search}_{column}": value if column in ("requests", "errors") else significant(value)
            for search, counted in found.items()
            for column, value in (counted | {"per_second": counted["requests"] / counted["seconds"]}).items()
        },
        **{f"index_{column}": value for column, value in index.items()},
    )


if __name__ == "__main__":
    main()
