"""Writes TensorBoard's event files (extra `tensorboard`; no TensorFlow): a folder for each run, curves over training
steps, the test metrics at the last step, and for the HPARAMS page the settings that vary.

A file only grows, because an open TensorBoard reads on from where it was. If a run rewrites lines, an event makes
readers forget its points, and all lines follow. `mirrored.json` notes how much of the run is in the file. If the file
does not have the noted size, a writer was killed in the middle; the file is then emptied, and a new one is started.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.watch.runs import News, ReadMark, WatchedRun, measured, values
from sessionrec_jax.config.values import short
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import LOSS, RANK_LOSS
from sessionrec_jax.runfolder.files import read_json, write_json

_SUFFIX, _NOTE = ".sessionrec", "mirrored.json"
_LONGEST_NAME = 200


class TensorBoard:
    """The Mirror of TensorBoard."""

    def __init__(self, out: Path, runs: Sequence[WatchedRun]):
        """Raises InputError if tensorboard is not installed."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.hparams import summary_v2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise InputError(
                "TensorBoard is not installed; `pip install 'sessionrec-jax[tensorboard]'` installs it"
            ) from None
        self._event, self._summary, self._hparams, self._record = event_pb2, summary_pb2, summary_v2, RecordWriter
        self._out = out
        self._notes: dict[str, dict[str, Any]] = {}
        for run in runs:
            if (note := _note(out / _folder(run))) is not None:
                self._notes[run.name], run.read = note, ReadMark(**note["read"])
        if any(run.settings for run in runs) and not any(out.glob(f"*{_SUFFIX}")):
            page = summary_v2.hparams_config_pb(
                [summary_v2.HParam(name) for name in runs[0].settings],
                [summary_v2.Metric(name) for name in (LOSS, RANK_LOSS)],
            )
            now = time.time()
            self._append(_new_file(out), [*self._opening(now), self._event_of(now, 0, page)])

    def write(self, run: WatchedRun, news: News) -> None:
        folder, note = self._out / _folder(run), self._notes.get(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        path = _new_file(folder) if note is None else folder / note["file"]
        if note is not None and not _is_as_noted(path, note):
            raise InputError(
                f"{path} was changed by another program; start the command again, and it writes a new file"
            )
        events = []
        if note is None or news.rewritten:
            events += self._opening(news.seconds)
            if run.settings:
                settings = {name: _plain(value) for name, value in run.settings.items()}
                page = self._hparams.hparams_pb(settings, trial_id=run.name, start_time_secs=news.seconds)
                events.append(self._event_of(news.seconds, 0, page))
        events += [self._scalars(news.seconds, line["step"], values(line)) for line in news.lines]
        if news.row is not None and (results := measured(news.row)):
            events.append(self._scalars(news.seconds, news.row["steps"], results))
        size = self._append(path, events)
        self._notes[run.name] = {"file": path.name, "size": size, "read": dataclasses.asdict(run.read)}
        write_json(folder / _NOTE, self._notes[run.name])

    def close(self) -> None:
        """Does nothing: no file stays open, because a sweep may have more runs than a process may open files."""

    def _opening(self, seconds: float) -> list[Any]:
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        return [
            self._event.Event(wall_time=seconds, file_version="brain.Event:2"),
            self._event.Event(wall_time=seconds, step=0, session_log=start),
        ]

    def _scalars(self, seconds: float, step: int, scalars: Mapping[str, float]) -> Any:
        found = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        return self._event_of(seconds, step, self._summary.Summary(value=found))

    def _event_of(self, seconds: float, step: int, summary: Any) -> Any:
        return self._event.Event(wall_time=seconds, step=step, summary=summary)

    def _append(self, path: Path, events: Sequence[Any]) -> int:
        """Appends events and returns the new size of the file."""
        records = io.BytesIO()
        writer = self._record(records)
        for event in events:
            writer.write(event.SerializeToString())
        with path.open("ab") as file:
            file.write(records.getvalue())
            return file.tell()


def _note(folder: Path) -> dict[str, Any] | None:
    """Returns the note of a run's file; None if no file has the noted size, and then empties other files."""
    note = read_json(folder / _NOTE) if (folder / _NOTE).exists() else None
    if note is not None and _is_as_noted(folder / note["file"], note):
        return note
    for file in folder.glob(f"*{_SUFFIX}"):
        os.truncate(file, 0)
    return None


def _is_as_noted(path: Path, note: dict[str, Any]) -> bool:
    return path.exists() and path.stat().st_size == note["size"]


def _new_file(folder: Path) -> Path:
    seconds, rest = divmod(time.time_ns(), 10**9)  # readers read the files in the order of their names
    return folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}{_SUFFIX}"


def _folder(run: WatchedRun) -> str:
    """The run's name in TensorBoard: its settings, then its run_id."""
    if not run.settings:
        return run.name
    settings = re.sub(r"[^\w.,=+-]+", "_", run.label.replace(", ", ","))
    return f"{settings[:_LONGEST_NAME]}-{run.name}"


def _plain(value: Any) -> float | str:
    """Returns a value that the HPARAMS page can sort and filter."""
    return value if isinstance(value, (bool, int, float)) else short(value)
