"""The CPU time and memory from a prepared log to its first batch, and how they grow with the users.

    python benchmarks/opening.py [--users 10000 100000 1000000] [--logs FOLDER]

Logs of the known-truth process, six sessions of five exposures a user, eight epochs. Each stage of each log is timed in
a process of its own, after its imports: opening, filling in the settings, counting the catalogue, counting the steps of
the run, and its first batch; compilation is not among them. CPU seconds, so that other work on the machine counts less.
Private memory is what the process has of its own, in GiB; pages of mapped files, which processes share, are not in it.
The other side decodes the records of the same log, as the first opening of a log without mapped arrays does. `ratio`:
seconds of decoding over those of opening, most users.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _bench import ratio, report, significant

USERS = (10_000, 100_000)  # a million take ten minutes
EPOCHS = 8.0
TURNS = 3
GIBIBYTE = 2**20  # in kibibytes


def private_gib() -> float:
    status = Path("/proc/self/status").read_text()
    return sum(int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("RssAnon", "VmSwap")) / GIBIBYTE


def stages(path: Path) -> dict[str, float]:
    """Returns the seconds of each stage, and the private memory that they took."""
    from sessionrec_jax.config.settings import Config
    from sessionrec_jax.config.values import replace
    from sessionrec_jax.data.batches import shape_of, train_batches, train_catalogue
    from sessionrec_jax.data.resolve import resolve
    from sessionrec_jax.data.store import open_log

    found, before = {}, private_gib()
    last = begin = time.process_time()

    def done(stage: str) -> None:
        nonlocal last
        found[stage], last = time.process_time() - last, time.process_time()

    log = open_log(path)
    log.arrays()
    done("open")
    config = resolve(replace(Config(), {"train.epochs": EPOCHS}), log)
    done("resolve")
    train_catalogue(config, log)
    done("catalogue")
    batches = train_batches(config, log, shape_of(config, 1))
    steps = len(batches)
    done("steps")
    next(batches)
    done("first_batch")
    return found | {"total": last - begin, "private_gib": private_gib() - before, "number_of_steps": steps}


def decode(path: Path) -> dict[str, float]:
    """Returns the seconds in which the records of a log are decoded, and the private memory that they took."""
    from sessionrec_jax.data.store import open_log

    before, log = private_gib(), open_log(path)
    start = time.process_time()
    decoded = log.sample(log.users)
    return {
        "open": time.process_time() - start,
        "private_gib": private_gib() - before,
        "exposures": len(decoded.item_N),
    }


SIDES = {"stages": stages, "decode": decode}


def run(side: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--log", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def make(users: int, folder: Path) -> Path:
    """Prepares a log, if `folder` does not have it already."""
    from sessionrec_jax.data.preparation.prepare import Settings, prepare
    from sessionrec_jax.data.sources import synthetic

    if not (folder / str(users)).exists():
        options = synthetic.Options(users=users, sessions_mean=6.0, exposures_mean=4.0)
        prepare(synthetic.read(options), folder / str(users), Settings(validation_users=500, test_users=500))
    return folder / str(users)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=USERS)
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side](asked.log)))
        return
    cases = []
    with tempfile.TemporaryDirectory() as temporary:
        for users in asked.users:
            path = make(users, asked.logs or Path(temporary))
            found = {side: [] for side in SIDES}
            for _ in range(TURNS):
                for side, runs in found.items():
                    runs.append(run(side, path))
            cases.append(
                {"users": users}
                | {name: significant(median(each[name] for each in found["stages"])) for name in found["stages"][0]}
                | {
                    f"decode_{name}": significant(median(each[name] for each in found["decode"]))
                    for name in ("open", "private_gib")
                }
                | ratio(*([each["open"] for each in found[side]] for side in ("decode", "stages")))
            )
    report(
        "from a prepared log to its first batch",
        "CPU seconds of decoding the records / of opening the log, most users",
        **{name: cases[-1][name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        cases=cases,
    )


if __name__ == "__main__":
    main()
