"""The folder of a sweep, its only state: sweep.json (the plan and its runs), report.json or comparison.json,
runs/RUN_ID/, and leases/.

This file imports no jax, so that `sessionrec status` starts fast.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doors.files import check_folder, is_not, make_folder
from doors.state import Damaged, Kinds, checked
from doors.storage import copies
from experiments.sweep.bucket_leases import leases_of
from experiments.sweep.lease import Past
from sessionrec_jax.config.differences import differences
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_json, read_row, write_json

SWEEP_VERSION = 1
_REFRESH_SECONDS = 5.0


@dataclass(frozen=True)
class RunState:
    """The state of one run of a sweep."""

    run_id: str
    config: dict[str, Any]
    status: str
    """waiting (never started), running, stopped (its worker released it; the next one goes on from its checkpoint),
    stale (its worker died or does not answer; the next one takes it over), or the status of its row: done, diverged,
    failed, dropped. A run whose row is damaged is `damaged`."""
    past: Past
    """Its leases: who holds it, and how earlier leases ended."""
    row: dict[str, Any] | None = None
    step: int | None = None
    steps: int | None = None
    """Planned steps; None if no step was logged yet."""
    seconds_left: float | None = None
    """Seconds of training left of a run that is running, by the last line of metrics.jsonl."""
    fault: str = ""
    """A sentence about a damaged row; empty if it is sound or missing."""

    @property
    def has_ended(self) -> bool:
        return self.row is not None or bool(self.fault)


def begin(sweep_dir: Path, plan: str, configs: Sequence[Config], files: dict[str, Any]) -> None:
    """Writes the sweep of these runs, with the JSON `files` for its readers, or checks that it is there. Settings that
    do not change a run's result (microbatches, checkpoints) are replaced by the new ones.

    Raises InputError if the folder holds a sweep of other runs.
    """
    runs = {run_id(config): to_dict(config) for config in configs}
    if (sweep_dir / "sweep.json").exists():
        if _read(sweep_dir)["runs"].keys() != runs.keys():
            there = read(sweep_dir)[1]
            raise InputError(
                f"{sweep_dir} holds a sweep of {len(there)} runs; {len(there.keys() - runs.keys())} of them are not in "
                f"this plan and {len(runs.keys() - there.keys())} of this plan's are not in it: the settings differ "
                f"({differences(list(there.values()), configs)}). Use another --out, or the settings of that sweep."
            )
    else:
        check_folder(sweep_dir, "a sweep")
        make_folder(sweep_dir)
        for name, values in files.items():
            write_json(sweep_dir / name, values)
    write_json(sweep_dir / "sweep.json", {"version": SWEEP_VERSION, "plan": plan, "runs": runs})
    copies.push(sweep_dir)


def _read(sweep_dir: Path) -> dict[str, Any]:
    if not (sweep_dir / "sweep.json").exists():
        raise InputError(is_not(sweep_dir, "a sweep"))
    where = str(sweep_dir / "sweep.json")
    sweep = checked(read_json(sweep_dir / "sweep.json"), {"version": int}, where)
    if sweep["version"] != SWEEP_VERSION:
        raise InputError(f"{sweep_dir} is of version {sweep['version']!r}; this release reads {SWEEP_VERSION}")
    checked(sweep, {"plan": str, "runs": dict}, where)
    for name, config in sweep["runs"].items():
        if not _RUN_ID.fullmatch(name):
            raise Damaged(f"{where} is damaged: {name!r} is no run_id, which has twelve hex digits")
        checked(config, {}, f"{where}: run {name}")
    return sweep


def read(sweep_dir: Path) -> tuple[str, dict[str, Config]]:
    """Returns the plan's name and its runs by run_id, in the plan's order.

    Raises InputError if there is no sweep, one of an older version, or one whose settings were changed: a run's name is
    the hash of its settings, and says where it is written.
    """
    sweep = _read(sweep_dir)
    where = str(sweep_dir / "sweep.json")
    configs = {name: from_dict(config, where) for name, config in sweep["runs"].items()}
    for name, config in configs.items():
        if run_id(config) != name:
            raise Damaged(f"{where} is damaged: its run {name} has the settings of run {run_id(config)}")
    return sweep["plan"], configs


def run_dir(sweep_dir: Path, name: str) -> Path:
    return sweep_dir / "runs" / name


def without_row(sweep_dir: Path, names: Iterable[str]) -> list[str]:
    """Returns the runs that have no row yet, in their order."""
    refresh(sweep_dir)
    return [name for name in names if not (run_dir(sweep_dir, name) / "row.json").exists()]


def refresh(sweep_dir: Path) -> None:
    """Reads the new rows of a sweep in a bucket, a few times a minute however often it is called."""
    copy = copies.copy_of(sweep_dir)
    if copy is not None and copy.seconds_since_pull() > _REFRESH_SECONDS:
        copy.pull(copies.for_workers)


def is_ready(sweep_dir: Path, config: Config) -> bool:
    """False while the checkpoint that a run begins from may still appear: its trunk has neither saved it nor ended."""
    if not config.train.begins_from:
        return True
    checkpoint = run_dir(sweep_dir, config.train.begins_from)
    return copies.exists(checkpoint) or (checkpoint.parent.parent / "row.json").exists()


def states(sweep_dir: Path) -> tuple[str, list[RunState]]:
    """Returns the plan's name and every run's state, in the plan's order. Raises InputError if there is no sweep."""
    sweep, leases = _read(sweep_dir), leases_of(sweep_dir)
    newest = leases.newest()
    pasts = {name: leases.past(name, newest.get(name, 0)) for name in sweep["runs"]}
    return sweep["plan"], [_state(sweep_dir, name, config, pasts[name]) for name, config in sweep["runs"].items()]


