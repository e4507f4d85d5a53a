"""Makes the runs of one axis: prepares its log and runs its sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from doors.text import markup, shell
from experiments.demo.axes import HELD_OUT, Axis
from experiments.sweep.launch import local
from experiments.sweep.run_sweep import run_sweep
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.preparation.prepare import prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.data.synthetic.known import known_truth
from sessionrec_jax.errors import InputError


def make_runs(axis: Axis, folder: Path, launcher: local.Launcher, say: Callable[[str], None]) -> Path:
    """Makes FOLDER/log and FOLDER/sweep, or goes on where an earlier demo stopped. Returns the folder of the sweep.

    Raises InputError if the folder has another demo.
    """
    log = _log(axis, folder / "log", say)
    sweep = folder / "sweep"
    say(f"the sweep: `{markup(shell('sessionrec', 'status', sweep))}` shows it from another terminal")
    layout = axis.plan.lay_out(replace(axis.base, {"data.path": str(log.path)}), log)
    run_sweep(axis.plan_name, layout, sweep, launcher)
    return sweep


def _log(axis: Axis, folder: Path, say: Callable[[str], None]) -> Prepared:
    """Prepares the log, or opens it if an earlier demo did; a killed preparation leaves no folder of this name.

    Raises InputError if another process made the log that is there.
    """
    if folder.exists():
        log = open_log(folder)
        truth = known_truth(log)
        if truth is None or truth.process != axis.process:
            raise InputError(
                f"{folder} has a log of another demo; wanted another --out, or the --size and --seed of it"
            )
        return log
    folder.parent.mkdir(parents=True, exist_ok=True)
    return prepare(synthetic.read(synthetic.Options(**vars(axis.process))), folder, HELD_OUT, say=say)
