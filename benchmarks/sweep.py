"""The cost of a sweep's machinery a run, and a check that killed workers lose and repeat no run.

    python benchmarks/sweep.py

First: runs that only write their row, by a sweep and by a plain pool of the same number of processes, which has no
leases, no other hosts and no deaths. `ratio`: seconds of the sweep over the pool's. Second: tiny real runs, one after
the other in one worker; measured is the time beyond the runs themselves. Third: 1,000 runs that sleep up to .2 s, by
workers that are killed after a second on average.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from _bench import in_turns, ratio, report, significant
from _disturbed import at_once, disturbed

from experiments.plans.grid import Plan
from experiments.sweep import sweep_folder
from experiments.sweep.launch.local import Launcher
from experiments.sweep.worker_options import Write
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.runfolder.files import write_json
from sessionrec_jax.runfolder.stopping import Stop

TURNS = 3
EMPTY_RUNS = 400
REAL_RUNS = 6
DISTURBED_RUNS = 1_000
WORKERS = 8
SMALL = {
    "data.rows": 4, "data.sessions_per_row": 16, "model.id_width": 8, "model.side_width": 4, "loss.negatives": 32,
}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_pool, in_sweep = empty_runs(Path(folder))
        outside = real_runs(Path(folder))
        outcome = disturbed(Path(folder) / "disturbed", DISTURBED_RUNS, Launcher(WORKERS))
    report(
        "A sweep's machinery against a plain pool of processes, and with workers killed at random",
        "seconds of a sweep of empty runs / of a pool",
        **ratio(in_sweep, in_pool),
        sweep_seconds_a_run=significant(min(in_sweep) / EMPTY_RUNS),
        real_overhead_seconds_a_run=significant(outside),
        empty_runs=EMPTY_RUNS,
        real_runs=REAL_RUNS,
        workers=WORKERS,
        disturbed=outcome._asdict() | {"seconds": significant(outcome.seconds), "runs": DISTURBED_RUNS},
    )


def empty_runs(folder: Path) -> tuple[list[float], list[float]]:
    """Returns the seconds of the pool's turns and of the sweep's."""
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(EMPTY_RUNS)]
    sweeps, pools = (iter([folder / f"{kind}{turn}" for turn in range(TURNS)]) for kind in ("sweep", "pool"))

    def by_sweep() -> None:
        sweep_dir = next(sweeps)
        sweep_folder.begin(sweep_dir, "empty", configs, {})
        Launcher(WORKERS).launch(sweep_dir, at_once)

    def by_pool() -> None:
        pool_dir = next(pools)
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(write_row, configs, [pool_dir] * len(configs)))

    return tuple(in_turns(TURNS, by_pool, by_sweep, warm_up=False))


def write_row(config: Config, pool_dir: Path) -> None:
    run_dir = pool_dir / run_id(config)
    run_dir.mkdir(parents=True)
    at_once(config, run_dir, "empty", stop=None, write=write_json)


def real_runs(folder: Path) -> float:
    """Returns the seconds a run that a sweep of one worker takes beyond the runs themselves.

    The start of the worker and of jax is included, divided over the runs.
    """
    prepared = prepare(
        synthetic.read(synthetic.Options(users=200, base=4, depth=3, seed=1)), folder / "log", Settings()
    )
    base = replace(Config(), SMALL | {"data.path": str(prepared.path)})
    layout = Plan(users=(80,), sizes=("xxs",), epochs=(2.0,), seeds=tuple(range(REAL_RUNS))).lay_out(base, prepared)
    sweep_folder.begin(folder / "real", "grid", layout.configs, layout.files)
    start = time.monotonic()
    Launcher(1).launch(folder / "real", timed)
    seconds = time.monotonic() - start
    inside = [float(path.read_text()) for path in (folder / "real").glob("runs/*/seconds")]
    return (seconds - sum(inside)) / len(inside)


def timed(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write) -> None:
    from sessionrec_jax.row import run  # starts jax, which is not the run's time

    start = time.monotonic()
    run(config, run_dir, plan, quiet=True, stop=stop, write=write)
    (run_dir / "seconds").write_text(str(time.monotonic() - start))


if __name__ == "__main__":
    main()
