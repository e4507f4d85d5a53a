"""IsoFLOP analysis: the best N at each budget of a table, by three methods, and the line through the results.

    result = isoflop(table, fit)
    result.budgets[0].minima["parabola"].n, result.lines["local"].n_exponent, result.bias["parabola"]

"surface" is the fitted law's own optimum. "parabola" and "local" look at one budget alone. Their bias is what they
find on a table that the fitted law made itself.

Letters: R rows, G distinct N of a budget, B budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.cells import vertex
from scaling.cells.budgets import FEWEST_RUNS, TOLERANCE, flops_of, split
from scaling.cells.vertex import Curve, Vertex
from scaling.compute.frontier import NO_ESTIMATE, Estimate95, Frontier, frontier, with_open
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.result import Fit
from scaling.laws.registry import LAWS
from scaling.table.run_table import RunTable

CURVES = {"parabola": vertex.parabola, "local": vertex.local}
METHODS = ("surface", *CURVES)
FEWEST_BUDGETS = 3
"""The least for a line with an interval."""
OFF_CENTRE = 0.25
"""A warning is due if the minimum is further than this from the grid's centre, in grid widths."""


@dataclass(frozen=True)
class BestN:
    """The best N at one budget by one method. `refused` says why the numbers are missing."""

    method: str
    n: float | None = None
    d: float | None = None
    """C / (flops_per_nd * n)."""
    loss: float | None = None
    n_interval95: tuple[float | None, float | None] | None = None
    """For the surface from the bootstrap. For the curves from the noise, by the delta method, without their bias."""
    refused: str | None = None
    """Why there is no best N, and the cure."""


@dataclass(frozen=True)
class Budget:
    """The runs of one compute."""

    flops: float
    """The geometric mean of their C."""
    row_R: np.ndarray
    """Their rows in the table."""
    curve: Curve
    minima: dict[str, BestN]
    """{method: its best N}, in the order of METHODS."""
    vertices: dict[str, Vertex]
    """The polynomials behind "parabola" and "local", to draw."""
    on_surface: dict[str, float | None]
    """log N* of "parabola" and "local" on the fitted law's own values at these points. Empty without a fit."""


@dataclass(frozen=True)
class ScalingLine:
    """N* = k C^a through the accepted minima of one method; D* ~ C^(1 - a)."""

    method: str
    n_exponent: Estimate95
    """The interval is Student's t, from the scatter of the minima around the line; the surface's is the bootstrap's."""
    d_exponent: Estimate95
    flops_B: np.ndarray
    """The budgets with an accepted minimum."""
    refused: str | None = None


@dataclass(frozen=True)
class Bias:
    """The exponent that a method finds on a table made by the fitted law itself, at the very same points.

    `n_exponent_found` - `n_exponent_true` is the bias of the method's exponent.
    """

    method: str
    n_exponent_found: float
    n_exponent_true: float
    budgets: int
    """The number of budgets where the method has a minimum both on the table and on the law's values."""

    def __str__(self) -> str:
        return (
            f"{self.method} would find a = {self.n_exponent_found:.3f} on a table made by the fitted law itself, "
            f"whose a is {self.n_exponent_true:.3f} ({self.budgets} budgets)"
        )


@dataclass(frozen=True)
class RunNoise:
    """The noise of a single run's log loss: around the fitted law, else around the parabolas of all budgets."""

    sigma: float
    degrees_of_freedom: int


@dataclass(frozen=True)
class IsoFlop:
    flops_per_nd: float
    budgets: tuple[Budget, ...]
    """By ascending C."""
    lines: dict[str, ScalingLine]
    bias: dict[str, Bias]
    """For "parabola" and "local", if there are a fit and enough budgets."""
    noise: RunNoise | None
    """The noise behind the curves' intervals."""
    warnings: tuple[str, ...]


