"""Tests a law: refits it without the largest runs, and predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import widened
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import HELDOUT, Problem
from scaling.fitting.run_noise import run_band, run_noise95
from scaling.laws.registry import Law
from scaling.table import checks
from scaling.table.run_table import RunTable

DRAWS = 300
TOP_COMPUTE = 0.8
"""For a law of more than D, the runs above this quantile of the reach are held out."""


@dataclass(frozen=True)
class HeldOutRun:
    """A run that the refit did not see, and the refit's prediction. Losses are in the table's unit."""

    run: str
    n: float | None
    d: float | None
    loss: float
    """The response: a loss, a metric, or a metric's error."""
    predicted: float
    predicted95: tuple[float, float] | None
    """The band of the law from the bootstrap; the noise of a single run comes on top of it."""
    run95: tuple[float, float] | None
    """The band of a single run: that of the law, widened by the scatter of the refit's own runs."""
    relative_error: float
    """predicted / loss - 1."""
    excess_relative_error: float | None
    """(predicted - loss) / (loss - known floor). None without a known floor, or where the run is not above it."""
    extrapolation_factor: float
    """The run's reach over the largest reach of the refit's data."""

    @property
    def inside(self) -> bool | None:
        """True if the run is inside its band. None where the fit was made without bootstrap."""
        return None if self.run95 is None else self.run95[0] <= self.loss <= self.run95[1]


class HeldOut(NamedTuple):
    """The runs that were held out: none where the others cannot carry the law."""

    runs: tuple[HeldOutRun, ...]
    held_R: np.ndarray
    """[R] booleans, True for their rows of the table."""


def rms_log_error(runs: Sequence[HeldOutRun]) -> float | None:
    """Returns the root mean square of log(predicted) - log(measured), or None without runs."""
    return float(np.sqrt(np.mean([np.log1p(run.relative_error) ** 2 for run in runs]))) if runs else None


def count_inside(runs: Sequence[HeldOutRun]) -> int | None:
    """Returns how many runs are inside their own band, or None without runs or without bands."""
    inside = [run.inside for run in runs]
    return None if not inside or None in inside else sum(map(bool, inside))


def reach(table: RunTable, law: Law) -> np.ndarray:
    """Returns the size of each run, [R]: D, or N D for a law of both, or 1 / L for a law of an upstream loss."""
    points = table.points(law)
    if "l" in points:
        return 1 / points["l"]
    return points["d"] * points.get("n", 1.0)


def predict_heldout(
    table: RunTable,
    law: Law,
    objective: Objective,
    known_floor: float | None,
    *,
    bootstrap: int,
    seed: int,
    warnings: list[str],
) -> HeldOut:
    """Holds out the two largest D (laws of D) or the top fifth of the reach (other laws), and predicts those runs.

    Where the other runs cannot carry the law, the result is empty and `warnings` gets the reason.
    """
    size = reach(table, law)
    held = size >= (np.unique(size)[-2:][0] if law.axes == ("d",) else np.quantile(size, TOP_COMPUTE))
    train = table.take(~held)
    try:
        refit = without(train, law, objective, known_floor, bootstrap=bootstrap, seed=seed)
    except Refusal as refusal:
        warnings.append(f"No held-out check: without the {int(held.sum())} largest runs, {refusal}")
        return HeldOut((), np.zeros(len(table), bool))
    return HeldOut(_predicted(table, held, refit, noise=_noise(train, refit)), held)


def _noise(train: RunTable, refit: FittedLaw) -> float:
    """Returns half the 95 % range of one run's log response around the law, from the residuals of the refit."""
    residual_R = np.log(train.response(refit.law)) - refit.bind(train.points(refit.law)).log(refit.theta_P[None])[0]
    return run_noise95(residual_R, len(np.unique(train.cluster)), len(refit.theta_P))


def _predicted(table: RunTable, held: np.ndarray, refit: FittedLaw, noise: float) -> tuple[HeldOutRun, ...]:
    size, known_floor = reach(table, refit.law), refit.known_floor
    value, low, high = refit.band({axis: values[held] for axis, values in table.points(refit.law).items()})
    response = table.response(refit.law)
    rows = []
    for i, at in enumerate(np.flatnonzero(held).tolist()):
        loss = float(response[at])
        excess = 0.0 if known_floor is None else loss - known_floor
        has_band = len(refit.cloud_SP) > 0
        rows.append(
            HeldOutRun(
                run=table.row_id[at],
                n=None if table.n is None else float(table.n[at]),
                d=None if table.d is None else float(table.d[at]),
                loss=loss,
                predicted=float(value[i]),
                predicted95=(float(low[i]), float(high[i])) if has_band else None,
                run95=run_band(value[i], low[i], high[i], noise) if has_band else None,
                relative_error=float(value[i]) / loss - 1,
                excess_relative_error=(float(value[i]) - loss) / excess if excess > 0 else None,
                extrapolation_factor=float(size[at] / size[~held].max()),
            )
        )
    return tuple(rows)


def without(
    train: RunTable, law: Law, objective: Objective, known_floor: float | None, *, bootstrap: int = 0, seed: int = 0
) -> FittedLaw:
    """Refits `law` to the runs that are not held out. Raises Refusal where they cannot carry it."""
    if not len(train):
        raise Refusal("no run is left")
    checks.refuse(train, law, known_floor)
    refit = Problem.of(train, law, known_floor)
    minima = refit.minima(objective)
    theta_P = minima.theta_SP[0]
    draws_SP = refit.bootstrap(objective, minima, train.cluster, draws=min(bootstrap, DRAWS), seed=seed, stream=HELDOUT)
    cloud_SP = widened(refit, theta_P, draws_SP, len(np.unique(train.cluster)))
    return FittedLaw(
        law=law,
        theta_P=theta_P,
        cloud_SP=cloud_SP,
        centre=refit.centre,
        known_floor=known_floor,
        flops_per_nd=train.flops_per_nd,
        ranges={},
        rivals=(),
    )
