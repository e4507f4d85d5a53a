"""A fitted law of the best rate or batch: setting* = c N^a D^b, with a cloud of parameters for its intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.compute.frontier import Estimate95
from scaling.errors import InputError
from scaling.rates.cells import Setting

FAR = 10.0
"""A point this many times outside the fitted N or D is too far for a sweep to trust the law."""


@dataclass(frozen=True)
class RateLaw:
    """log setting* = theta . (1, log N / centre, log D / centre), with the axes that vary.

    Letters: P parameters, S bootstrap draws.
    """

    setting: Setting
    axes: tuple[str, ...]
    """"n" and "d", or one of them where the other does not vary."""
    theta_P: np.ndarray
    """The log of the best setting at the centre, then the exponents, in the order of `axes`."""
    cloud_SP: np.ndarray
    """Parameters whose percentiles are the 95 % intervals."""
    centre: dict[str, float]
    """The geometric mean of each axis over the cells."""
    ranges: dict[str, tuple[float, float]]
    """{axis: (lowest, highest) of the cells}, also of an axis that does not vary."""
    scatter: float
    """The standard deviation of the cells' best settings around the law beyond their own errors, in logs."""
    values: int
    """The number of cells with a value."""
    bounds: int
    """The number of cells with only a bound."""

    @property
    def exponents(self) -> dict[str, Estimate95]:
        """{"n": exponent of N, "d": exponent of D} with 95 % intervals, of the axes that vary."""
        return {axis: self._estimate(place) for place, axis in enumerate(self.axes, 1)}

    @property
    def factor(self) -> float:
        """c, for N and D counted in ones."""
        away = sum(x * np.log(self.centre[axis]) for axis, x in zip(self.axes, self.theta_P[1:], strict=True))
        return float(np.exp(self.theta_P[0] - away))

    @property
    def formula(self) -> str:
        """The law with its numbers."""
        powers = (f" {axis.upper()}^{x:.3g}" for axis, x in zip(self.axes, self.theta_P[1:], strict=True))
        return f"{self.setting}* = {self.factor:.3g}" + "".join(powers)

    def _estimate(self, place: int) -> Estimate95:
        if not len(self.cloud_SP):
            return Estimate95(float(self.theta_P[place]), None, None)
        low, high = np.percentile(self.cloud_SP[:, place], [2.5, 97.5])
        return Estimate95(float(self.theta_P[place]), float(low), float(high))

    def predict(self, N: Any = None, D: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicts the best setting at size N and data D, which are numbers or arrays that broadcast.

        Returns (value, low, high), in the unit of the fitted column. The 95 % band is that of the law; the best setting
        of one cell scatters around it by a factor of exp(scatter). Without bootstrap the band is NaN. An axis that the
        law does not have is ignored.

        Raises InputError if an axis of the law is not given, or a value is not a number above 0.
        """
        given = {"n": N, "d": D}
        missing = [axis.upper() for axis in self.axes if given[axis] is None]
        if missing:
            raise InputError(f"the best {self.setting} ({self.formula}) needs {' and '.join(missing)}")
        points = np.broadcast_arrays(*(np.asarray(given[axis], float) for axis in self.axes))
        for axis, values in zip(self.axes, points, strict=True):
            if not np.all(np.isfinite(values) & (values > 0)):
                raise InputError(f"{axis.upper()} is {values}; the best {self.setting} wants numbers above 0")
        logs = [np.log(x / self.centre[axis]) for axis, x in zip(self.axes, points, strict=True)]
        design = np.stack([np.ones_like(logs[0]), *logs], axis=-1)
        value = np.exp(design @ self.theta_P)
        if not len(self.cloud_SP):
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        low, high = np.exp(np.percentile(design @ self.cloud_SP.T, [2.5, 97.5], axis=-1))
        return value, low, high

    def outside(self, N: float | None = None, D: float | None = None) -> tuple[str, float]:
        """Returns the axis, "N" or "D", on which a point is farthest outside the cells, and the factor (1: inside).

        It includes an axis that does not vary, because the law knows nothing of its other values.
        """
        given = {"n": N, "d": D}
        factors = {
            axis.upper(): max(low / x, x / high, 1.0)
            for axis, (low, high) in self.ranges.items()
            if (x := given[axis]) is not None
        }
        axis = max(factors, key=factors.__getitem__)
        return axis, factors[axis]
