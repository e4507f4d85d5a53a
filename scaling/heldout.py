"""The test that counts for a law: refit without the largest runs, and predict them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling import checks
from scaling.errors import Refusal
from scaling.laws import Law
from scaling.minimize import Objective
from scaling.problem import Problem, geometric_centre, predict_band
from scaling.table import RunTable

DRAWS = 300
TOP_COMPUTE = 0.8
"""Quantile of N D above which the runs are held out of a law of both."""


@dataclass(frozen=True)
class HeldOut:
    """A run that the check's refit did not see, and what that refit predicted. Losses in the table's unit."""

    run: str
    n: float | None
    d: float
    loss: float
    predicted: float
    predicted95: tuple[float, float] | None
    """Where the law goes, from the bootstrap; a single run's own noise comes on top."""
    relative_error: float
    """predicted / loss - 1."""
    excess_relative_error: float | None
    """The same over the known floor; None without one, or where the run is not above it."""
    extrapolation_factor: float
    """How far past the refit's data: in D, or in N D for a law of both."""


def predict_heldout(
    table: RunTable,
    law: Law,
    objective: Objective,
    known_floor: float | None,
    bootstrap: int,
    seed: tuple[int, ...],
    warnings: list[str],
) -> tuple[HeldOut, ...]:
    """Holds out the two largest D (laws of D) or the top fifth of N D (laws of both).

    Where the rest cannot carry the law there is no check, and `warnings` gets the reason.
    """
    one_axis = law.axes == ("d",)
    reach = table.d if one_axis else table.n * table.d
    held = reach >= (np.unique(table.d)[-2] if one_axis else np.quantile(reach, TOP_COMPUTE))
    train = table.take(~held)
    try:
        checks.refuse(train, law, known_floor)
        centre = geometric_centre(train, law)
        refit = Problem.of(train, law, centre, known_floor)
        minima = refit.minima(objective)
    except Refusal as refusal:
        warnings.append(f"No held-out check: without the {int(held.sum())} largest runs, {refusal}")
        return ()
    cloud_SP = refit.bootstrap(objective, minima, train.cluster, min(bootstrap, DRAWS), seed)
    points = {axis: getattr(table, axis)[held] for axis in law.axes}
    value, low, high = predict_band(law, points, centre, known_floor, minima.theta_SP[0], cloud_SP)
    rows = []
    for i, at in enumerate(np.flatnonzero(held)):
        loss = float(table.loss[at])
        excess = 0.0 if known_floor is None else loss - known_floor
        rows.append(
            HeldOut(
                run=table.row_id[at],
                n=None if table.n is None else float(table.n[at]),
                d=float(table.d[at]),
                loss=loss,
                predicted=float(value[i]),
                predicted95=(float(low[i]), float(high[i])) if len(cloud_SP) else None,
                relative_error=float(value[i]) / loss - 1,
                excess_relative_error=(float(value[i]) - loss) / excess if excess > 0 else None,
                extrapolation_factor=float(reach[at] / reach[~held].max()),
            )
        )
    return tuple(rows)
