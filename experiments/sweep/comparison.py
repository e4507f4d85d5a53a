"""Compares the arms of a sweep: means with intervals, and differences paired by user and seed.

A value varies with the tested users and with the seed of the run, so the squared standard error is a sum of two parts:
the variance over users (clustered, delta method for the ratio) of the values averaged over seeds, and the variance
between seeds over their number. The degrees of freedom are Satterthwaite's (1946). With three seeds that differ much
they are few, and the interval is wide. Letters: S seeds, U users.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.stats

from doors import tables
from doors.state import Damaged, checked, read_object
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.runfolder.files import PER_USER, read_row


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided p value against zero."""


@dataclass(frozen=True)
class ArmResult:
    """One arm in one table at one budget."""

    table: str
    budget: str
    arm: str
    is_reference: bool
    seeds: int
    """Seeds with a finished run."""
    seeds_planned: int
    epochs: float | None
    flops_train: float | None
    params_body: int | None
    learning_rates: tuple[float, ...]
    """Chosen on validation, one for each seed."""
    table_priors: tuple[float, ...]
    """Chosen in the same way. Empty where the rows do not say them."""
    values: dict[str, Estimate | None]
    """By metric; None if it is missing."""
    differences: dict[str, Estimate | None]
    """Arm minus reference, by metric; p after Holm's correction for the arms of the table."""
    uncalibrated: tuple[str, ...]
    """Metrics in nats that the arm's settings leave uncalibrated, so that only its ranks can be compared."""


def compare(sweep_dir: Path, metrics: tuple[str, ...]) -> list[ArmResult]:
    """Returns the result of every arm of a sweep of `paradigm` or `ablation`, in the plan's order.

    Raises InputError if the folder is no such sweep, if no run of it has a metric, or if two arms were not tested on
    the same sessions.
    """
    if not (sweep_dir / "comparison.json").exists():
        raise InputError(
            f"{sweep_dir} has no comparison.json; `sessionrec sweep paradigm` and `... ablation` make one, "
            "`sessionrec report` reads the sweeps of other plans"
        )
    where = sweep_dir / "comparison.json"
    plan = read_object(where, {"arms": list, "select_by": str})
    for arm in plan["arms"]:
        checked(arm, {"table": str, "budget": str, "arm": str, "is_reference": bool, "runs": dict}, str(where))
    groups = _groups(plan["arms"])
    chosen = [[_chosen(sweep_dir, arm, plan["select_by"]) for arm in arms] for arms in groups]
    _refuse_unknown(sweep_dir, list(itertools.chain.from_iterable(chosen)), metrics)
    tables = (
        _table(sweep_dir, list(zip(arms, rows, strict=True)), metrics)
        for arms, rows in zip(groups, chosen, strict=True)
    )
    return list(itertools.chain.from_iterable(tables))


def left_out(sweep_dir: Path) -> dict[str, int]:
    """Returns the number of finished runs that no arm can choose, by their status: stuck, diverged, failed."""
    plan = read_object(sweep_dir / "comparison.json", {"arms": list, "select_by": str})
    names = {name for arm in plan["arms"] for of_seed in arm["runs"].values() for name in of_seed}
    rows = [read_row(sweep_dir / "runs" / name) for name in sorted(names)]
    return dict(Counter(row["status"] for row in rows if row and row["status"] not in ("done", "dropped")))


