"""The runs of a sweep, or one run, read as they go: what each `look` finds new.

Nothing is asked of the runs themselves, so workers on any host need no extra, no login and no network, and a sweep may
be mirrored while it runs or years after. No jax here.
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

from experiments.sweep import sweep_folder
from experiments.sweep.varying import told, varying
from sessionrec_jax.config.values import run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_config, read_row

Line = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """How far a run was read: bytes of metrics.jsonl, a hash of them, and a hash of its row (None: it had none)."""

    size: int = 0
    hash: str = hashlib.sha256().hexdigest()
    row: str | None = None


@dataclass(frozen=True)
class News:
    """What a run has written since the last look."""

    lines: tuple[Line, ...]
    """Of metrics.jsonl."""
    anew: bool
    """Lines that were found before are taken back, and these are all that there are: a run that was killed goes on from
    its checkpoint."""
    row: dict[str, Any] | None
    """Its row, where it was not found before."""
    seconds: float
    """When metrics.jsonl was last written, since 1970. Lines do not tell their own time."""


class Run:
    """One run and how far it was read."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any], settings: dict[str, Any]):
        """`settings`: those of `config` that the runs of the sweep differ in, by dotted name."""
        self.name, self.config, self.settings = name, config, settings
        self.label = ", ".join(f"{field.rpartition('.')[2]} {told(value)}" for field, value in settings.items()) or name
        self.read = Read()
        """Set it to go on from where another process has read."""
        self._folder, self._stamp = folder, (0, 0)

    @property
    def has_row(self) -> bool:
        return self.read.row is not None

    def look(self) -> News | None:
        """None where nothing is new. A row is looked for first, so that all of a run's lines are there with its row.

        Raises InputError for a file that holds no JSON.
        """
        row = read_row(self._folder)
        raw, seconds = self._raw()
        anew = raw is not None and _hash(raw[: self.read.size]) != self.read.hash
        unread = b"" if raw is None else raw if anew else raw[self.read.size :]
        row_hash = None if row is None else _hash(json.dumps(row).encode())
        came = row is not None and (anew or row_hash != self.read.row)
        size, lines_hash = (self.read.size, self.read.hash) if raw is None else (len(raw), _hash(raw))
        self.read = Read(size, lines_hash, row_hash)
        if not (unread or anew or came):
            return None
        return News(self._parsed(unread), anew, row if came else None, seconds)

    def _raw(self) -> tuple[bytes | None, float]:
        """(whole lines, None where the file is as it was, when they were written). Read from the start, since speeds
        alone may tell a line that was written again; a run logs one line every few steps."""
        try:
            with (self._folder / "metrics.jsonl").open("rb") as file:
                status = os.fstat(file.fileno())
                if (stamp := (status.st_mtime_ns, status.st_size)) == self._stamp:
                    return None, status.st_mtime
                self._stamp, raw = stamp, file.read()
        except FileNotFoundError:
            return None, time.time()
        return raw[: raw.rfind(b"\n") + 1], status.st_mtime  # the end of a line may be yet to come

    def _parsed(self, raw: bytes) -> tuple[Line, ...]:
        try:
            return tuple(json.loads(line) for line in raw.splitlines())
        except ValueError as error:
            raise InputError(
                f"{self._folder}/metrics.jsonl has a line that is no JSON ({error}); was it edited?"
            ) from None


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


class Mirror(Protocol):
    """Where runs are written to. What it is given twice must not stand there twice."""

    def write(self, run: Run, news: News) -> None: ...

    def close(self) -> None: ...


def runs_of(path: Path) -> list[Run]:
    """Of a sweep folder, in the plan's order, or the one of a run folder. Raises InputError where it is neither."""
    if (path / "sweep.json").exists():
        configs = {name: to_dict(config) for name, config in sweep_folder.read(path)[1].items()}
        settings = varying(list(configs.values()))
        return [
            Run(sweep_folder.run_dir(path, name), name, config, settings)
            for (name, config), settings in zip(configs.items(), settings, strict=True)
        ]
    if (path / "config.json").exists():
        config = read_config(path)
        return [Run(path, run_id(config), to_dict(config), {})]
    raise InputError(
        f"{path} is neither a sweep (it has no sweep.json) nor a run (no config.json); wanted what `sessionrec sweep` "
        "or `sessionrec train` wrote with --out"
    )


def values(line: Line) -> Mapping[str, float]:
    """The numbers of a line, by their names; those that are missing are left out."""
    return {
        name: value for name, value in line.items() if name not in ("step", "steps") and isinstance(value, (int, float))
    }


def measured(row: dict[str, Any]) -> Mapping[str, float]:
    """What was measured on the test sessions: the columns of a row that have a standard error."""
    return {name: row[name] for name in row if f"{name}_stderr" in row and isinstance(row[name], (int, float))}
