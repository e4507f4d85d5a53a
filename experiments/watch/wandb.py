"""Writes to Weights & Biases (extra `wandb`): a W&B run for each run, under its run_id, and a group for the sweep.
W&B's step is the training step; the row is the summary.

W&B cannot change a step that it has. A run that exists there is resumed after its last step, and lines that a killed
run writes again are not sent again: except for the speeds, they are the same numbers. The newest step of an unfinished
run is held back until a later step or the row is there, because a validation may be added to it. Offline (WANDB_MODE)
`mirrored.json` notes what was written; each call of the command that finds something new leaves a folder, and `wandb
sync` joins the folders of one run.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.watch.runs import MetricsLine, News, WatchedRun, values
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_json, write_json

_NOTE = "mirrored.json"


@dataclass
class _Sent:
    """The part of a run that W&B has."""

    next_step: int
    row: dict[str, Any] | None
    run: Any = None
    """W&B's run; None while it is not open."""
    held: list[MetricsLine] = field(default_factory=list)


class WandB:
    """The Mirror of W&B."""

    def __init__(self, out: Path, project: str, group: str | None):
        """`out`: the folder of W&B's own folder `wandb`. Raises InputError if it is not installed."""
        try:
            import wandb
        except ImportError:
            raise InputError("W&B is not installed; `pip install 'sessionrec-jax[wandb]'` installs it") from None
        self._wandb = wandb
        self._out, self._project, self._group = out, project, group
        # W&B need not watch this process, which only reads
        self._settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True,
            x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        self._offline = wandb.setup().settings.mode in ("offline", "dryrun")
        self._sent: dict[str, _Sent] = {}

    def write(self, run: WatchedRun, news: News) -> None:
        """Raises InputError if W&B does not open the run."""
        sent = self._sent.get(run.name) or self._sent.setdefault(run.name, self._before(run))
        sent.held = [*(() if news.rewritten else sent.held), *news.lines]
        newest = max((line["step"] for line in sent.held), default=-1)
        ready = [line for line in sent.held if line["step"] < newest or run.has_row]
        sent.held = sent.held[len(ready) :]
        ready = [line for line in ready if line["step"] >= sent.next_step]
        row = None if news.row == sent.row else news.row
        if not ready and row is None:
            return
        if sent.run is None:
            sent.run = self._open(run)
            sent.next_step = max(sent.next_step, sent.run.starting_step)
        for step, lines in itertools.groupby(ready, key=lambda line: line["step"]):
            if step >= sent.next_step:
                sent.run.log({name: value for line in lines for name, value in values(line).items()}, step=step)
                sent.next_step = step + 1
        if row is not None:
            sent.run.summary.update({name: value for name, value in row.items() if value is not None})
            sent.row = row
        if self._offline:
            note = {"next_step": sent.next_step, "row": sent.row}
            write_json(Path(sent.run.dir).parent / _NOTE, note)
        if row is not None:
            sent.run.finish(exit_code=0 if row["status"] in ("done", "dropped") else 1)
            sent.run = None

    def close(self) -> None:
        for sent in self._sent.values():
            if sent.run is not None:
                sent.run.finish(exit_code=0)
        self._wandb.teardown()

    def _before(self, run: WatchedRun) -> _Sent:
        """Returns what earlier calls have written offline. For runs on a server W&B says so when they are opened."""
        notes = sorted(self._out.glob(f"wandb/offline-run-*-{run.name}/{_NOTE}"))  # by their time
        return _Sent(**read_json(notes[-1])) if self._offline and notes else _Sent(0, None)

    def _open(self, run: WatchedRun) -> Any:
        try:
            return self._wandb.init(
                id=run.name, name=run.label, project=self._project, group=self._group, config=run.config, dir=self._out,
                resume="allow", reinit="create_new", settings=self._settings,
            )  # fmt: skip
        except self._wandb.errors.Error as error:
            raise InputError(
                f"W&B does not open run {run.name} in project {self._project!r}: {error} "
                "(WANDB_MODE=offline writes files for `wandb sync`, without a login)"
            ) from None
