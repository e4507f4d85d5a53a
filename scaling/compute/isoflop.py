"""IsoFLOP analysis: the best N at each budget of a table, by three methods side by side, and the line through them.

    result = isoflop(table, fit)
    print(result.summary())
    result.budgets[0].minima["parabola"].n, result.lines["local"].n_exponent, result.bias["parabola"].shift

The surface is the fitted law's own optimum. The parabola and the local curve look at one budget alone; what they would
say of a table that the fitted law made itself is their bias.

Letters: R rows, G distinct N of a budget, B budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.compute import vertex
from scaling.compute.frontier import Exponent, Frontier, frontier
from scaling.compute.vertex import Curve, Vertex
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.fitted import FittedLaw
from scaling.laws.registry import LAWS
from scaling.table.run_table import RunTable

CURVES = {"parabola": vertex.parabola, "local": vertex.local}
METHODS = ("surface", *CURVES)
FEWEST_RUNS = 3
"""Fewer at one compute are no budget."""
FEWEST_BUDGETS = 3
"""For a line with an interval."""
OFF_CENTRE = 0.25
"""Distance from a grid's centre to the minimum, in grid widths, above which a warning is due."""


@dataclass(frozen=True)
class Minimum:
    """The best N at one budget by one method; `refused` says why there is none, and the cure."""

    method: str
    n: float | None
    d: float | None
    """C / (flops_per_nd * n)."""
    loss: float | None
    n_interval95: tuple[float | None, float | None] | None
    """The surface's from the bootstrap; the curves' from the noise, by the delta method, without their bias."""
    refused: str | None


@dataclass(frozen=True)
class Budget:
    """The runs of one compute."""

    flops: float
    """Geometric mean of their C."""
    flops_range: tuple[float, float]
    row_R: np.ndarray
    """Which rows of the table they are."""
    curve: Curve
    minima: dict[str, Minimum]
    """By method, in the order of METHODS."""
    vertices: dict[str, Vertex]
    """The polynomials behind "parabola" and "local", to draw."""
    on_surface: dict[str, float | None]
    """log N* of "parabola" and "local" on the fitted law's own values at these points; empty without a fit."""

    def shift(self, method: str) -> float | None:
        """log of the method's N* on the fitted law's values over the law's own N*: its bias at this budget."""
        own, said = self.minima["surface"].n, self.on_surface.get(method)
        return None if own is None or said is None else float(said - np.log(own))


@dataclass(frozen=True)
class Line:
    """N* = k C^a through the accepted minima of one method; D* ~ C^(1 - a)."""

    method: str
    n_exponent: Exponent
    """The interval is t's, from the scatter of the minima around the line; the surface's is the bootstrap's."""
    d_exponent: Exponent
    log_k: float | None
    flops_B: np.ndarray
    """The budgets that it goes through."""
    refused: str | None

    def n_at(self, flops: np.ndarray) -> np.ndarray:
        """N* at any C; only where the line was not refused."""
        return np.exp(self.log_k + self.n_exponent.value * np.log(flops))


@dataclass(frozen=True)
class Bias:
    """What a method would say of a table made by the fitted law itself at the very same points."""

    method: str
    n_exponent_said: float
    n_exponent_own: float
    budgets: int
    """At which the method has a minimum both on the table and on the law's values."""

    @property
    def shift(self) -> float:
        """Of a: to be taken off the method's exponent."""
        return self.n_exponent_said - self.n_exponent_own

    def __str__(self) -> str:
        return (
            f"{self.method} would say a = {self.n_exponent_said:.3f} on a table made by the fitted law itself, "
            f"whose a is {self.n_exponent_own:.3f} ({self.budgets} budgets)"
        )


@dataclass(frozen=True)
class Noise:
    """Of the log loss of a single run: around the fitted law, else around the parabolas of all budgets."""

    sigma: float
    spare: int
    """Degrees of freedom."""


