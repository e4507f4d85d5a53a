"""The progress of a sweep: a bar on a terminal, and a line for each new row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from doors.state import Damaged
from doors.terminal import Terminal
from doors.text import markup
from experiments.sweep import sweep_folder
from experiments.sweep.varying import label, varying
from sessionrec_jax.config.values import to_dict
from sessionrec_jax.row_columns import LOSS, RANK_LOSS, baseline_of
from sessionrec_jax.runfolder.files import read_row


class Ticker:
    """`with Ticker(sweep_dir) as ticker`: each `ticker.refresh()` prints the new rows, whoever wrote them."""

    def __init__(self, sweep_dir: Path, *, quiet: bool = False):
        """`quiet`: shows no bar, and only the rows of runs that went wrong."""
        self._quiet = quiet
        self._sweep_dir = sweep_dir
        runs = sweep_folder.read(sweep_dir)[1]
        labels = varying([to_dict(config) for config in runs.values()])
        self._labels = dict(zip(runs, labels, strict=True))
        self._missing = [name for name in runs if not (sweep_folder.run_dir(sweep_dir, name) / "row.json").exists()]
        self._console = Terminal(stderr=True, highlight=False)
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        is_disabled = quiet or not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, disable=is_disabled, transient=True)
        self._task = self._bar.add_task("", total=len(runs), completed=len(runs) - len(self._missing))

    def __enter__(self) -> Ticker:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def refresh(self) -> None:
        sweep_folder.refresh(self._sweep_dir)
        for name in tuple(self._missing):
            try:
                row = read_row(sweep_folder.run_dir(self._sweep_dir, name))
            except Damaged as error:
                row = {"status": "damaged", "reason": str(error)}
            if row is not None:
                self._missing.remove(name)
                self._print_row(name, row)

    def print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _print_row(self, run_id: str, row: dict[str, Any]) -> None:
        self._bar.update(self._task, advance=1)
        if self._quiet and row["status"] in ("done", "dropped"):
            return
        name = markup(", ".join(filter(None, (run_id, label(self._labels[run_id])))))
        if row["status"] != "done":
            result = f"[red]{row['status']}[/]: {markup(row['reason'])}"
        else:
            losses = {
                "nats an item": row.get(LOSS),
                "popularity": row.get(baseline_of(LOSS)),
                "rank": row.get(RANK_LOSS),
            }
            measured = (f"{what} {value:.4f}" for what, value in losses.items() if value is not None)
            result = f"{', '.join(measured)}, {row.get('wall_seconds', 0):.0f} s"
        self.print(f"{len(self._labels) - len(self._missing)}/{len(self._labels)}  {name}; {result}")