def _state(sweep_dir: Path, name: str, config: dict[str, Any], past: Past) -> RunState:
    folder = run_dir(sweep_dir, name)
    try:
        row = read_row(folder)
    except InputError as error:
        return RunState(name, config, "damaged", past, fault=str(error))
    if row is not None:
        steps = row.get("steps")
        return RunState(name, config, row["status"], past, row=row, step=steps, steps=steps)
    last = _last_line(folder / "metrics.jsonl")
    if past.worker is not None:
        status = "running" if past.is_held else "stale"
    else:
        status = "stopped" if folder.exists() else "waiting"
    if not last:
        return RunState(name, config, status, past)
    left = last["step_seconds_p50"] * (last["steps"] - last["step"] - 1) if status == "running" else None
    return RunState(name, config, status, past, step=last["step"], steps=last["steps"], seconds_left=left)


def _last_line(metrics: Path) -> dict[str, Any]:
    """Returns the last line about training steps (others are about a validation), or {}."""
    for line in reversed(metrics.read_text(errors="replace").splitlines() if metrics.is_file() else []):
        try:
            return checked(json.loads(line), _LINE, "")
        except ValueError:
            continue  # being written just now, damaged, or about a validation
    return {}


_LINE: Kinds = {"step_seconds_p50": (int, float), "step": int, "steps": int}
_RUN_ID = re.compile("[0-9a-f]{12}")


def try_failed_again(sweep_dir: Path) -> None:
    """Deletes failed rows and forgives their attempts, because the disk may have room now. A diverged run would diverge
    again and keeps its row."""
    leases = leases_of(sweep_dir)
    newest = leases.newest()
    for name in _read(sweep_dir)["runs"]:
        if not _has_failed(run_dir(sweep_dir, name)):
            continue
        lease = leases.take(name, newest.get(name, 0), on_loss=lambda: None)
        if lease is None:
            continue
        with lease:
            if _has_failed(run_dir(sweep_dir, name)):  # still: the same sweep may have been started twice
                copies.unlink(run_dir(sweep_dir, name) / "row.json")
            lease.end("forgiven")


def _has_failed(folder: Path) -> bool:
    with contextlib.suppress(Damaged):  # the sweep reports it
        row = read_row(folder)
        return row is not None and row["status"] == "failed"
    return False