@dataclass(frozen=True)
class IsoFlop:
    tolerance: float | None
    """None where the groups were given."""
    flops_per_nd: float
    budgets: tuple[Budget, ...]
    """By ascending C."""
    lines: dict[str, Line]
    bias: dict[str, Bias]
    """Of "parabola" and "local", where there is a fit and there are budgets enough."""
    path: Frontier | None
    """The fitted law's frontier at the budgets."""
    noise: Noise | None
    """Behind the curves' intervals."""
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """Plain text: the minima, the lines, the biases, the warnings, what was refused."""
        methods = METHODS if self.path else tuple(CURVES)
        lines, refused = [f"IsoFLOP: {len(self.budgets)} budgets, C = {self.flops_per_nd:g} N D"], []
        for budget in self.budgets:
            minima = [budget.minima[method] for method in methods]
            best = ", ".join(f"{m.method} {'-' if m.n is None else format(m.n, '.4g')}" for m in minima)
            lines.append(f"  C {budget.flops:.3g}, {len(budget.curve.n_G)} sizes, best N: {best}")
            refused += [f"  C {budget.flops:.3g}, {m.method}: {m.refused}" for m in minima if m.refused]
        for line in (self.lines[method] for method in methods):
            a = line.n_exponent
            ends = "" if a.low is None or a.high is None else f" [{a.low:.4g}, {a.high:.4g}]"
            lines.append(f"  {line.method:8s} " + (line.refused or f"N* ~ C^{a.value:.4g}{ends}"))
        lines += [f"  {bias}" for bias in self.bias.values()] + [f"  warning: {text}" for text in self.warnings]
        return "\n".join(lines + refused)


def isoflop(
    table: RunTable,
    fitted: FittedLaw | None = None,
    tolerance: float = 0.1,
    groups: str | Sequence | None = None,
) -> IsoFlop:
    """Minima of loss over N at fixed C, and the line N* = k C^a through them.

    Args:
      table: runs with N and D. C is its column of FLOPs, else flops_per_nd * N * D.
      fitted: a law of N and D, for the surface and the biases. Best of the same table.
      tolerance: the highest C of a budget is at most (1 + tolerance) / (1 - tolerance) times its lowest; a wider set of
        runs is split at its largest gap in log C.
      groups: instead of that, [R] labels of the budgets, or the column that holds them.

    Raises:
      InputError: no N or no D, a tolerance that is none, labels of the wrong number, a law without N or D.
      Refusal: no budget has three different N.

    Source: Approach 2 of Hoffmann et al. 2022 (2203.15556), with refusals, intervals and bias.
    """
    for axis in ("n", "d"):
        if getattr(table, axis) is None:
            raise InputError(f"an IsoFLOP analysis needs {axis.upper()}: name its column with --{axis}")
    flops_R = _flops(table)
    sets = _split(flops_R, tolerance) if groups is None else _labelled(table, groups)
    sets = sorted((rows for rows in sets if len(rows) >= FEWEST_RUNS), key=lambda rows: np.log(flops_R[rows]).mean())
    response_R = table.response(LAWS["chinchilla"] if fitted is None else fitted.law)
    curves = [_curve(table, response_R, rows) for rows in sets]
    if not any(len(curve.n_G) >= 3 for curve in curves):
        raise Refusal(
            "no budget has three different N: this is no IsoFLOP table. Run at each of 3 or more budgets C at least "
            f"5 sizes N around the expected best one, each with D = C / ({table.flops_per_nd:g} N); "
            "or, if nearly equal budgets were meant as one, give a larger tolerance or name the groups."
        )
    flops_B = np.array([np.exp(np.log(flops_R[rows]).mean()) for rows in sets])
    own_R = None if fitted is None else fitted.loss_at(table.points(fitted.law))[0]
    noise = _noise(curves, response_R, own_R, 0 if fitted is None else len(fitted.theta_P))
    path, no_path = _path(table, fitted, flops_B)
    budgets = []
    for i, (rows, curve) in enumerate(zip(sets, curves, strict=True)):
        vertices = {method: find(curve) for method, find in CURVES.items()}
        own = {} if own_R is None else {m: find(_curve(table, own_R, rows)).log_n for m, find in CURVES.items()}
        minima = {"surface": _of_surface(path, i, no_path)} | {
            method: _of_curve(method, found, curve, flops_B[i] / table.flops_per_nd, noise)
            for method, found in vertices.items()
        }
        ends = (float(flops_R[rows].min()), float(flops_R[rows].max()))
        budgets.append(Budget(float(flops_B[i]), ends, rows, curve, minima, vertices, own))
    return IsoFlop(
        tolerance=tolerance if groups is None else None,
        flops_per_nd=table.flops_per_nd,
        budgets=tuple(budgets),
        lines={method: _line(method, budgets, path) for method in METHODS},
        bias={method: bias for method in CURVES if (bias := _bias(method, budgets))},
        path=path,
        noise=noise,
        warnings=_warnings(table, fitted, budgets, len(table.n) - sum(map(len, sets))),
    )


