"""Halving: the learning rates that validate worst are dropped after a quarter and after a half of the steps.

A cell is the runs of a sweep that differ in learning rate and seed alone. Each run of it trains to a quarter of its
steps, saves a checkpoint, validates and is released. When all have done so, the better half of the rates go on, at
least two, from their checkpoints; at a half of the steps once more (successive halving, Jamieson & Talwalkar
1502.07943). The learning rate follows the schedule of the whole run, so a run that is kept ends with the bits of an
uninterrupted one.

The sweep folder is the only state: RUN/halving.json has the validations of a run, and a dropped run gets a row with
status dropped from any worker that finds it. So workers may die and others take over at any moment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from doors.state import Damaged, Kinds, checked, read_object
from experiments.sweep import sweep_folder
from experiments.sweep.worker_options import Write
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.row_columns import OBJECTIVE, VALIDATION_NDCG
from sessionrec_jax.runfolder.files import VALIDATED, read_json, read_row
from sessionrec_jax.runfolder.stopping import Stop

PARTS = (0.25, 0.5)
"""The parts of a run's steps after which rates are dropped."""
_FEWEST = 2
"""Rates that stay at least."""


class Next(NamedTuple):
    """The next thing that a run without a row does."""

    part: float = 1.0
    """It trains until this part of its steps is done."""
    waits: bool = False
    """It waits until the other runs of its cell have validated."""
    dropped: str = ""
    """The reason why it is dropped; empty if it is not."""


def is_ready(sweep_dir: Path, configs: Mapping[str, Config], name: str) -> bool:
    """Returns False while a run waits: for the checkpoint that it begins from, or for the other rates of its cell."""
    return sweep_folder.is_ready(sweep_dir, configs[name]) and not next_of(sweep_dir, configs, name).waits


def next_of(sweep_dir: Path, configs: Mapping[str, Config], name: str) -> Next:
    """Returns what the run does next. `configs`: all runs of the sweep."""
    if configs[name].optim.learning_rate_rule != "halving":
        return Next()
    by_rate: dict[float, list[str]] = defaultdict(list)
    for other, config in configs.items():
        if cell(config) == cell(configs[name]):
            by_rate[config.optim.learning_rate_peak].append(other)
    own, left = configs[name].optim.learning_rate_peak, sorted(by_rate)
    for part in PARTS:
        if kept_of(len(left)) == len(left):
            break
        if _validated(sweep_dir, name, part) is None:
            return Next(part)
        score = {rate: _mean([_score(sweep_dir, each, part) for each in by_rate[rate]]) for rate in left}
        if None in score.values():
            return Next(waits=True)
        kept = sorted(left, key=lambda rate: (score[rate], rate))[: kept_of(len(left))]
        if own not in kept:
            listed = ", ".join(f"{rate:g}" for rate in sorted(kept))
            return Next(dropped=f"after {part:g} of the steps the learning rates {listed} validated better")
        left = kept
    return Next()


def cell(config: Config) -> Config:
    """Returns a key that is equal for runs which differ in learning rate and seed alone."""
    return replace(config, {"optim.learning_rate_peak": 1.0, "train.seed": 0})


def kept_of(rates: int) -> int:
    """Returns how many of some rates stay."""
    return min(rates, max(_FEWEST, math.ceil(rates / 2)))


def _validated(sweep_dir: Path, name: str, part: float) -> dict[str, Any] | None:
    path = sweep_folder.run_dir(sweep_dir, name) / VALIDATED
    try:
        found = read_object(path, {}).get(str(part))
        return None if found is None else checked(found, _KINDS, str(path))
    except (Damaged, FileNotFoundError):
        return None  # the run validates again after this part


_KINDS: Kinds = {"step": int, "steps": int, "flops_spent": (int, float)}


def _score(sweep_dir: Path, name: str, part: float) -> float | None:
    """Returns a run's validation at this part, lower is better; None if it is not known yet. A run that ended before
    it has the worst score, except that a finished one stays, since it costs nothing more."""
    found = _validated(sweep_dir, name, part)
    if found is None:
        try:
            row = read_row(sweep_folder.run_dir(sweep_dir, name))
        except Damaged:
            return math.inf
        return row and (-math.inf if row["status"] == "done" else math.inf)
    is_comparison = (sweep_dir / "comparison.json").exists()  # whose arms are chosen by a metric that should be high
    value = found.get(VALIDATION_NDCG if is_comparison else OBJECTIVE)
    return math.inf if value is None else -value if is_comparison else value


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    return math.inf if math.inf in known else sum(known) / len(known)


def drop(config: Config, run_dir: Path, plan: str, *, reason: str, stop: Stop, write: Write) -> None:
    """Writes the row of a dropped run: a DoRun that trains nothing."""
    from sessionrec_jax.row import identity  # starts jax, after the environment is set

    del stop
    last = list(read_json(run_dir / VALIDATED).values())[-1]
    saved = last["flops_spent"] * (last["steps"] / last["step"] - 1)
    columns = {"steps": last["steps"], "steps_taken": last["step"], "flops_spent": last["flops_spent"]}
    row = {"status": "dropped", "reason": reason, **columns, "flops_saved": saved, OBJECTIVE: last[OBJECTIVE]}
    write(run_dir / "row.json", identity(config, plan) | row)


def saved_flops(rows: Iterable[Mapping[str, Any]]) -> float:
    """Returns the FLOPs that the dropped runs among `rows` would have cost more."""
    return sum(row["flops_saved"] for row in rows if row["status"] == "dropped")


def expected_savings(configs: Sequence[Config], flops: Sequence[float]) -> float:
    """Returns the FLOPs that halving will save, if the runs of a cell cost the same and none diverges."""
    cells: dict[Config, list[tuple[float, float]]] = defaultdict(list)
    for config, spent in zip(configs, flops, strict=True):
        if config.optim.learning_rate_rule == "halving":
            cells[cell(config)].append((config.optim.learning_rate_peak, spent))
    saved = 0.0
    for runs in cells.values():
        left = len({rate for rate, _ in runs})
        of_rate = sum(spent for _, spent in runs) / left
        for part in PARTS:
            saved += of_rate * (left - kept_of(left)) * (1 - part)
            left = kept_of(left)
    return saved
