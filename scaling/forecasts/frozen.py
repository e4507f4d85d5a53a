"""A prediction of a fitted law, and the same with its date and the hash of its data, as a line of forecasts.jsonl."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doors.files import write_text
from doors.state import Damaged, checked, read_object
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw, load
from scaling.fitting.run_noise import run_band
from scaling.laws.registry import by_name
from scaling.table.columns import Columns
from scaling.table.run_table import RunTable

NEAR = 0.01
"""A run belongs to a point if it is within this fraction of it on every axis. Planned and made runs differ by less."""
NAMES = {"n": "N", "d": "D", "u": "unique D", "l": "upstream loss", "s": "density"}
"""{axis: its name in a message}."""
_NUMBER = (int, float)
_FIT = {"run_noise95": _NUMBER, "data_hash": str, "verdict": str, "columns": dict}
_LINE = {
    "date": str, "fit": str, "data_hash": str, "law": str, "verdict": str, "columns": dict, "point": dict,
    "value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "run_noise95": _NUMBER, "reach": (*_NUMBER, type(None)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The prediction of the runs at one point, as it was frozen. Values are in the unit of the fit's response."""

    date: str
    """The time of freezing: UTC, ISO 8601, to the second."""
    fit: str
    """The path of the fit.json that predicted."""
    data_hash: str
    """The hash of the fitted numbers."""
    law: str
    verdict: str
    """The verdict of the fit on its law: follows, misfits or cannot tell."""
    columns: dict[str, Any]
    """The fields of Columns that the fit was made with. Runs are read with the same ones."""
    point: dict[str, float]
    """{axis of the law: its value}."""
    value: float
    low: float
    high: float
    """The ends of the law's 95 % band."""
    run_noise95: float
    """Half the 95 % range of one run's log response around the law, in nats."""
    reach: float | None
    """The compute (the data, for a law of data alone) over the largest fitted. None for a law of neither."""

    def band(self, runs: int = 1) -> tuple[float, float]:
        """Returns the 95 % band of the geometric mean of `runs` runs."""
        return run_band(self.value, self.low, self.high, self.run_noise95 / np.sqrt(runs))

    @property
    def place(self) -> str:
        """The point in words: "N 3e+08, D 6e+09"."""
        return ", ".join(f"{NAMES[axis]} {value:.6g}" for axis, value in self.point.items())

    def near(self, table: RunTable) -> np.ndarray:
        """Returns [R] booleans, True for the table's rows within NEAR of the forecast's point on every axis.

        Raises InputError where the table has no column for an axis.
        """
        points, is_near_R = table.points(by_name(self.law)), np.ones(len(table), bool)
        for axis, value in self.point.items():
            is_near_R &= np.abs(np.log(points[axis] / value)) <= np.log1p(NEAR)
        return is_near_R


def predict(path: Path, points: Sequence[dict[str, float]], now: datetime.datetime) -> list[Forecast]:
    """Predicts the runs at `points` {axis: value} with the law of a fit.json.

    Raises InputError where the file is no fit of this version or has no bootstrap, and where the law needs an axis that
    is not given or does not have one that is.
    """
    fitted = load(path)
    stored = read_object(path, _FIT)
    if not len(fitted.cloud_SP):
        raise InputError(f"{path} was fitted without bootstrap, so its predictions have no band; fit again with some")
    found = []
    for point in points:
        _check_axes(fitted, point)
        given = {"N": "n", "D": "d", "U": "u", "L": "l", "density": "s"}
        value, low, high = fitted.predict(**{name: point.get(axis) for name, axis in given.items()})
        found.append(
            Forecast(
                date=now.astimezone(datetime.UTC).isoformat(timespec="seconds"),
                fit=str(path),
                data_hash=stored["data_hash"],
                law=fitted.law.name,
                verdict=stored["verdict"],
                columns=stored["columns"],
                point={axis: float(point[axis]) for axis in fitted.law.axes},
                value=float(value),
                low=float(low),
                high=float(high),
                run_noise95=float(stored["run_noise95"]),
                reach=_reach(fitted, point),
            )
        )
    return found


def _check_axes(fitted: FittedLaw, point: dict[str, float]) -> None:
    for axis in point:
        if axis not in fitted.law.axes:
            axes = " and ".join(NAMES[a] for a in fitted.law.axes)
            raise InputError(
                f"{NAMES[axis]} is given, and {fitted.law.name} ({fitted.law.formula}) is a law of {axes}; leave it out"
            )


def _reach(fitted: FittedLaw, point: dict[str, float]) -> float | None:
    if {"n", "d", "c"} <= {*point, *fitted.ranges}:
        return float(fitted.flops_per_nd * point["n"] * point["d"] / fitted.ranges["c"][1])
    return float(point["d"] / fitted.ranges["d"][1]) if "d" in point else None


def refuse_made(forecasts: Iterable[Forecast], table: RunTable) -> None:
    """Raises InputError if the table already has a run at the point of a forecast."""
    for forecast in forecasts:
        at = forecast.near(table)
        if at.any():
            run = table.row_id[int(np.argmax(at))]
            raise InputError(
                f"{table.source} has the run {run} at {forecast.place}: what is known cannot be forecast. "
                "`sessionrec predict` gives the number"
            )


def keep(forecasts: Sequence[Forecast], path: Path) -> None:
    """Adds forecasts to a file, which is made where it does not exist. Lines that are there stay as they are.

    Raises InputError if the same law and data have a forecast for the same point already, or a line is damaged.
    """
    before = read(path) if path.exists() else []
    for forecast in forecasts:
        for other in before:
            if (other.data_hash, other.law, other.point) == (forecast.data_hash, forecast.law, forecast.point):
                raise InputError(
                    f"{path} has a forecast of {forecast.place} from {other.date}, by the same law and data"
                )
        before = [*before, forecast]
    text = path.read_text() if path.exists() else ""
    lines = [json.dumps(dataclasses.asdict(forecast), allow_nan=False) for forecast in forecasts]
    write_text(path, "\n".join([*text.splitlines(), *lines]) + "\n")


def read(path: Path) -> list[Forecast]:
    """Reads a file of forecasts. Raises InputError where it is missing, and Damaged that names the damaged line."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; `sessionrec forecast fit.json ... --out` writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a file of forecasts: {error}") from error
    return [_forecast(text, f"line {number} of {path}") for number, text in enumerate(lines, 1) if text.strip()]


def _forecast(text: str, where: str) -> Forecast:
    try:
        values = checked(json.loads(text), _LINE, where)
        forecast = Forecast(**{field.name: values[field.name] for field in dataclasses.fields(Forecast)})
        Columns(**forecast.columns)
        checked(forecast.columns, dict.fromkeys(forecast.columns, (str, list, type(None))), where)
        datetime.datetime.fromisoformat(forecast.date)
        axes = by_name(forecast.law).axes
    except Damaged:
        raise
    except (ValueError, RecursionError, TypeError) as error:  # an unknown law is a ValueError too
        raise Damaged(f"{where} is damaged: {error}") from None
    numbers = [*forecast.point.values(), forecast.low, forecast.value, forecast.high, forecast.run_noise95 + 1]
    if not all(isinstance(x, _NUMBER) and np.isfinite(x) and x > 0 for x in numbers):
        raise Damaged(f"{where} is damaged: a forecast has finite numbers above 0, and came with {numbers}")
    if {*forecast.point} != {*axes}:
        wanted = f"{forecast.law} has the axes {', '.join(axes)}"
        raise Damaged(f"{where} is damaged: its point is {forecast.point}; {wanted}")
    return forecast