def isoflop(
    table: RunTable,
    fitted: FittedLaw | None = None,
    tolerance: float = TOLERANCE,
    groups: str | Sequence | None = None,
) -> IsoFlop:
    """Finds the minima of loss over N at fixed C, and the line N* = k C^a through them.

    Args:
      table: runs with N and D. C is the column of FLOPs, else flops_per_nd * N * D.
      fitted: a law of N and D, best fitted to the same table. It gives the surface and the biases.
      tolerance: the highest C of a budget is at most (1 + tolerance) / (1 - tolerance) times its lowest. A wider set of
        runs is split at its largest gap in log C.
      groups: in place of `tolerance`, [R] labels of the budgets, or the column that holds them.

    Raises:
      InputError: no N or no D, a tolerance that is not between 0 and 1, a wrong number of labels, a law without N or D.
      Refusal: no budget has three different N.

    Source: Approach 2 of Hoffmann et al. 2022 (2203.15556), with refusals, intervals and bias.
    """
    flops_R = flops_of(table)
    sets = split(flops_R, tolerance) if groups is None else _labelled(table, groups)
    sets = sorted((rows for rows in sets if len(rows) >= FEWEST_RUNS), key=lambda rows: np.log(flops_R[rows]).mean())
    response_R = table.response(LAWS["chinchilla"] if fitted is None else fitted.law)
    curves = [_curve(table, response_R, rows) for rows in sets]
    if not any(len(curve.n_G) >= 3 for curve in curves):
        raise _no_budget(table.flops_per_nd)
    flops_B = np.array([np.exp(np.log(flops_R[rows]).mean()) for rows in sets])
    own_R = None if fitted is None else fitted.loss_at(table.points(fitted.law))[0]
    noise = _noise(curves, response_R, own_R, 0 if fitted is None else len(fitted.theta_P))
    path, no_path = _path(table, fitted, flops_B)
    budgets = []
    for i, (rows, curve) in enumerate(zip(sets, curves, strict=True)):
        vertices = {method: find(curve) for method, find in CURVES.items()}
        own = {} if own_R is None else {m: find(_curve(table, own_R, rows)).log_n for m, find in CURVES.items()}
        flops = float(flops_B[i])
        minima = {"surface": BestN("surface", refused=no_path) if path is None else _from_surface(path, i)}
        for method, found in vertices.items():
            minima[method] = _from_curve(method, found, curve, nd=flops / table.flops_per_nd, noise=noise)
        budgets.append(Budget(flops, rows, curve, minima=minima, vertices=vertices, on_surface=own))
    return IsoFlop(
        flops_per_nd=table.flops_per_nd,
        budgets=tuple(budgets),
        lines={method: _line(method, budgets, path) for method in METHODS},
        bias={method: bias for method in CURVES if (bias := _bias(method, budgets))},
        noise=noise,
        warnings=_warnings(table, fitted, budgets, len(table) - sum(map(len, sets))),
    )


def _no_budget(flops_per_nd: float) -> Refusal:
    return Refusal(
        "no budget has three different N: this is not an IsoFLOP table. Run at each of 3 or more budgets C at least "
        f"5 sizes N around the expected best one, each with D = C / ({flops_per_nd:g} N); "
        "or, if nearly equal budgets were meant as one, give a larger tolerance or name the groups."
    )


def _labelled(table: RunTable, groups: str | Sequence) -> list[np.ndarray]:
    if isinstance(groups, str):
        if groups not in table.frame.columns:
            raise InputError(f"the table has no column {groups!r}; {near_miss(groups, table.frame.columns)}")
        groups = table.frame[groups].to_list()
    labels = np.array([str(label) for label in groups])
    if len(labels) != len(table):
        raise InputError(f"{len(labels)} labels of budgets for {len(table)} runs; give one a run, in the table's order")
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _curve(table: RunTable, loss_R: np.ndarray, rows: np.ndarray) -> Curve:
    return Curve.from_rows(table.need("n")[rows], loss_R[rows], table.cluster[rows])


def _noise(curves: list[Curve], loss_R: np.ndarray, own_R: np.ndarray | None, params: int) -> RunNoise | None:
    if own_R is not None:
        square, spare = float((np.log(loss_R / own_R) ** 2).sum()), len(loss_R) - params
    else:
        fits = [(curve, found) for curve in curves if (found := vertex.parabola(curve)).coefficient_K is not None]
        square = sum((c.clusters_G * np.log(c.loss_G / found.loss_at(c.n_G)) ** 2).sum() for c, found in fits)
        spare = sum(len(curve.n_G) - 3 for curve, _ in fits)
    return RunNoise(float(np.sqrt(square / spare)), spare) if spare > 0 else None


def _path(table: RunTable, fitted: FittedLaw | None, flops_B: np.ndarray) -> tuple[Frontier | None, str | None]:
    """Returns the frontier at the budgets, or None and the reason."""
    if fitted is None:
        return None, "no fitted law was given; fit one of N and D to the table"
    open_params = fitted.open_intervals if isinstance(fitted, Fit) else ()
    if "u" not in fitted.law.axes:
        return with_open(frontier(fitted, flops_B), open_params), None
    unique = np.unique(table.need("unique"))
    if len(unique) > 1:
        reason = f"the runs have {len(unique)} amounts of unique data, and the best N depends on it; take one at a time"
        return None, reason
    return with_open(frontier(fitted, flops_B, float(unique[0])), open_params), None


