"""The test that counts for a law: refit without the largest runs, and predict them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.intervals import widened
from scaling.fitting.minimize import Objective
from scaling.fitting.problem import HELDOUT, Problem
from scaling.laws.registry import Law
from scaling.table import checks
from scaling.table.run_table import RunTable

DRAWS = 300
TOP_COMPUTE = 0.8
"""Quantile of the reach above which the runs are held out of a law of more than D."""


@dataclass(frozen=True)
class HeldOut:
    """A run that the check's refit did not see, and what that refit predicted. Losses in the table's unit."""

    run: str
    n: float | None
    d: float | None
    loss: float
    """The response: a loss, a metric, or a metric's error."""
    predicted: float
    predicted95: tuple[float, float] | None
    """Where the law goes, from the bootstrap; a single run's own noise comes on top."""
    relative_error: float
    """predicted / loss - 1."""
    excess_relative_error: float | None
    """The same over the known floor; None without one, or where the run is not above it."""
    extrapolation_factor: float
    """How far past the refit's data: in D, in N D for a law of both, in 1 / L for a law of an upstream loss."""


def reach(table: RunTable, law: Law) -> np.ndarray:
    """How large a run is, [R]: D, N D for a law of both, 1 / L for a law of an upstream loss."""
    points = table.points(law)
    if "l" in points:
        return 1 / points["l"]
    return points["d"] * points.get("n", 1.0)


def predict_heldout(
    table: RunTable,
    law: Law,
    objective: Objective,
    known_floor: float | None,
    bootstrap: int,
    seed: int,
    warnings: list[str],
) -> tuple[HeldOut, ...]:
    """Holds out the two largest D (laws of D) or the top fifth of the reach (other laws).

    Where the rest cannot carry the law there is no check, and `warnings` gets the reason.
    """
    size = reach(table, law)
    held = size >= (np.unique(size)[-2:][0] if law.axes == ("d",) else np.quantile(size, TOP_COMPUTE))
    train = table.take(~held)
    try:
        refit = without(train, law, objective, known_floor, bootstrap, seed)
    except Refusal as refusal:
        warnings.append(f"No held-out check: without the {int(held.sum())} largest runs, {refusal}")
        return ()
    points = {axis: values[held] for axis, values in table.points(law).items()}
    value, low, high = refit.band(points)
    response = table.response(law)
    rows = []
    for i, at in enumerate(np.flatnonzero(held)):
        loss = float(response[at])
        excess = 0.0 if known_floor is None else loss - known_floor
        rows.append(
            HeldOut(
                run=table.row_id[at],
                n=None if table.n is None else float(table.n[at]),
                d=None if table.d is None else float(table.d[at]),
                loss=loss,
                predicted=float(value[i]),
                predicted95=(float(low[i]), float(high[i])) if len(refit.cloud_SP) else None,
                relative_error=float(value[i]) / loss - 1,
                excess_relative_error=(float(value[i]) - loss) / excess if excess > 0 else None,
                extrapolation_factor=float(size[at] / size[~held].max()),
            )
        )
    return tuple(rows)


def without(
    train: RunTable, law: Law, objective: Objective, known_floor: float | None, bootstrap: int = 0, seed: int = 0
) -> FittedLaw:
    """`law` refitted to the runs that are not held out. Raises Refusal where they cannot carry it."""
    if not len(train):
        raise Refusal("no run is left")
    checks.refuse(train, law, known_floor)
    refit = Problem.of(train, law, known_floor)
    minima = refit.minima(objective)
    theta_P = minima.theta_SP[0]
    draws_SP = refit.bootstrap(objective, minima, train.cluster, min(bootstrap, DRAWS), seed, HELDOUT)
    cloud_SP = widened(refit, theta_P, draws_SP, len(np.unique(train.cluster)))
    return FittedLaw(law, theta_P, cloud_SP, refit.centre, known_floor, train.flops_per_nd, {})
