"""The first steps of a run that a longer run has already taken.

Under the schedule `cooldown` (optim.py) a run of any length is the same up to its cooldown, bit for bit: it reads the
same batches at the same learning rates. So a run may begin from a checkpoint of a longer one, its trunk, by
--train.begins-from, and take only the steps after it. It ends as if it had taken all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from doors.terminal import say
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, replace, run_id, to_dict
from sessionrec_jax.devices.processes import is_process_zero, on_process_zero
from sessionrec_jax.errors import InputError
from sessionrec_jax.training.checkpoint import Loaded, damage_of, load
from sessionrec_jax.training.optim import cooldown_start


def shared_steps(config: Config, run_dir: Path, steps: int, like: Any) -> Loaded | None:
    """Returns (state, progress) of the checkpoint that a run of `steps` steps begins from, placed like `like`.

    Returns None if the run has no such setting, or if the checkpoint is missing or damaged, which is reported. Raises
    InputError if it is not one of the same run at a greater length, or is past the start of the cooldown.
    """
    if not config.train.begins_from:
        return None
    path, step = run_dir.parent / config.train.begins_from, config.train.steps_shared
    if (damage := on_process_zero(lambda: damage_of(path.parent, step))) is not None:
        if is_process_zero():
            say(f"{path}: no whole checkpoint ({damage}); the run takes its first steps itself")
        return None
    state, progress = load(path.parent, step, like)
    trunk = from_dict(progress["config"], str(path))
    _refuse_other_steps(config, steps, trunk, path)
    counters = progress["counters"]
    shared = {
        "trunk": run_id(trunk),
        "steps_shared": step,
        "items_shared": counters["items"],
        "sessions_shared": counters["sessions"],
    }
    return state, progress | {"config": to_dict(config), "counters": counters | shared}


def _refuse_other_steps(config: Config, steps: int, trunk: Config, path: Path) -> None:
    if run_id(replace(trunk, {"train.epochs": config.train.epochs})) != run_id(config):
        raise InputError(
            f"--train.begins-from {path} is a checkpoint of run {run_id(trunk)}, whose settings differ in more than "
            "--train.epochs; wanted a run of the same settings"
        )
    if trunk.train.epochs < config.train.epochs:
        raise InputError(
            f"--train.begins-from {path} is a checkpoint of a run of {trunk.train.epochs:g} epochs; wanted a run of at "
            f"least {config.train.epochs:g} epochs, as long as this one"
        )
    if config.train.steps_shared > (start := cooldown_start(config.optim, steps)):
        raise InputError(
            f"--train.begins-from {path}: the cooldown of a run of {steps} steps starts at step {start}; wanted a "
            "checkpoint from before it"
        )
