"""A sweep's folder: sweep.json (the plan and its runs), report.json or comparison.json, runs/RUN_ID/, and one lock for
its launcher.

No jax here: `sessionrec status` looks at a sweep while it runs.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessionrec_jax.config import Config
from sessionrec_jax.config_values import run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder import read_json, write_json

SWEEP_VERSION = 1


@dataclass(frozen=True)
class RunState:
    """Where one run of a sweep stands."""

    run_id: str
    config: dict[str, Any]
    status: str
    """waiting, begun, or the status of its row: done, diverged, failed."""
    step: int | None
    row: dict[str, Any] | None


def begin(sweep_dir: Path, plan: str, configs: Sequence[Config], files: dict[str, Any]) -> None:
    """Writes or finds again the sweep of these runs, with the JSON `files` that its readers want.

    Raises InputError where the folder holds a sweep of other runs.
    """
    runs = {run_id(config): to_dict(config) for config in configs}
    if (sweep_dir / "sweep.json").exists():
        there = _read(sweep_dir)["runs"].keys()
        if there != runs.keys():
            raise InputError(
                f"{sweep_dir} holds a sweep of {len(there)} runs; {len(there - runs.keys())} of them are not in this "
                f"plan and {len(runs.keys() - there)} of this plan's are not in it: the settings differ. "
                "Use another --out."
            )
        return
    sweep_dir.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        write_json(sweep_dir / name, values)
    write_json(sweep_dir / "sweep.json", {"version": SWEEP_VERSION, "plan": plan, "runs": runs})


def _read(sweep_dir: Path) -> dict[str, Any]:
    if not (sweep_dir / "sweep.json").exists():
        raise InputError(
            f"{sweep_dir} is no sweep folder: it has no sweep.json. "
            f"`sessionrec sweep PLAN --out {sweep_dir}` makes one."
        )
    sweep = read_json(sweep_dir / "sweep.json")
    if sweep.get("version") != SWEEP_VERSION:
        raise InputError(f"{sweep_dir} is of version {sweep.get('version')!r}; this release reads {SWEEP_VERSION}")
    return sweep


def states(sweep_dir: Path) -> tuple[str, list[RunState]]:
    """The plan's name and every run's state, in the plan's order. Raises InputError where there is no sweep."""
    sweep = _read(sweep_dir)
    return sweep["plan"], [_state(sweep_dir / "runs" / name, name, config) for name, config in sweep["runs"].items()]


def _state(run_dir: Path, name: str, config: dict[str, Any]) -> RunState:
    if (run_dir / "row.json").exists():
        row = read_json(run_dir / "row.json")
        return RunState(name, config, row["status"], row.get("steps"), row)
    if not (run_dir / "config.json").exists():
        return RunState(name, config, "waiting", None, None)
    return RunState(name, config, "begun", _last_step(run_dir / "metrics.jsonl"), None)


def _last_step(metrics: Path) -> int | None:
    for line in reversed(metrics.read_text().splitlines() if metrics.exists() else []):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue  # being written just now
    return None


def forget_failures(sweep_dir: Path) -> None:
    """Takes failed rows back, so that their runs are tried again: the disk may have room now. A diverged run would
    diverge again and stays."""
    for state in states(sweep_dir)[1]:
        if state.status == "failed":
            (sweep_dir / "runs" / state.run_id / "row.json").unlink()


@contextmanager
def launching(sweep_dir: Path) -> Iterator[None]:
    """Held by the one process that launches. Raises InputError where another does; a killed one lets go by itself."""
    with (sweep_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{sweep_dir}: another `sessionrec sweep` is running it; see `sessionrec status`"
            ) from None
        yield
