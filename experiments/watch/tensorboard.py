"""TensorBoard's event files (extra `tensorboard`; no TensorFlow): a folder a run, curves over training steps, the test
metrics at the last step, and for its HPARAMS page the settings that vary.

A file only grows, since a TensorBoard that is open has it in its hand. Where a run takes lines back, an event tells
readers to forget its points, and all lines follow. `mirrored.json` notes how much of the run stands in the file. Where
the file has not the size of the note, somebody was killed in the middle; it is then emptied, and another one begun.
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

from experiments.sweep.varying import told
from experiments.watch.runs import News, Read, Run, measured, values
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_json, write_json

LOSSES = ("loss_nats_per_item", "rank_nats_per_exposure")
"""Of a row: what runs are compared by on the HPARAMS page."""
_SUFFIX, _NOTE = ".sessionrec", "mirrored.json"
_LONGEST_NAME = 200


class TensorBoard:
    """A Mirror."""

    def __init__(self, out: Path, runs: Sequence[Run]):
        """Raises InputError where tensorboard is not installed."""
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
                self._notes[run.name], run.read = note, Read(**note["read"])
        if any(run.settings for run in runs) and not any(out.glob(f"*{_SUFFIX}")):
            page = summary_v2.hparams_config_pb(
                [summary_v2.HParam(name) for name in runs[0].settings], [summary_v2.Metric(name) for name in LOSSES]
            )
            now = time.time()
            self._append(_new_file(out), [*self._opening(now), self._of(now, 0, page)])

    def write(self, run: Run, news: News) -> None:
        folder, note = self._out / _folder(run), self._notes.get(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        path = _new_file(folder) if note is None else folder / note["file"]
        if note is not None and not _is_as_noted(path, note):
            raise InputError(f"{path} is not as this command left it; type the command again, and it is written anew")
        events = []
        if note is None or news.anew:
            events += self._opening(news.seconds)
            if run.settings:
                settings = {name: _plain(value) for name, value in run.settings.items()}
                page = self._hparams.hparams_pb(settings, trial_id=run.name, start_time_secs=news.seconds)
                events.append(self._of(news.seconds, 0, page))
        events += [self._scalars(news.seconds, line["step"], values(line)) for line in news.lines]
        if news.row is not None and (results := measured(news.row)):
            events.append(self._scalars(news.seconds, news.row["steps"], results))
        size = self._append(path, events)
        self._notes[run.name] = {"file": path.name, "size": size, "read": dataclasses.asdict(run.read)}
        write_json(folder / _NOTE, self._notes[run.name])

    def close(self) -> None:
        """Nothing is open between two writes: a sweep may have more runs than a process may have files."""

    def _opening(self, seconds: float) -> list[Any]:
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        return [
            self._event.Event(wall_time=seconds, file_version="brain.Event:2"),
            self._event.Event(wall_time=seconds, step=0, session_log=start),
        ]

    def _scalars(self, seconds: float, step: int, scalars: Mapping[str, float]) -> Any:
        found = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        return self._of(seconds, step, self._summary.Summary(value=found))

    def _of(self, seconds: float, step: int, summary: Any) -> Any:
        return self._event.Event(wall_time=seconds, step=step, summary=summary)

    def _append(self, path: Path, events: Sequence[Any]) -> int:
        """The size of the file then."""
        records = io.BytesIO()
        writer = self._record(records)
        for event in events:
            writer.write(event.SerializeToString())
        with path.open("ab") as file:
            file.write(records.getvalue())
            return file.tell()


def _note(folder: Path) -> dict[str, Any] | None:
    """None where the run has no file yet, or none that is as it was left; what there is is emptied."""
    note = read_json(folder / _NOTE) if (folder / _NOTE).exists() else None
    if note is not None and _is_as_noted(folder / note["file"], note):
        return note
    for file in folder.glob(f"*{_SUFFIX}"):
        os.truncate(file, 0)
    return None


def _is_as_noted(path: Path, note: dict[str, Any]) -> bool:
    return path.exists() and path.stat().st_size == note["size"]


def _new_file(folder: Path) -> Path:
    seconds, rest = divmod(time.time_ns(), 10**9)  # readers go from name to later name
    return folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}{_SUFFIX}"


def _folder(run: Run) -> str:
    """What TensorBoard calls the run: its settings, then its run_id."""
    if not run.settings:
        return run.name
    settings = re.sub(r"[^\w.,=+-]+", "_", run.label.replace(", ", ","))
    return f"{settings[:_LONGEST_NAME]}-{run.name}"


def _plain(value: Any) -> float | str:
    """What the page can sort and filter."""
    return value if isinstance(value, (bool, int, float)) else told(value)
