"""Compares frozen forecasts with the runs that were made since: each is a hit, a miss or open, and how many held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scaling.forecasts.frozen import Forecast
from scaling.laws.registry import by_name
from scaling.table.run_table import RunTable

HIT, MISS, OPEN = "hit", "miss", "open"


@dataclass(frozen=True)
class Judged:
    """A forecast and its outcome."""

    forecast: Forecast
    outcome: str
    """HIT: the measured value is inside the band. MISS: it is not. OPEN: no run is at the point yet."""
    runs: tuple[str, ...]
    """The runs at the point."""
    measured: float | None
    """The geometric mean of their responses."""
    band: tuple[float, float]
    """The 95 % band of that mean, or of a single run while there is no run."""
    relative_error: float | None
    """predicted / measured - 1."""


@dataclass(frozen=True)
class Calibration:
    """The share of forecasts that held, so far."""

    hits: int
    judged: int
    open: int
    interval95: tuple[float, float] | None
    """The 95 % interval of the share of hits (Clopper and Pearson 1934). None where nothing is judged."""
    mean_log_error: float | None
    """Mean of log(predicted) - log(measured): above 0 where the forecasts are too high."""

    def __str__(self) -> str:
        waiting = f"; {self.open} open" if self.open else ""
        if self.interval95 is None or self.mean_log_error is None:
            return f"no forecast can be judged yet{waiting}"
        low, high = self.interval95
        verdict = (
            "agrees with the 95 % that was promised" if low <= 0.95 <= high else "is not the 95 % that was promised"
        )
        return (
            f"{self.hits} of {self.judged} forecasts held, a share of {self.hits / self.judged:.0%} "
            f"[{low:.0%}, {high:.0%}], which {verdict}; they were {self.mean_log_error:+.2%} off on average{waiting}"
        )


def judge(forecast: Forecast, table: RunTable) -> Judged:
    """Compares a forecast with the runs of a table at its point.

    The forecasts of a law are of single runs, so several runs at a point (seeds) count once, by their mean.
    Raises InputError where the table has no column for an axis of the law or for its response.
    """
    at = forecast.near(table)
    runs = tuple(np.asarray(table.row_id, object)[at])
    if not runs or table.data_hash() == forecast.data_hash:
        return Judged(forecast, OPEN, (), None, forecast.band(), None)
    measured = float(np.exp(np.mean(np.log(table.response(by_name(forecast.law))[at]))))
    low, high = forecast.band(len(runs))
    outcome = HIT if low <= measured <= high else MISS
    return Judged(forecast, outcome, runs, measured, (low, high), forecast.value / measured - 1)


def calibration(judged: Iterable[Judged]) -> Calibration:
    """Counts the outcomes."""
    from scipy.special import betaincinv

    outcomes = list(judged)
    errors = [np.log1p(one.relative_error) for one in outcomes if one.relative_error is not None]
    hits, n = sum(one.outcome == HIT for one in outcomes), len(errors)
    if not n:
        return Calibration(0, 0, len(outcomes), None, None)
    low = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 0.975)) if hits < n else 1.0
    return Calibration(hits, n, len(outcomes) - n, (low, high), float(np.mean(errors)))
