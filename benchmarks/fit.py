"""Times `scaling` and scipy on a whole Chinchilla analysis, and a default fit by its number of rows.

    python benchmarks/fit.py [runs.csv] [--full] [--rows 500 2000 20000]

It has the 4,500 starts of Hoffmann et al. 2203.15556 and 4,000 bootstraps, Huber's loss with delta 1e-3, of the
points of that paper's figure 4 (columns "Model Size", "Training FLOP", "loss"; the five of highest loss left out), or
of 240 planted ones where the file is not there. The contenders:

    ours           `Problem.minima`, which drops hopeless starts on the way, and `Problem.bootstrap`
    ours_threaded  the same with one BLAS thread a core; all others have one thread
    every_start    the same, but every start goes on until it converges
    tuned          scipy's fastest methods with exact derivatives, on all cores, see `_recipes.py`
    copied         scipy as most notebooks have it

Each runs in a process of its own, in turns. Without --full scipy runs a random part of the starts and of the
resamples, and its time is scaled up. Above 1 `scaling` is faster. Expect 25 to 50 against tuned scipy in CPU time, and
objectives of the resamples that agree to rounding.

A second line has `scaling.fit` with all its defaults (bootstrap, profiles, held-out runs, other forms) on planted
tables with these numbers of rows: seconds and the highest memory of the process. Its ratio is that of the most rows to
the fewest.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import _recipes
import numpy as np
import polars as pl
import scipy
from _bench import ratio, report, significant

import scaling
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import FULL_TABLE, Problem, resamplings
from scaling.laws.registry import LAWS
from scaling.laws.size_and_data import hoffmann_starts
from scaling.table.run_table import Columns, RunTable, from_frame

FIGURE4 = Path(__file__).parents[2] / "shared" / "data" / "scaling" / "chinchilla_figure4.csv"
PLANTED = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
DELTA, STARTS, DRAWS, SEED = 1e-3, 4500, 4000, 42
HUBER = Objective("huber", DELTA)
PARTS = {"tuned": (450, 400), "copied": (60, 60)}
"""Starts and resamples that scipy runs without --full."""
TURNS = 3
ROWS = (500, 2_000, 20_000)
AT_OPTIMUM = 1e-6
"""Relative excess of the objective over the lowest."""

Found = dict[str, np.ndarray]
"""A contender's result: start_objective [S], draw [D] (which resamples), draw_objective [D], seconds as by `clock`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="?", type=Path, default=FIGURE4)
    parser.add_argument("--full", action="store_true", help="no part of scipy's work is left out; some minutes")
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS, help="rows of the default fits; none: only scipy")
    parser.add_argument("--contender", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, into = options.contender
        found = default_fit(int(name)) if name.isdigit() else contend(name, table_of(options.csv), options.full)
        np.savez(into, **found)
    else:
        compare(options.csv, options.full)
        if options.rows:
            by_rows(sorted(options.rows))


def compare(csv: Path, full: bool) -> None:
    turns: dict[str, list[Found]] = {name: [] for name in ("ours", "ours_threaded", "every_start", "tuned")}
    for _ in range(TURNS):
        for name, found in turns.items():
            found.append(in_own_process(name, csv, full))
    turns["copied"] = [in_own_process("copied", csv, full)]
    first = {name: found[0] for name, found in turns.items()}
    lowest = first["ours"]["start_objective"].min()
    cpu_s = {name: [float(one["starts_cpu_s"] + one["draws_cpu_s"]) for one in found] for name, found in turns.items()}
    report(
        "Chinchilla analysis, 4,500 starts and 4,000 bootstraps, against scipy",
        "CPU seconds of tuned scipy / of scaling",
        **ratio(cpu_s["tuned"], cpu_s["ours"]),
        ratio_every_start=significant(median(cpu_s["tuned"]) / median(cpu_s["every_start"])),
        ratio_of_copied=significant(cpu_s["copied"][0] / median(cpu_s["ours"])),
        points=csv.stem if csv.exists() else "planted",
        seconds={name: seconds(found) for name, found in turns.items()},
        starts_run={name: len(first[name]["start_objective"]) for name in PARTS},
        draws_run={name: len(first[name]["draw"]) for name in PARTS},
        objective=float(lowest),
        best_start_excess={name: float(first[name]["start_objective"].min() / lowest - 1) for name in PARTS},
        starts_at_optimum={
            name: significant(float(np.mean(first[name]["start_objective"] <= lowest * (1 + AT_OPTIMUM))))
            for name in ("every_start", *PARTS)
        },
        draws_worst_excess={
            "ours_over_tuned": worst_excess(first["ours"], first["tuned"]),
            "tuned_over_ours": worst_excess(first["tuned"], first["ours"]),
            "copied_over_ours": worst_excess(first["copied"], first["ours"]),
        },
        turns=TURNS,
        numpy_version=np.__version__,
        scipy_version=scipy.__version__,
    )


def by_rows(rows: list[int]) -> None:
    turns = {count: in_own_process(str(count), FIGURE4, full=False) for count in rows}
    wall_s, cpu_s = ([float(found[f"fit_{kind}_s"]) for found in turns.values()] for kind in ("wall", "cpu"))
    report(
        "a default fit by its number of rows",
        f"wall seconds of {rows[-1]:,} rows / of {rows[0]:,}",
        ratio=significant(wall_s[-1] / wall_s[0]),
        rows=rows,
        wall_s=[significant(seconds) for seconds in wall_s],
        cpu_s=[significant(seconds) for seconds in cpu_s],
        highest_memory_mb=[significant(float(found["memory_mb"])) for found in turns.values()],
        draws=scaling.fit.__kwdefaults__["bootstrap"],
    )


def default_fit(rows: int) -> Found:
    _, took = clock("fit", lambda: scaling.fit(planted(rows), "chinchilla"))
    return took | {"memory_mb": np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def in_own_process(name: str, csv: Path, full: bool) -> Found:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if name == "ours_threaded":
        del environment["OPENBLAS_NUM_THREADS"]
    with tempfile.TemporaryDirectory() as folder:
        into = str(Path(folder) / "found.npz")
        command = [sys.executable, __file__, str(csv), "--contender", name, into, *["--full"] * full]
        subprocess.run(command, env=environment, check=True)
        return dict(np.load(into))


def seconds(turns: list[Found]) -> dict[str, float]:
    names = ("starts_cpu_s", "draws_cpu_s", "starts_wall_s", "draws_wall_s")
    return {name: significant(median(float(one[name]) for one in turns)) for name in names}


def worst_excess(one: Found, other: Found) -> float:
    """Returns the largest relative excess of one's objective over the other's, among the resamples that both ran."""
    _, of_one, of_other = np.intersect1d(one["draw"], other["draw"], return_indices=True)
    return float((one["draw_objective"][of_one] / other["draw_objective"][of_other] - 1).max())


def contend(name: str, table: RunTable, full: bool) -> Found:
    if name in PARTS:
        return one_by_one(name, table, *((STARTS, DRAWS) if full else PARTS[name]))
    problem = Problem.of(table, LAWS["chinchilla"], None)
    if name == "every_start":
        grid = hoffmann_starts(problem.centre)
        found, took = clock("starts", lambda: problem.minimize(HUBER, grid, max_steps=300))
        minima = found.take(np.argsort(found.objective_S)[:1])
    else:
        found, took = clock("starts", lambda: problem.minima(HUBER, usual=True))
        minima = found
    theta_SP, took_draws = clock(
        "draws", lambda: problem.bootstrap(HUBER, minima, table.cluster, draws=DRAWS, seed=SEED, stream=FULL_TABLE)
    )
    if len(theta_SP) < DRAWS:
        raise SystemExit(f"{DRAWS - len(theta_SP)} of {DRAWS} resamples did not converge: nothing to compare")
    return took | took_draws | objectives(problem, found.theta_SP, np.arange(DRAWS), theta_SP)


def one_by_one(name: str, table: RunTable, starts: int, draws: int) -> Found:
    """scipy, on as many of the starts and of the resamples; each resample begins at the best start's end."""
    far, near, processes = {
        "copied": (_recipes.copied, _recipes.copied, 1),
        "tuned": (_recipes.tuned_far, _recipes.tuned_near, len(os.sched_getaffinity(0))),
    }[name]
    problem = Problem.of(table, LAWS["chinchilla"], None, centre={"n": 1.0, "d": 1.0})
    rows = _recipes.FitRows(np.log(table.n), np.log(table.d), np.log(table.loss))
    rng = np.random.default_rng(0)
    grid = rng.permutation(hoffmann_starts(problem.centre))[:starts]
    draw = np.sort(rng.permutation(DRAWS)[:draws])
    weight_DR = resamplings(table.cluster, DRAWS, SEED)[draw].astype(int)

    def all_of(method: Callable, tasks: Iterable) -> np.ndarray:
        with multiprocessing.Pool(processes) as pool:
            theta_SP = np.array(pool.starmap(method, tasks, chunksize=10))
            pool.close()
            pool.join()  # their CPU time counts from here
        return theta_SP

    theta_SP, took = clock("starts", lambda: all_of(far, [(rows, DELTA, start) for start in grid]), STARTS / starts)
    best = theta_SP[
        np.argmin(HUBER.total(np.log(problem.response) - problem.bound.log(theta_SP), np.ones((1, len(table)))))
    ]
    resampled = [rows.take(np.repeat(np.arange(len(table)), weight)) for weight in weight_DR]
    theta_DP, took_draws = clock("draws", lambda: all_of(near, [(r, DELTA, best) for r in resampled]), DRAWS / draws)
    return took | took_draws | objectives(problem, theta_SP, draw, theta_DP)


def clock(name: str, work: Callable[[], Any], scale: float = 1.0) -> tuple[Any, dict[str, float]]:
    """Returns the result of `work`, and its seconds of CPU (with ended children) and of wall time, times `scale`."""
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    result = work()
    wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s
    return result, {f"{name}_cpu_s": cpu_s * scale, f"{name}_wall_s": wall_s * scale}


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def objectives(problem: Problem, theta_SP: np.ndarray, draw: np.ndarray, theta_DP: np.ndarray) -> Found:
    """Returns the objectives of starts and of resamples, computed by the same sum for every contender."""
    rows = np.arange(len(problem.response))
    weight_DR = resamplings(rows, DRAWS, SEED)[draw]

    def total(theta_SP: np.ndarray, weight_SR: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # starts that scipy threw far away
            return HUBER.total(np.log(problem.response) - problem.bound.log(theta_SP), weight_SR)

    return {
        "start_objective": np.nan_to_num(total(theta_SP, np.ones((1, len(rows)))), nan=np.inf),
        "draw": draw,
        "draw_objective": total(theta_DP, weight_DR),
    }


def table_of(csv: Path) -> RunTable:
    """Raises SystemExit for a path that is not there, unless it is the default one."""
    if csv.exists():
        columns = Columns(n="Model Size", flops="Training FLOP", loss="loss")
        return from_frame(pl.read_csv(csv), columns, drop_worst=5)
    if csv != FIGURE4:
        raise SystemExit(f"{csv} is not there")
    return planted(240)


def planted(rows: int) -> RunTable:
    rng = np.random.default_rng(1)
    n, d = (np.exp(rng.uniform(*np.log(ends), rows)) for ends in ((5e7, 1.5e10), (5e8, 3e11)))
    loss = PLANTED["E"] + PLANTED["A"] * n ** -PLANTED["alpha"] + PLANTED["B"] * d ** -PLANTED["beta"]
    frame = pl.DataFrame({"n": n, "d": d, "loss": loss * np.exp(0.01 * rng.standard_normal(rows))})
    return from_frame(frame, Columns(n="n", d="d", loss="loss"), source="planted")


if __name__ == "__main__":
    main()
