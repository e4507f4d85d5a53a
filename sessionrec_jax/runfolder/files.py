"""The files of a run folder other than checkpoints: config.json, metrics.jsonl, and small JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doors import state
from doors.files import check_folder, is_not, make_folder, open_own, replace_text
from sessionrec_jax.config.differences import differences
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import KINDS

VALIDATED = "halving.json"
"""File of a run that stopped after a part of its steps: the validation at each part, by the part as text."""
PER_USER = "per_user.parquet"
"""File of a run's test sessions: user (index in the log), metric, x, n; the metric is sum(x) / sum(n)."""


_KINDS_OF_STATUS: dict[str, dict[str, Any]] = {
    "done": {},
    "diverged": {"reason": str},
    "failed": {"reason": str},
    "stuck": {"reason": str},
    "dropped": {"reason": str, "flops_saved": (int, float), "flops_spent": (int, float)},
}
"""The fields that readers of a row of each status rely on."""


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file whole or not at all, and follows no link. Raises ValueError for NaN, which JSON does not have,
    and what `doors.files.replacing` raises."""
    replace_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises InputError if it does not exist or is not JSON."""
    try:
        return state.read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def read_row(run_dir: Path) -> dict[str, Any] | None:
    """Reads row.json; None if it does not exist. It may appear at any time, and a failed run's may disappear.

    Raises Damaged if it is not a row.
    """
    path = run_dir / "row.json"
    try:
        row = state.read_object(path, {"status": str})
        if row["status"] not in _KINDS_OF_STATUS:
            raise state.Damaged(f"{path} is damaged: its status is {row['status']!r}")
        known = {name: kind for name, kind in KINDS.items() if name in row}
        return state.checked(row, _KINDS_OF_STATUS[row["status"]] | known, str(path))
    except FileNotFoundError:
        return None
    except state.Damaged as error:
        raise state.Damaged(f"{error}. Delete it, and the run goes on from its checkpoint") from None


def read_config(run_dir: Path) -> Config:
    """Reads the Config of a run folder. Raises InputError if it is missing or of another version."""
    if not (run_dir / "config.json").exists():
        raise InputError(is_not(run_dir, "a run"))
    return from_dict(read_json(run_dir / "config.json"), str(run_dir / "config.json"))


def claim(run_dir: Path, config: Config) -> None:
    """Makes `run_dir` the folder of this run, if it is not already. Raises InputError if it is another run's."""
    if (run_dir / "config.json").exists():
        there = read_config(run_dir)
        if run_id(there) != run_id(config):
            raise InputError(
                f"{run_dir} holds run {run_id(there)}, not {run_id(config)}: its settings differ "
                f"({differences([there], [config])}). Use another --out, or the settings of that run."
            )
        return
    check_folder(run_dir, "a run")
    make_folder(run_dir)
    write_json(run_dir / "config.json", to_dict(config))


Window = Callable[[], dict[str, float | None]]


class MetricsLog:
    """Writes metrics.jsonl: a line every few steps with the mean losses and the speed since the line before, and a line
    per validation. Lines that a killed run wrote after its checkpoint are removed first, so that no step occurs twice.
    """

    def __init__(
        self,
        path: Path | None,
        first_step: int,
        steps: int,
        every_steps: int,
        sums: Sequence[float] = (),
        validated_step: int | None = None,
    ):
        """`path` None writes nothing. `steps` is the number of the whole run; `sums` is the value that `self.sums` had
        at `first_step`, from a checkpoint. Validations after `validated_step` steps, the last that the checkpoint knows
        of, will be made again, so their lines go too. None keeps those before `first_step`."""
        if path is not None:
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            ends = first_step, first_step if validated_step is None else validated_step
            replace_text(path, "".join(f"{line}\n" for line in lines if _is_kept(line, *ends)))
        self._path, self._steps, self._every = path, steps, every_steps
        self.sums, self._unwritten = tuple(sums) or _NOTHING, None
        self.note = ""

    def add(self, step: int, learning_rate: float, sums: tuple[float, ...], window: Window) -> None:
        """Adds one step; `sums` are its retrieval nats, clicked items, rank nats and rank terms.

        `window` is called once per line and returns the speed since the line before.
        """
        self.sums = tuple(a + b for a, b in zip(self.sums, sums, strict=True))
        self._unwritten = step, learning_rate, window
        if (step + 1) % self._every == 0:
            self._write(*self._unwritten)

    def add_validation(self, step: int, values: dict[str, float | None]) -> None:
        """Adds a validation; `step` is the last one before it."""
        self._append({"step": step, **values})

    def close(self) -> None:
        """Writes the steps after the last full line."""
        if self._unwritten is not None:
            self._write(*self._unwritten)

    def _write(self, step: int, learning_rate: float, window: Window) -> None:
        retrieval, clicked, rank, terms = self.sums
        losses = {
            "retrieval_nats_per_item": retrieval / clicked if clicked else None,
            "rank_nats_per_term": rank / terms if terms else None,
        }
        watched = window()
        self._append({"step": step, "steps": self._steps, **losses, "learning_rate": learning_rate, **watched})
        shown = (f"{name.split('_')[0]} {value:.4f}" for name, value in losses.items() if value is not None)
        self.note = f"{', '.join(shown)}, {watched['sessions_per_second']:,.0f} sessions/s"
        self.sums, self._unwritten = _NOTHING, None

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is None:
            return
        with open_own(self._path, "a") as file:  # opened for each line, because a run may be killed anywhere
            file.write(json.dumps(line) + "\n")


_NOTHING = (0.0, 0.0, 0.0, 0.0)


def _is_kept(line: str, first_step: int, validated_step: int) -> bool:
    try:
        values = json.loads(line)
        return values["step"] < (first_step if "steps" in values else validated_step)
    except (ValueError, KeyError, TypeError):
        return False  # the half-written last line of a killed run
