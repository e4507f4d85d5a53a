"""A law with its parameters and their uncertainty, without the table behind them: it predicts and can be stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import InputError
from scaling.laws import registry
from scaling.laws.fixed import with_fixed
from scaling.laws.registry import FLOOR, Law
from scaling.laws.terms import Natural, Points

FIELDS = ("law", "theta", "cloud", "centre", "known_floor", "flops_per_nd", "ranges")
"""The keys of fit.json that `load` reads."""


@dataclass(frozen=True)
class FittedLaw:
    """A law with fitted parameters, and a cloud of parameters around them whose percentiles are the 95 % intervals."""

    law: Law
    theta_P: np.ndarray
    """Logs of sizes at the centre, then exponents and shapes, in the order of `law.free_params`."""
    cloud_SP: np.ndarray
    """The theta of the bootstrap draws that converged, widened for few runs (`intervals.widened`)."""
    centre: dict[str, float]
    """The middle of the data on each axis: geometric for sizes and data, arithmetic for an upstream loss."""
    known_floor: float | None
    flops_per_nd: float
    """Training FLOPs C = flops_per_nd * N * D."""
    ranges: dict[str, tuple[float, float]]
    """{axis, or "c" for C: (lowest, highest) of the fitted data}."""
    rivals: tuple[FittedLaw, ...]
    """Other forms that the runs cannot tell from this one, fitted to all runs."""
    rivals_in_band: bool = field(default=False, kw_only=True)
    """True for a fit of "best": the band of a prediction reaches to those of the rivals."""

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the P fitted parameters, in theta's order."""
        return self.law.free_params(self.known_floor)

    def natural(self, theta_SP: np.ndarray | None = None) -> Natural:
        """Returns the parameters as the formula writes them, {name: [S]}. Default: the fitted ones, S = 1."""
        theta_SP = self.theta_P[None] if theta_SP is None else theta_SP
        return registry.natural(self.law, theta_SP, self.centre, self.known_floor)

    def bind(self, points: Points) -> registry.Bound:
        """Returns the law at `points` {axis: [R]} as a function of theta, with derivatives."""
        return registry.bind(self.law, points, self.centre, self.known_floor)

    def loss_at(self, points: Points, theta_SP: np.ndarray | None = None) -> np.ndarray:
        """Returns the response at R points {axis: [R]}, [S, R]. Default: that of the fitted parameters, S = 1."""
        return np.exp(self.bind(points).log(self.theta_P[None] if theta_SP is None else theta_SP))

    @property
    def floor(self) -> float:
        """The known floor, else the fitted one, else 0."""
        return float(self.natural()[FLOOR.size][0]) if self.law.has_floor else 0.0

    def predict(
        self, N: Any = None, D: Any = None, U: Any = None, L: Any = None, density: Any = None
    ) -> tuple[np.ndarray, ...]:
        """Predicts the response at size N, data D, unique data U, upstream loss L and the density of the parameters.

        They are numbers, or arrays that broadcast.

        Returns (value, low, high). The 95 % band comes from the bootstrap and is that of the law, not of a single run.
        It is NaN where the fit was made without bootstrap.

        Raises InputError if the law needs an axis that is not given, or a value is not a number above 0.
        """
        given = {"n": N, "d": D, "u": U, "l": L, "s": density}
        missing = [axis.upper() for axis in self.law.axes if given[axis] is None]
        if missing:
            raise InputError(f"{self.law.name} ({self.law.formula}) needs {' and '.join(missing)} to predict")
        try:
            arrays = np.broadcast_arrays(*(np.asarray(given[a], float) for a in self.law.axes))
        except (ValueError, TypeError) as error:
            names = " and ".join(axis.upper() for axis in self.law.axes)
            raise InputError(f"{names} want numbers, or arrays that broadcast: {error}") from error
        points = {axis: values.ravel() for axis, values in zip(self.law.axes, arrays, strict=True)}
        for axis, values in points.items():
            if not np.all(values > 0):
                raise InputError(f"{axis.upper()} is {values[~(values > 0)][0]:g}; a prediction wants it above 0")
        return tuple(x.reshape(arrays[0].shape) for x in self.band(points))

    def band(self, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the response at R `points` and the ends of its 95 % band, 3 x [R]. Without a cloud they are NaN."""
        value = self.loss_at(points)[0]
        if not len(self.cloud_SP):
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        low, high = np.percentile(self.loss_at(points, self.cloud_SP), [2.5, 97.5], axis=0)
        others = [rival.loss_at(points)[0] for rival in self.rivals if self.rivals_in_band]
        return value, np.min([low, *others], axis=0), np.max([high, *others], axis=0)

    def stored(self) -> dict[str, Any]:
        """Returns FIELDS in JSON's types."""
        return {
            "law": self.law.name,
            "fixed": dict(self.law.fixed),
            "theta": self.theta_P.tolist(),
            "cloud": self.cloud_SP.tolist(),
            "centre": self.centre,
            "known_floor": self.known_floor,
            "flops_per_nd": self.flops_per_nd,
            "ranges": self.ranges,
            "rivals": [rival.stored() for rival in self.rivals],
            "rivals_in_band": self.rivals_in_band,
        }


def load(path: str | Path) -> FittedLaw:
    """Reads the FittedLaw of a fit.json. Raises InputError where the file is missing or damaged."""
    path = Path(path)
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; `sessionrec fit ... --json {path}` writes one") from error
    except (IsADirectoryError, ValueError) as error:
        makes = "`sessionrec fit TABLE --json law.json` makes one from a table of runs"
        raise InputError(f"{path} is not a fit; {makes}") from error
    except OSError as error:
        raise InputError(f"{path} is not a fit: {error}") from error
    missing = [name for name in FIELDS if not isinstance(values, dict) or name not in values]
    if missing:
        raise InputError(f"{path} is not a fit of this version: it has no {', '.join(missing)}; fit again with --json")
    return _read(_Stored(path, values))


def _read(stored: _Stored) -> FittedLaw:
    values = stored.values
    law = registry.by_name(str(values["law"]))
    if values.get("fixed"):  # files of before have no such key
        law = with_fixed(
            law, {name: float(stored.inside("fixed").numbers(name, (), "a number")) for name in values["fixed"]}
        )
    known_floor = None if values["known_floor"] is None else stored.positive("known_floor")
    P = len(law.free_params(known_floor))
    return FittedLaw(
        law=law,
        theta_P=stored.numbers("theta", (P,), f"{P} numbers"),
        cloud_SP=stored.numbers("cloud", (-1, P), f"lists of {P} numbers"),
        centre={axis: stored.inside("centre").positive(axis) for axis in law.axes},
        known_floor=known_floor,
        flops_per_nd=stored.positive("flops_per_nd"),
        ranges={
            axis: tuple(stored.inside("ranges").numbers(axis, (2,), "two numbers").tolist())
            for axis in stored.inside("ranges").values
        },
        rivals=tuple(_read(rival) for rival in stored.each("rivals")),
        rivals_in_band=bool(values.get("rivals_in_band", True)),  # before the key, only a fit of best had rivals
    )


@dataclass(frozen=True)
class _Stored:
    """The fields of a file. Each is checked as it is read; an InputError names the damaged one."""

    path: Path
    values: dict[str, Any]
    within: str = ""

    def numbers(self, name: str, shape: tuple[int, ...], wanted: str) -> np.ndarray:
        """Returns finite numbers of `shape`, whose first length may be -1 for any length."""
        try:
            array = np.asarray(self.values.get(name), float)
            array = array if array.size else array.reshape(shape)
        except (ValueError, TypeError):
            raise self._damaged(name, wanted) from None
        if array.ndim != len(shape) or array.shape[-1:] != shape[-1:] or not np.isfinite(array).all():
            raise self._damaged(name, wanted)
        return array

    def positive(self, name: str) -> float:
        value = float(self.numbers(name, (), "a number above 0"))
        if not value > 0:
            raise self._damaged(name, "a number above 0")
        return value

    def inside(self, name: str) -> _Stored:
        if not isinstance(self.values[name], dict):
            raise self._damaged(name, "an object with an entry for each axis")
        return _Stored(self.path, self.values[name], f"{name} of ")

    def each(self, name: str) -> list[_Stored]:
        """Returns the objects of a list with the keys FIELDS; an empty list where there is no such key."""
        found = self.values.get(name, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) and set(FIELDS) <= set(one) for one in found):
            raise self._damaged(name, "a list of fits")
        return [_Stored(self.path, one, f"{self.within}{name}: ") for one in found]

    def _damaged(self, name: str, wanted: str) -> InputError:
        came = str(self.values.get(name))[:60]
        return InputError(
            f"{self.path} is damaged: {self.within}{name} is {came}; wanted {wanted}. Fit again with --json"
        )
