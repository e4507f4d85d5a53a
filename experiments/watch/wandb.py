"""Weights & Biases (extra `wandb`): a W&B run a run, under its run_id, in a group a sweep; W&B's step is the training
step, the row is the summary.

W&B takes no step back and none twice. A run that exists is resumed behind the last step that it has, and what a killed
run writes again it does not see again: up to the speeds, they are the same numbers. The newest step of a run under way
is held back until a later one or the row is there, since a validation may yet be added to it. Offline (WANDB_MODE) what
was written is noted beside it, in `mirrored.json`; each call of the command that found something new leaves a folder,
and `wandb sync` joins those of one run.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.watch.runs import Line, News, Run, values
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_json, write_json

_NOTE = "mirrored.json"


@dataclass
class _Begun:
    """A run as far as W&B has it."""

    next_step: int
    row: dict[str, Any] | None
    run: Any = None
    """W&B's; None while it is not open."""
    held: list[Line] = field(default_factory=list)


class WandB:
    """A Mirror."""

    def __init__(self, out: Path, project: str, group: str | None):
        """`out`: where W&B keeps its own files, in a folder `wandb`. Raises InputError where it is not installed."""
        try:
            import wandb
        except ImportError:
            raise InputError("W&B is not installed; `pip install 'sessionrec-jax[wandb]'` installs it") from None
        self._wandb = wandb
        self._out, self._project, self._group = out, project, group
        # of this process there is nothing to tell: it only reads
        self._settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True,
            x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        self._offline = wandb.setup().settings.mode in ("offline", "dryrun")
        self._begun: dict[str, _Begun] = {}

    def write(self, run: Run, news: News) -> None:
        """Raises InputError where W&B does not let us in."""
        begun = self._begun.get(run.name) or self._begun.setdefault(run.name, self._before(run))
        begun.held = [*(() if news.anew else begun.held), *news.lines]
        newest = max((line["step"] for line in begun.held), default=-1)
        ready = [line for line in begun.held if line["step"] < newest or run.has_row]
        begun.held = begun.held[len(ready) :]
        ready = [line for line in ready if line["step"] >= begun.next_step]
        row = None if news.row == begun.row else news.row
        if not ready and row is None:
            return
        if begun.run is None:
            begun.run = self._open(run)
            begun.next_step = max(begun.next_step, begun.run.starting_step)
        for step, lines in itertools.groupby(ready, key=lambda line: line["step"]):
            if step >= begun.next_step:
                begun.run.log({name: value for line in lines for name, value in values(line).items()}, step=step)
                begun.next_step = step + 1
        if row is not None:
            begun.run.summary.update({name: value for name, value in row.items() if value is not None})
            begun.row = row
        if self._offline:
            note = {"next_step": begun.next_step, "row": begun.row}
            write_json(Path(begun.run.dir).parent / _NOTE, note)
        if row is not None:
            begun.run.finish(exit_code=0 if row["status"] == "done" else 1)
            begun.run = None

    def close(self) -> None:
        for begun in self._begun.values():
            if begun.run is not None:
                begun.run.finish(exit_code=0)
        self._wandb.teardown()

    def _before(self, run: Run) -> _Begun:
        """What earlier calls have written offline; of runs on a server W&B tells it when they are opened."""
        notes = sorted(self._out.glob(f"wandb/offline-run-*-{run.name}/{_NOTE}"))  # by their time
        return _Begun(**read_json(notes[-1])) if self._offline and notes else _Begun(0, None)

    def _open(self, run: Run) -> Any:
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
