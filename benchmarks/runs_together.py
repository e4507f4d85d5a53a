"""The cost of K small runs side by side in one program, against one after the other, by size of the model.

    python benchmarks/runs_together.py [--sizes xxs s] [--together 8]
    python benchmarks/runs_together.py --sizes xxs xs s m l --together 4 16 64     # on an accelerator

These are whole runs on a small known-truth log that differ in seed and learning rate: packing, steps, log and the last
checkpoint. `ratio`: seconds of the loop of K runs together, without compiling, over the sum of the loops of the same
runs alone. Below 1 it pays to train them together. `whole` compares everything that `train` does (reading the
catalogue, cutting histories, the first state), which runs together do once. `input_wait_share` of the loop together
shows if packing, which is one run's work times K, still keeps up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import jax
from _bench import in_turns, ratio, report, significant
from _stored import OVERRIDES, stored

from experiments.plans.sizes import SIZES, sized
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.training.loop import train_together

USERS = 2_000
EPOCHS = 2.0
RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["xxs", "s"], choices=SIZES, help="of the ladder")
    parser.add_argument("--together", nargs="+", default=[8], type=int, help="runs in one program")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = stored(Path(folder), USERS)
        cases = [
            case(prepared, size, together, Path(folder))
            for size, together in itertools.product(args.sizes, args.together)
        ]
    best = min(cases, key=lambda of: of["ratio"])
    report(
        "K runs in one program against the same runs one after the other",
        "seconds of the loop of K runs together / of their loops alone, lowest of the cases",
        **{name: best[name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        cases=cases,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(prepared: Prepared, size: str, together: int, folder: Path) -> dict[str, Any]:
    base = resolve(replace(sized(Config(), size), OVERRIDES | {"mesh.data": 1, "train.epochs": EPOCHS}), prepared)
    configs = [
        replace(base, {"train.seed": seed, "optim.learning_rate_peak": 3e-3 / (1 + seed)}) for seed in range(together)
    ]
    numbers = itertools.count()
    loops: dict[str, list[float]] = {"together": [], "alone": []}
    waits: list[float] = []

    def trained(of: list[Config]) -> tuple[list[TrainedModel], list[Path]]:
        run_dirs = [folder / f"{size}-{together}-{next(numbers)}" for _ in of]
        return train_together(list(zip(of, run_dirs, strict=True)), prepared, quiet=True), run_dirs

    def side_by_side() -> None:
        runs, run_dirs = trained(configs)
        loops["together"].append(max(_loop_seconds(run) for run in runs))
        lines = [json.loads(line) for line in (run_dirs[0] / "metrics.jsonl").read_text().splitlines()]
        waits.append(median(line["input_wait_share"] for line in lines))

    def one_by_one() -> None:
        loops["alone"].append(sum(_loop_seconds(trained([config])[0][0]) for config in configs))

    whole = in_turns(RUNS, side_by_side, one_by_one)
    timed = {name: seconds[1:] for name, seconds in loops.items()}  # without the warm-up
    steps = trained(configs[:1])[0][0].history.steps
    return {
        "size": size,
        "together": together,
        **ratio(timed["together"], timed["alone"]),
        "whole": ratio(*whole),
        "ms_a_step": {name: significant(1e3 * median(seconds) / steps) for name, seconds in timed.items()},
        "input_wait_share": significant(median(waits[1:])),
        "steps": steps,
    }


def _loop_seconds(run: TrainedModel) -> float:
    return run.history.counters.wall_seconds - run.history.counters.compile_seconds


if __name__ == "__main__":
    main()
