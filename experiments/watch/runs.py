"""Reads the runs of a sweep, or one run, as they go: each `poll` returns what is new.

The runs themselves do nothing for it, so workers on any host need no extra, no login and no network, and a sweep may be
mirrored while it runs or years later. This file imports no jax.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from doors.state import checked
from experiments.sweep import sweep_folder
from experiments.sweep.varying import label, varying
from sessionrec_jax.config.values import run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_config, read_row

MetricsLine = dict[str, Any]


@dataclass(frozen=True)
class ReadMark:
    """The end of the part of a run that was read: bytes of metrics.jsonl, their hash, the hash of its row."""

    size: int = 0
    hash: str = hashlib.sha256().hexdigest()
    row: str | None = None


@dataclass(frozen=True)
class News:
    """Everything that a run has written since the last poll."""

    lines: tuple[MetricsLine, ...]
    """New lines of metrics.jsonl."""
    rewritten: bool
    """True if earlier lines are no longer valid and `lines` are all lines: a killed run went on from its checkpoint."""
    row: dict[str, Any] | None
    """Its row, if it is new."""
    seconds: float
    """The time when metrics.jsonl was last written, since 1970. Lines have no time of their own."""


class WatchedRun:
    """One run and the part of it that was read."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any], settings: dict[str, Any]):
        """`settings`: settings of `config` that vary in the sweep, by dotted name."""
        self.name, self.config, self.settings = name, config, settings
        self.label = label(settings) or name
        self.read = ReadMark()
        """Set it to go on after the part that another process has read."""
        self._folder, self._stamp = folder, (0, 0)

    @property
    def has_row(self) -> bool:
        return self.read.row is not None

    def poll(self) -> News | None:
        """Returns None if nothing is new. Reads the row first, so that all of a run's lines are there with its row.

        Raises InputError for a file that holds no JSON.
        """
        row = read_row(self._folder)
        raw, seconds = self._raw()
        rewritten = raw is not None and _hash(raw[: self.read.size]) != self.read.hash
        unread = b"" if raw is None else raw if rewritten else raw[self.read.size :]
        row_hash = None if row is None else _hash(json.dumps(row).encode())
        is_new = row is not None and (rewritten or row_hash != self.read.row)
        size, lines_hash = (self.read.size, self.read.hash) if raw is None else (len(raw), _hash(raw))
        self.read = ReadMark(size, lines_hash, row_hash)
        if not (unread or rewritten or is_new):
            return None
        return News(self._parsed(unread), rewritten, row if is_new else None, seconds)

    def _raw(self) -> tuple[bytes | None, float]:
        """Returns (whole lines, or None if the file has not changed; time when it was written). Reads from the start,
        because a line that was written again may differ in its speeds only."""
        try:
            with (self._folder / "metrics.jsonl").open("rb") as file:
                status = os.fstat(file.fileno())
                if (stamp := (status.st_mtime_ns, status.st_size)) == self._stamp:
                    return None, status.st_mtime
                self._stamp, raw = stamp, file.read()
        except FileNotFoundError:
            return None, time.time()
        return raw[: raw.rfind(b"\n") + 1], status.st_mtime  # the rest of the last line may not be written yet

    def _parsed(self, raw: bytes) -> tuple[MetricsLine, ...]:
        try:
            return tuple(checked(json.loads(line), {"step": int}, "a line") for line in raw.splitlines())
        except ValueError as error:
            raise InputError(
                f"{self._folder}/metrics.jsonl has a line that no run wrote ({error}); was it edited?"
            ) from None


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


class Mirror(Protocol):
    """A program that shows runs. A line that is written twice must not appear twice."""

    def write(self, run: WatchedRun, news: News) -> None: ...

    def close(self) -> None: ...


def runs_of(path: Path) -> list[WatchedRun]:
    """Returns the runs of a sweep folder, in the plan's order, or the run of a run folder. Raises InputError for any
    other folder."""
    if (path / "sweep.json").exists():
        configs = {name: to_dict(config) for name, config in sweep_folder.read(path)[1].items()}
        settings = varying(list(configs.values()))
        return [
            WatchedRun(sweep_folder.run_dir(path, name), name, config, settings)
            for (name, config), settings in zip(configs.items(), settings, strict=True)
        ]
    if (path / "config.json").exists():
        config = read_config(path)
        return [WatchedRun(path, run_id(config), to_dict(config), {})]
    raise InputError(
        f"{path} is neither a sweep (it has no sweep.json) nor a run (no config.json); wanted what `sessionrec sweep` "
        "or `sessionrec train` wrote with --out"
    )


def values(line: MetricsLine) -> Mapping[str, float]:
    """Returns the numbers of a line by their names, without missing ones."""
    return {
        name: value for name, value in line.items() if name not in ("step", "steps") and isinstance(value, (int, float))
    }


def measured(row: dict[str, Any]) -> Mapping[str, float]:
    """Returns the metrics of the test sessions: the columns of a row that have a standard error."""
    return {name: row[name] for name in row if f"{name}_stderr" in row and isinstance(row[name], (int, float))}
