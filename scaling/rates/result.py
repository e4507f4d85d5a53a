"""The answer: the laws, the minima of the cells, sentences, and the file that other commands read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doors.state import Damaged, read_object
from scaling.errors import InputError
from scaling.fitting.export import plain, write_json
from scaling.rates.cells import SETTINGS, Setting
from scaling.rates.law import RateLaw
from scaling.rates.minimum import Minimum

KIND = "laws of the best rate and batch"
_NUMBER = (int, float)
_FILE = {"kind": str, "columns": dict, "laws": dict}
_LAW = {"axes": list, "theta": list, "cloud": list, "centre": dict, "ranges": dict, "scatter": _NUMBER,
        "values": int, "bounds": int}  # fmt: skip


class LeftOut(NamedTuple):
    """A cell without a minimum."""

    n: float | None
    d: float
    runs: int
    reason: str


@dataclass(frozen=True)
class Rates:
    """The laws of a rates.json, without the table behind them."""

    columns: dict[str, str | None]
    """The columns of "rate", "batch", "n", "d" and "loss"."""
    rate: RateLaw
    batch: RateLaw | None
    """None where the batch was not varied, or its cells cannot carry a law."""

    @property
    def laws(self) -> dict[Setting, RateLaw]:
        return {law.setting: law for law in (self.rate, self.batch) if law is not None}

    def predict(self, N: Any = None, D: Any = None) -> dict[Setting, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Returns {"rate": (value, low, high), "batch": ...} at size N and data D; `RateLaw.predict` explains them."""
        return {setting: law.predict(N, D) for setting, law in self.laws.items()}


@dataclass(frozen=True)
class RatesFit(Rates):
    """Everything that a fit of rates found."""

    minima: tuple[Minimum, ...]
    """By ascending N and D, without the cells of too few runs."""
    left_out: tuple[LeftOut, ...]
    run_noise: float
    """The standard deviation of a single run's log loss."""
    noise_from: str
    """The origin of `run_noise`. That of the quadratics is too high where the loss is no quadratic."""
    excluded: dict[str, int]
    """{rule: the number of rows that it excluded from the table}: runs that diverged, failed or have no loss."""
    data_hash: str
    source: str
    warnings: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer in a sentence for each law, and one about the lowest losses."""
        return (*(_sentence(law) for law in self.laws.values()), self._bias())

    def _bias(self) -> str:
        bias = np.abs([each.bias for each in self.minima])
        return (
            f"The lowest loss of a cell is expected to be {np.median(bias):.2%} too low (up to {bias.max():.2%}), "
            f"because it is the lowest of many runs with a noise of {self.run_noise:.2%} (from {self.noise_from}); "
            "`corrected` is the loss without that."
        )

    def to_json(self, path: str | Path, more: dict[str, Any] | None = None) -> None:
        """Writes rates.json, which `load_rates`, `sessionrec plan` and sweeps read.

        Args:
          path: the file.
          more: further keys, such as the settings of the sweep.
        """
        values = {
            "kind": KIND,
            "sentences": self.sentences,
            "columns": self.columns,
            "laws": {setting: _stored(law) for setting, law in self.laws.items()},
            "cells": [_cell(each) for each in self.minima],
            "left_out": [one._asdict() for one in self.left_out],
            "run_noise": self.run_noise,
            "noise_from": self.noise_from,
            "excluded": self.excluded,
            "data_hash": self.data_hash,
            "source": self.source,
            "warnings": self.warnings,
        }
        write_json(plain(values | (more or {})), Path(path))


def _sentence(law: RateLaw) -> str:
    grows = " and ".join(f"{axis.upper()}^{exponent}" for axis, exponent in law.exponents.items())
    bounds = f" and {law.bounds} with only a bound" if law.bounds else ""
    return (
        f"The best {law.setting} goes as {grows} (95 %): {law.formula}, from {law.values} cells{bounds}; they scatter "
        f"around it by a factor of {np.exp(law.scatter):.3g}."
    )


def _stored(law: RateLaw) -> dict[str, Any]:
    return {
        "formula": law.formula,
        "axes": law.axes,
        "theta": law.theta_P,
        "exponents": law.exponents,
        "factor": law.factor,
        "cloud": law.cloud_SP,
        "centre": law.centre,
        "ranges": law.ranges,
        "scatter": law.scatter,
        "values": law.values,
        "bounds": law.bounds,
    }


def _cell(each: Minimum) -> dict[str, Any]:
    best = {
        setting: {
            "value": float(np.exp(each.log_A[a])),
            "stderr_log": float(each.stderr_A[a]),
            "side": each.side_A[a],
            "tried": (float(np.exp(each.low_A[a])), float(np.exp(each.high_A[a]))),
        }
        for a, setting in enumerate(SETTINGS[: len(each.side_A)])
    }
    cell = each.cell
    loss = {"lowest": each.lowest, "bias_log": each.bias, "corrected": each.corrected}
    return {"n": cell.n, "d": cell.d, "runs": len(cell.log_loss_R), **best, **loss}


def load_rates(path: str | Path) -> Rates:
    """Reads the laws of a rates.json.

    Raises InputError where the file is missing, is no rates.json or is damaged.
    """
    path = Path(path)
    try:
        values = read_object(path, {})
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; `sessionrec rates TABLE ... --json {path}` writes one") from error
    if not is_rates(values):
        raise InputError(f"{path} has no laws of the best rate; `sessionrec rates TABLE ... --json` writes them")
    values = read_object(path, _FILE)
    laws = {setting: _law(setting, values["laws"][setting], path) for setting in SETTINGS if setting in values["laws"]}
    columns = {name: values["columns"].get(name) for name in ("rate", "batch", "n", "d", "loss")}
    if "rate" not in laws:
        raise Damaged(f"{path} is damaged: it has no law of the rate. Fit again with --json")
    return Rates(columns, laws["rate"], laws.get("batch"))


def is_rates(values: Any) -> bool:
    """Returns whether the content of a JSON file is that of a rates.json."""
    return isinstance(values, dict) and values.get("kind") == KIND


def _law(setting: Setting, stored: Any, path: Path) -> RateLaw:
    damaged = Damaged(f"{path} is damaged: its law of the {setting} is not whole. Fit again with --json")
    if not isinstance(stored, dict) or any(not isinstance(stored.get(name), kind) for name, kind in _LAW.items()):
        raise damaged
    axes = tuple(stored["axes"])
    P = len(axes) + 1
    try:
        theta_P = _finite(stored["theta"], (P,))
        cloud_SP = _finite(stored["cloud"] or np.empty((0, P)), (len(stored["cloud"]), P))
        centre = {axis: float(_finite(stored["centre"][axis], (), positive=True)) for axis in axes}
        ranges = {axis: _pair(ends) for axis, ends in stored["ranges"].items()}
    except (KeyError, TypeError, ValueError):
        raise damaged from None
    if not set(axes) <= {"n", "d"} or not axes or not set(axes) <= set(ranges) <= {"n", "d"}:
        raise damaged
    scatter = float(stored["scatter"])
    return RateLaw(setting, axes, theta_P, cloud_SP, centre, ranges, scatter, stored["values"], stored["bounds"])


def _pair(ends: Sequence[float]) -> tuple[float, float]:
    low, high = _finite(ends, (2,), positive=True).tolist()
    return low, high


def _finite(values: Any, shape: tuple[int, ...], *, positive: bool = False) -> np.ndarray:
    array = np.asarray(values, float)
    if array.shape != shape or not np.isfinite(array).all() or (positive and not np.all(array > 0)):
        raise ValueError
    return array
