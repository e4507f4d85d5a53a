"""The time that a client waits for `sessionrec serve`, with a million items and 32 clients at once. Needs wrk.

    python benchmarks/serving.py [--seconds 30] [--clients 32] [--items-base 100]

A model of random parameters (width 64, two layers) is exported and served on the loopback address; wrk sends histories
of four sessions, each client the next one when it has its answer. The ratio is the median latency over the seconds of
one call of the bare program for as many histories: 1 would be a service that costs nothing and never waits. A client
that asks while a batch computes waits for that batch and for its own, so 2 is usual. `errors` counts refused, failed
and timed-out requests.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import jax
import numpy as np
from _bench import in_turns, need, report, significant

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_replicated
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.serving.export import export
from sessionrec_jax.serving.exported import ExportedModel

K, BODIES = 50, 1_000
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


def exported(folder: Path, base: int) -> Path:
    """Exports a model of base ** 3 items whose parameters are those before training, with random heads."""
    raw = synthetic.read(synthetic.Options(users=500, base=base, depth=3, seed=1))
    log = prepare(raw, folder / "DATA", Settings())
    config = resolve(replace(Config(), {"mesh.data": 1}), log)
    catalogue = train_catalogue(config, log)
    spec = spec_of(config, log, catalogue)
    params = sessionrec.init(spec, jax.random.key(0), catalogue)
    retrieval = np.random.default_rng(0).standard_normal(params["heads"]["retrieval"].shape).astype(np.float32)
    params = params | {"heads": params["heads"] | {"retrieval": retrieval}}
    mesh = make_mesh(config.mesh)
    run = TrainedModel(config, log, catalogue, spec, mesh, put_replicated(params, mesh), 0)
    export(run, None, folder / "MODEL", K)
    return folder / "MODEL"


def bodies(items: int) -> list[dict]:
    """Returns histories of four sessions of five exposures."""
    rng = np.random.default_rng(1)
    return [
        {
            "user": user,
            "k": K,
            "sessions": [
                [{"item": int(item), "clicked": place == 0} for place, item in enumerate(session_N)]
                for session_N in rng.integers(0, items, (4, 5))
            ],
        }
        for user in range(BODIES)
    ]


def loaded(model: Path, script: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Starts the service, sends requests for some seconds, and returns what wrk counted."""
    serve = [sys.executable, "-m", "experiments", "serve", str(model), "--port", "0", "--batch", str(arguments.clients)]
    service = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    try:
        address = next(found[1] for line in service.stderr if (found := re.search(r"listening at (\S+)", line)))
        wrk = ["wrk", "-t", "1", "-c", str(arguments.clients), "--timeout", "60s", "-s", str(script), address]
        subprocess.run([*wrk, "-d", "3s"], capture_output=True, check=True)
        done = subprocess.run([*wrk, "-d", f"{arguments.seconds}s"], capture_output=True, text=True, check=True)
    finally:
        service.terminate()
        service.wait()
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--items-base", type=int, default=100, help="the cube root of the number of items")
    arguments = parser.parse_args()
    need("uvicorn", "serve")
    if shutil.which("wrk") is None:
        print("this benchmark needs wrk; wanted: apt-get install wrk", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = exported(folder, arguments.items_base)
        users = bodies(arguments.items_base**3)
        (folder / "bodies.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
        script = folder / "requests.lua"
        script.write_text(SCRIPT.replace("BODIES", str(folder / "bodies.jsonl")))
        bare, some = ExportedModel.read(model), [{**user} for user in users[: arguments.clients]]
        for user in some:
            del user["k"]
        [seconds] = in_turns(5, lambda: bare.recommend(some, K, places=arguments.clients))
        del bare
        counted = loaded(model, script, arguments)
    report(
        "how long does a client of `sessionrec serve` wait?",
        "median latency / seconds of one bare call for all clients",
        ratio=significant(counted["p50_ms"] / 1e3 / median(seconds)),
        items=arguments.items_base**3,
        clients=arguments.clients,
        bare_call_ms=significant(median(seconds) * 1e3),
        requests_per_second=significant(counted["requests"] / counted["seconds"]),
        **{name: significant(counted[name]) for name in ("p50_ms", "p99_ms")},
        requests=counted["requests"],
        errors=counted["errors"],
    )


if __name__ == "__main__":
    main()
