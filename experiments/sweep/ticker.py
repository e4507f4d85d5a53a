"""A sweep as it goes: a bar on a terminal, and a line for each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.sweep import sweep_folder
from experiments.sweep.varying import told, varying
from sessionrec_jax.config.values import to_dict
from sessionrec_jax.runfolder.files import read_row


class Ticker:
    """`with Ticker(sweep_dir) as ticker`: every `ticker.look()` tells the rows that have come, whoever wrote them."""

    def __init__(self, sweep_dir: Path):
        self._sweep_dir = sweep_dir
        runs = sweep_folder.read(sweep_dir)[1]
        labels = varying([to_dict(config) for config in runs.values()])
        self._labels = dict(zip(runs, labels, strict=True))
        self._missing = [name for name in runs if read_row(sweep_folder.run_dir(sweep_dir, name)) is None]
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=len(runs), completed=len(runs) - len(self._missing))

    def __enter__(self) -> Ticker:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def look(self) -> None:
        for name in tuple(self._missing):
            if (row := read_row(sweep_folder.run_dir(self._sweep_dir, name))) is not None:
                self._missing.remove(name)
                self._tell(row)

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _tell(self, row: dict[str, Any]) -> None:
        self._bar.update(self._task, advance=1)
        label = self._labels[row["run_id"]].items()
        name = ", ".join([row["run_id"], *(f"{field.rpartition('.')[2]} {told(value)}" for field, value in label)])
        if row["status"] != "done":
            result = f"[red]{row['status']}[/]: {escape(row['reason'])}"
        else:
            losses = {
                "nats an item": row["loss_nats_per_item"],
                "popularity": row["loss_baseline_nats_per_item"],
                "rank": row["rank_nats_per_exposure"],
            }
            measured = (f"{what} {value:.4f}" for what, value in losses.items() if value is not None)
            result = f"{', '.join(measured)}, {row['wall_seconds']:.0f} s"
        self.say(f"{len(self._labels) - len(self._missing)}/{len(self._labels)}  {name}; {result}")