def _groups(arms: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Returns the arms of each table at each budget. A table whose arms are the same at every budget is there once."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm in arms:
        groups.setdefault(arm["table"], {}).setdefault(arm["budget"], []).append(arm)
    found = []
    for budgets in groups.values():
        runs = [[arm["runs"] for arm in group] for group in budgets.values()]
        if len(runs) > 1 and all(other == runs[0] for other in runs[1:]):
            found.append([arm | {"budget": " and ".join(budgets)} for arm in next(iter(budgets.values()))])
        else:
            found += budgets.values()
    return found


def _chosen(sweep_dir: Path, arm: dict[str, Any], select_by: str) -> dict[str, dict[str, Any]]:
    """Returns for each seed the finished row that is best on validation."""
    found = {}
    for seed, run_ids in arm["runs"].items():
        rows = [read_row(sweep_dir / "runs" / name) for name in run_ids]  # they appear while a sweep runs
        rows = [row for row in rows if row and row["status"] == "done" and row.get(select_by) is not None]
        if rows:
            found[seed] = max(rows, key=lambda row: row[select_by])
    return found


def _refuse_unknown(sweep_dir: Path, chosen: list[dict[str, dict[str, Any]]], metrics: tuple[str, ...]) -> None:
    rows = [row for by_seed in chosen for row in by_seed.values()]
    if not rows:
        raise InputError(f"{sweep_dir}: no run is done yet; `sessionrec status {sweep_dir}` shows how far they are")
    known = {name.removesuffix("_stderr") for row in rows for name in row if name.endswith("_stderr")}
    for metric in metrics:
        if all(row.get(metric) is None for row in rows):
            raise InputError(f"no run in {sweep_dir} has the metric {metric!r}; {near_miss(metric, known)}")


def _table(sweep_dir: Path, arms: list[Any], metrics: tuple[str, ...]) -> list[ArmResult]:
    sums = [{seed: _per_user(sweep_dir / "runs" / row["run_id"]) for seed, row in rows.items()} for _, rows in arms]
    reference = next(arm_sums for (arm, _), arm_sums in zip(arms, sums, strict=True) if arm["is_reference"])
    lines = []
    for (arm, rows), arm_sums in zip(arms, sums, strict=True):
        first = next(iter(rows.values()), {})
        lines.append(
            ArmResult(
                table=arm["table"],
                budget=arm["budget"],
                arm=arm["arm"],
                is_reference=arm["is_reference"],
                seeds=len(rows),
                seeds_planned=len(arm["runs"]),
                epochs=first.get("epochs"),
                flops_train=first.get("flops_train"),
                params_body=first.get("params_body"),
                learning_rates=tuple(row["learning_rate_peak"] for row in rows.values()),
                table_priors=tuple(row["table_prior"] for row in rows.values() if "table_prior" in row),
                values={metric: _value(arm_sums, metric) for metric in metrics},
                differences={
                    metric: None if arm["is_reference"] else _difference(arm_sums, reference, metric)
                    for metric in metrics
                },
                uncalibrated=tuple(arm.get("uncalibrated", ())),
            )
        )
    return [_holm(line, lines) for line in lines]


def _per_user(run_dir: Path) -> dict[str, pl.DataFrame]:
    """Returns the sums by user of each metric."""
    path = run_dir / PER_USER
    if not path.exists():
        raise InputError(f"{path}: no such file, though the run is done; delete {run_dir} and start the sweep again")
    try:
        sums = tables.read_parquet(path).with_columns(pl.col("x", "n").cast(pl.Float64))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Damaged(f"{path} cannot be read ({error}); delete {run_dir} and start the sweep again") from error
    parts = sums.partition_by("metric", as_dict=True)
    return {str(metric): frame.sort("user") for (metric,), frame in parts.items()}


def _value(by_seed: dict[str, dict[str, pl.DataFrame]], metric: str) -> Estimate | None:
    frames = [frames[metric] for frames in by_seed.values() if metric in frames]
    if not frames:
        return None
    _refuse_other_targets(frames, metric)
    return estimate(np.stack([frame["x"].to_numpy() for frame in frames]), frames[0]["n"].to_numpy())


def _difference(
    by_seed: dict[str, dict[str, pl.DataFrame]], reference: dict[str, dict[str, pl.DataFrame]], metric: str
) -> Estimate | None:
    pairs = [
        (by_seed[seed][metric], reference[seed][metric])
        for seed in by_seed.keys() & reference.keys()
        if metric in by_seed[seed] and metric in reference[seed]
    ]
    if not pairs:
        return None
    _refuse_other_targets([frame for pair in pairs for frame in pair], metric)
    x_SU = np.stack([(arm["x"] - other["x"]).to_numpy() for arm, other in pairs])
    return estimate(x_SU, pairs[0][0]["n"].to_numpy())


def _refuse_other_targets(frames: list[pl.DataFrame], metric: str) -> None:
    first = frames[0].select("user", "n")
    for frame in frames[1:]:
        if not frame.select("user", "n").equals(first):
            raise InputError(f"{metric}: two arms were not tested on the same sessions, so they cannot be compared")


def estimate(x_SU: np.ndarray, n_U: np.ndarray) -> Estimate:
    """Returns the mean over seeds of sum(x) / sum(n); its variance comes from users and from several seeds."""
    seeds, users = x_SU.shape
    by_seed_S = x_SU.sum(axis=1) / n_U.sum()
    value = float(by_seed_S.mean())
    residual_U = x_SU.mean(axis=0) - value * n_U
    parts = [(float(np.sum(residual_U**2)) * users / (users - 1) / n_U.sum() ** 2, users - 1)] if users > 1 else []
    parts += [(float(by_seed_S.var(ddof=1)) / seeds, seeds - 1)] if seeds > 1 else []
    variance = sum(part for part, _ in parts)
    if not variance:
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = variance**0.5
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    return Estimate(value, value - half, value + half, float(2 * scipy.stats.t.sf(abs(value) / error, freedom)))


def _holm(line: ArmResult, lines: list[ArmResult]) -> ArmResult:
    """Returns `line` with the p of its differences corrected for the number of arms in its table (Holm 1979)."""
    corrected: dict[str, Estimate | None] = {}
    for metric, own in line.differences.items():
        if own is None:
            corrected[metric] = None
            continue
        ps = sorted(other.differences[metric].p for other in lines if other.differences[metric] is not None)
        steps = [p * (len(ps) - place) for place, p in enumerate(ps) if p <= own.p]
        corrected[metric] = dataclasses.replace(own, p=min(1.0, max(steps)))
    return dataclasses.replace(line, differences=corrected)