def _from_surface(path: Frontier, i: int) -> BestN:
    n = path.n.at(i)
    if n.value is None:
        return BestN("surface", refused=path.open_reason)
    interval95 = None if n.low is None and n.high is None else (n.low, n.high)
    return BestN("surface", n=n.value, d=path.d.at(i).value, loss=path.loss.at(i).value, n_interval95=interval95)


def _from_curve(method: str, found: Vertex, curve: Curve, *, nd: float, noise: RunNoise | None) -> BestN:
    if found.log_n is None or found.slope_G is None:
        return BestN(method, refused=found.refused)
    n, interval95 = float(np.exp(found.log_n)), None
    if noise is not None:
        spread = float(np.sqrt((found.slope_G**2 / curve.clusters_G).sum()))
        half = _t95(noise.degrees_of_freedom) * noise.sigma * spread
        interval95 = (n * float(np.exp(-half)), n * float(np.exp(half)))
    return BestN(method, n=n, d=nd / n, loss=found.loss, n_interval95=interval95)


def _t95(degrees_of_freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, 0.975))


def _line(method: str, budgets: list[Budget], path: Frontier | None) -> ScalingLine:
    found = [(budget.flops, n) for budget in budgets if (n := budget.minima[method].n) is not None]
    flops_B = np.array([flops for flops, _ in found])
    if len(found) < FEWEST_BUDGETS:
        refused = (
            f"{len(found)} of {len(budgets)} budgets have a minimum; a line with an interval needs {FEWEST_BUDGETS}. "
            "Cure those that were refused, or run more budgets."
        )
        return ScalingLine(method, NO_ESTIMATE, NO_ESTIMATE, flops_B, refused=refused)
    if method == "surface" and path is not None:
        if path.n_exponent.value is None:
            return ScalingLine(method, NO_ESTIMATE, NO_ESTIMATE, flops_B, refused=path.open_reason)
        return ScalingLine(method, path.n_exponent, path.d_exponent, flops_B)
    a, half = _slope(np.log(flops_B), np.log([n for _, n in found]))
    return ScalingLine(
        method, Estimate95(a, a - half, a + half), Estimate95(1 - a, 1 - a - half, 1 - a + half), flops_B
    )


def _slope(x_B: np.ndarray, y_B: np.ndarray) -> tuple[float, float]:
    """Returns the least-squares slope and half its 95 % t interval."""
    far_B = x_B - x_B.mean()
    slope = float(far_B @ y_B / (far_B @ far_B))
    residual_B = y_B - y_B.mean() - slope * far_B
    spare = len(x_B) - 2
    stderr = float(np.sqrt(residual_B @ residual_B / spare / (far_B @ far_B)))
    return slope, _t95(spare) * stderr


def _bias(method: str, budgets: list[Budget]) -> Bias | None:
    used = [
        (budget.flops, found, true)
        for budget in budgets
        if budget.minima[method].n is not None
        and (found := budget.on_surface.get(method)) is not None
        and (true := budget.minima["surface"].n) is not None
    ]
    if len(used) < FEWEST_BUDGETS:
        return None
    flops_B, found_B, true_B = (np.array(values) for values in zip(*used, strict=True))
    found, true = _slope(np.log(flops_B), found_B)[0], _slope(np.log(flops_B), np.log(true_B))[0]
    return Bias(method, found, true, len(used))


def _warnings(table: RunTable, fitted: FittedLaw | None, budgets: list[Budget], alone: int) -> tuple[str, ...]:
    texts = []
    if alone:
        texts.append(
            f"{alone} of {len(table)} runs have fewer than {FEWEST_RUNS - 1} others at their compute: left out."
        )
    if fitted is not None and not np.isclose(fitted.flops_per_nd, table.flops_per_nd, rtol=0.1):
        texts.append(
            f"The fitted law has C = {fitted.flops_per_nd:.3g} N D and the table {table.flops_per_nd:.3g} N D: "
            "the surface's minima are not those of the curves. Fit the law to this table."
        )
    off = [f"{budget.flops:.3g}" for budget in budgets if _off_centre(budget)]
    if off:
        texts.append(
            f"The grid's centre is off the minimum by more than {OFF_CENTRE:.0%} of its width at {len(off)} of "
            f"{len(budgets)} budgets (C = {', '.join(off)}): a parabola is biased there. Centre the sizes on it."
        )
    return tuple(texts)


def _off_centre(budget: Budget) -> bool:
    """Takes the surface's minimum as the true one, else the local curve's, else the parabola's."""
    found = [n for method in ("surface", "local", "parabola") if (n := budget.minima[method].n) is not None]
    low, high = np.log(budget.curve.n_G[[0, -1]])
    return bool(found) and high > low and abs(np.log(found[0]) - (low + high) / 2) > OFF_CENTRE * (high - low)