def _flops(table: RunTable) -> np.ndarray:
    """C of each row: as its column has it, else flops_per_nd * N * D."""
    computed_R = table.flops_per_nd * table.n * table.d
    if table.columns.flops is None:
        return computed_R
    column_R = table.frame[table.columns.flops].cast(float).fill_null(np.nan).to_numpy()
    return np.where(column_R > 0, column_R, computed_R)


def _split(flops_R: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Sets of rows no wider in C than tolerance either way: what is wider is split at its largest gap."""
    if not (np.isfinite(tolerance) and 0 < tolerance < 1):
        raise InputError(f"the tolerance is {tolerance!r}; wanted a part of C between 0 and 1, such as 0.1")
    widest = np.log((1 + tolerance) / (1 - tolerance))
    todo, done = [np.argsort(flops_R, kind="stable")], []
    while todo:
        rows = todo.pop()
        log_flops = np.log(flops_R[rows])
        if log_flops[-1] - log_flops[0] <= widest:
            done.append(rows)
        else:
            at = int(np.argmax(np.diff(log_flops))) + 1
            todo += [rows[:at], rows[at:]]
    return done


def _labelled(table: RunTable, groups: str | Sequence) -> list[np.ndarray]:
    if isinstance(groups, str):
        if groups not in table.frame.columns:
            raise InputError(f"the table has no column {groups!r}; {near_miss(groups, table.frame.columns)}")
        groups = table.frame[groups].to_list()
    labels = np.array([str(label) for label in groups])
    if len(labels) != len(table.n):
        raise InputError(
            f"{len(labels)} labels of budgets for {len(table.n)} runs; give one a run, in the table's order"
        )
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _curve(table: RunTable, loss_R: np.ndarray, rows: np.ndarray) -> Curve:
    return Curve.of(table.n[rows], loss_R[rows], table.cluster[rows])


def _noise(curves: list[Curve], loss_R: np.ndarray, own_R: np.ndarray | None, params: int) -> Noise | None:
    if own_R is not None:
        square, spare = float((np.log(loss_R / own_R) ** 2).sum()), len(loss_R) - params
    else:
        fits = [(curve, found) for curve in curves if (found := vertex.parabola(curve)).coefficient_K is not None]
        square = sum((c.clusters_G * np.log(c.loss_G / found.loss_at(c.n_G)) ** 2).sum() for c, found in fits)
        spare = sum(len(curve.n_G) - 3 for curve, _ in fits)
    return Noise(float(np.sqrt(square / spare)), spare) if spare > 0 else None


def _path(table: RunTable, fitted: FittedLaw | None, flops_B: np.ndarray) -> tuple[Frontier | None, str | None]:
    """The frontier at the budgets, or why there is none."""
    if fitted is None:
        return None, "no fitted law was given; fit one of N and D to the table"
    if "u" not in fitted.law.axes:
        return frontier(fitted, flops_B), None
    unique = np.unique(table.unique)
    if len(unique) > 1:
        return (
            None,
            f"the runs have {len(unique)} amounts of unique data, and the best N depends on it; take one at a time",
        )
    return frontier(fitted, flops_B, float(unique[0])), None


def _of_surface(path: Frontier | None, i: int, no_path: str | None) -> Minimum:
    if path is None or np.isnan(path.n.value_B[i]):
        return Minimum("surface", None, None, None, None, no_path or path.open_reason)
    ends = tuple(None if np.isnan(x[i]) else float(x[i]) for x in (path.n.low_B, path.n.high_B))
    n, d, loss = (float(band.value_B[i]) for band in (path.n, path.d, path.loss))
    return Minimum("surface", n, d, loss, None if ends == (None, None) else ends, None)


def _of_curve(method: str, found: Vertex, curve: Curve, nd: float, noise: Noise | None) -> Minimum:
    if found.refused:
        return Minimum(method, None, None, None, None, found.refused)
    n, interval95 = float(np.exp(found.log_n)), None
    if noise is not None:
        half = _t95(noise.spare) * noise.sigma * float(np.sqrt((found.slope_G**2 / curve.clusters_G).sum()))
        interval95 = (n * float(np.exp(-half)), n * float(np.exp(half)))
    return Minimum(method, n, nd / n, found.loss, interval95, None)


def _t95(spare: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(spare, 0.975))


def _line(method: str, budgets: list[Budget], path: Frontier | None) -> Line:
    used = [budget for budget in budgets if budget.minima[method].n is not None]
    flops_B = np.array([budget.flops for budget in used])
    if len(used) < FEWEST_BUDGETS:
        refused = (
            f"{len(used)} of {len(budgets)} budgets have a minimum; a line with an interval needs {FEWEST_BUDGETS}. "
            "Cure those that were refused, or run more budgets."
        )
        return Line(method, Exponent(None, None, None), Exponent(None, None, None), None, flops_B, refused)
    log_n_B = np.log([budget.minima[method].n for budget in used])
    a, log_k, half = _least_squares(np.log(flops_B), log_n_B)
    exponents = (Exponent(a, a - half, a + half), Exponent(1 - a, 1 - a - half, 1 - a + half))
    if method == "surface":
        exponents = (path.n_exponent, path.d_exponent)
    return Line(method, *exponents, log_k, flops_B, None)


def _least_squares(x_B: np.ndarray, y_B: np.ndarray) -> tuple[float, float, float]:
    """(slope, intercept, half a 95 % t interval of the slope)."""
    far_B = x_B - x_B.mean()
    slope = float(far_B @ y_B / (far_B @ far_B))
    residual_B = y_B - y_B.mean() - slope * far_B
    spare = len(x_B) - 2
    stderr = float(np.sqrt(residual_B @ residual_B / spare / (far_B @ far_B)))
    return slope, float(y_B.mean() - slope * x_B.mean()), _t95(spare) * stderr


def _bias(method: str, budgets: list[Budget]) -> Bias | None:
    used = [b for b in budgets if b.minima[method].n is not None and b.shift(method) is not None]
    if len(used) < FEWEST_BUDGETS:
        return None
    log_flops_B = np.log([budget.flops for budget in used])
    said, *_ = _least_squares(log_flops_B, np.array([budget.on_surface[method] for budget in used]))
    own, *_ = _least_squares(log_flops_B, np.log([budget.minima["surface"].n for budget in used]))
    return Bias(method, said, own, len(used))


def _warnings(table: RunTable, fitted: FittedLaw | None, budgets: list[Budget], alone: int) -> tuple[str, ...]:
    texts = []
    if alone:
        texts.append(
            f"{alone} of {len(table.n)} runs have fewer than {FEWEST_RUNS - 1} others at their compute: left out."
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
    """By the surface's minimum, else by the local curve's, else by the parabola's."""
    found = [budget.minima[m].n for m in ("surface", "local", "parabola") if budget.minima[m].n is not None]
    low, high = np.log(budget.curve.n_G[[0, -1]])
    return bool(found) and high > low and abs(np.log(found[0]) - (low + high) / 2) > OFF_CENTRE * (high - low)
