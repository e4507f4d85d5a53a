"""The files of a run folder other than checkpoints: config.json, metrics.jsonl, and small JSON files."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, run_id, to_dict
from sessionrec_jax.errors import InputError

VALIDATED = "halving.json"
"""File of a run that stopped after a part of its steps: the validation at each part, by the part as text."""
PER_USER = "per_user.parquet"
"""File of a run's test sessions: user (index in the log), metric, x, n; the metric is sum(x) / sum(n)."""


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file as `write_text` does. Raises ValueError for NaN, which JSON does not have."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing: it is written under another name, then renamed."""
    partial = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}"
    )  # a process number would not do: several hosts may write
    partial.write_text(text)
    partial.rename(path)


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises InputError if it does not exist or is not JSON."""
    try:
        return _parsed(path, path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def read_row(run_dir: Path) -> dict[str, Any] | None:
    """Reads row.json; None if it does not exist. It may appear at any time, and a failed run's may disappear."""
    path = run_dir / "row.json"
    try:
        return _parsed(path, path.read_text())
    except FileNotFoundError:
        return None


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} holds no valid JSON ({error}); it was cut short or edited") from None


def read_config(run_dir: Path) -> Config:
    """Reads the Config of a run folder. Raises InputError if it is missing or of another version."""
    if not (run_dir / "config.json").exists():
        raise InputError(
            f"{run_dir} is no run folder: it has no config.json. `sessionrec train DATA --out {run_dir}` makes one."
        )
    return from_dict(read_json(run_dir / "config.json"), str(run_dir / "config.json"))


def claim(run_dir: Path, config: Config) -> None:
    """Makes `run_dir` the folder of this run, if it is not already. Raises InputError if it is another run's."""
    if (run_dir / "config.json").exists():
        there = run_id(read_config(run_dir))
        if there != run_id(config):
            raise InputError(
                f"{run_dir} holds run {there}, not {run_id(config)}: its settings differ. Use another --out."
            )
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "config.json", to_dict(config))


Window = Callable[[], dict[str, float | None]]


class MetricsLog:
    """Writes metrics.jsonl: a line every few steps with the mean losses and the speed since the line before, and a line
    per validation. Lines that a killed run wrote after its checkpoint are removed first, so that no step occurs twice.
    """

    def __init__(self, path: Path | None, first_step: int, steps: int, every_steps: int, sums: Sequence[float] = ()):
        """`path` None writes nothing. `steps` is the number of the whole run; `sums` is the value that `self.sums` had
        at `first_step`, from a checkpoint."""
        if path is not None:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if _step_of(line) < first_step]
            write_text(path, "".join(f"{line}\n" for line in kept))
        self._path, self._steps, self._every = path, steps, every_steps
        self.sums, self._unwritten = tuple(sums) or _NOTHING, None
        self.note = ""

    def add(self, step: int, learning_rate: float, sums: tuple[float, ...], window: Window) -> None:
        """Adds one step; `sums` are its retrieval nats, clicked items, rank nats and rank terms.

        `window` is called once per line and returns the speed since the line before.
        """
        self.sums = tuple(a + b for a, b in zip(self.sums, sums, strict=True))
        self._unwritten = step, learning_rate, window
        if (step + 1) % self._every == 0:
            self._write(*self._unwritten)

    def add_validation(self, step: int, values: dict[str, float | None]) -> None:
        """Adds a validation; `step` is the last one before it."""
        self._append({"step": step, **values})

    def close(self) -> None:
        """Writes the steps after the last full line."""
        if self._unwritten is not None:
            self._write(*self._unwritten)

    def _write(self, step: int, learning_rate: float, window: Window) -> None:
        retrieval, clicked, rank, terms = self.sums
        losses = {
            "retrieval_nats_per_item": retrieval / clicked if clicked else None,
            "rank_nats_per_term": rank / terms if terms else None,
        }
        watched = window()
        self._append({"step": step, "steps": self._steps, **losses, "learning_rate": learning_rate, **watched})
        shown = (f"{name.split('_')[0]} {value:.4f}" for name, value in losses.items() if value is not None)
        self.note = f"{', '.join(shown)}, {watched['sessions_per_second']:,.0f} sessions/s"
        self.sums, self._unwritten = _NOTHING, None

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is None:
            return
        with self._path.open("a") as file:  # opened for each line, because a run may be killed anywhere
            file.write(json.dumps(line) + "\n")


_NOTHING = (0.0, 0.0, 0.0, 0.0)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # the half-written last line of a killed run
