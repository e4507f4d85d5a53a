"""The minimum of loss over log N among the runs of one budget, by polynomials. It is refused if the runs show none.

Letters: G distinct N of a budget, K coefficients of a polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial

SAME_SIZE = 0.02
"""In log N. Sizes closer than this count as one: between them there is noise and no curve."""


@dataclass(frozen=True)
class Curve:
    """Loss against N at one budget. Runs of one N are averaged."""

    n_G: np.ndarray
    """Ascending; geometric means where sizes are nearly the same."""
    loss_G: np.ndarray
    """The geometric mean over clusters, and before that over the rows of a cluster."""
    clusters_G: np.ndarray
    """The number of independent runs of each size."""

    @classmethod
    def from_rows(cls, n_R: np.ndarray, loss_R: np.ndarray, cluster_R: np.ndarray) -> Curve:
        """Averages R rows, given in any order, by size."""
        size_R, share_R = sizes_of(n_R, cluster_R)
        n_G = np.exp(np.bincount(size_R, np.log(n_R)) / np.bincount(size_R))
        loss_G = np.exp(np.bincount(size_R, share_R * np.log(loss_R)))
        _, first_R = np.unique(np.stack([size_R, cluster_R], axis=1), axis=0, return_index=True)
        return cls(n_G, loss_G, np.bincount(size_R[first_R]))


def sizes_of(n_R: np.ndarray, cluster_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of each row's size, [R], ascending in N, and its share in the mean of that size, [R].

    The clusters of a size have the same share, and so have the rows of a cluster.
    """
    order = np.argsort(n_R, kind="stable")
    size_R = np.empty(len(n_R), int)
    size_R[order] = np.cumsum(np.diff(np.log(n_R[order]), prepend=np.log(n_R.min())) > SAME_SIZE)
    runs, run_R = np.unique(np.stack([size_R, cluster_R], axis=1), axis=0, return_inverse=True)
    run_R = run_R.ravel()
    return size_R, 1 / (np.bincount(run_R)[run_R] * np.bincount(runs[:, 0])[size_R])


@dataclass(frozen=True)
class Vertex:
    """The lowest point of a curve, or the reason why the curve shows none."""

    refused: str | None = None
    """The reason and the cure. Then `log_n`, `loss` and `slope_G` are missing."""
    log_n: float | None = None
    loss: float | None = None
    slope_G: np.ndarray | None = None
    """d log N* / d log loss at each size, [G]."""
    coefficient_K: np.ndarray | None = None
    """The polynomial to draw: loss in powers of log N - `origin`, from the constant up."""
    origin: float = 0.0

    def loss_at(self, n: np.ndarray) -> np.ndarray:
        """Evaluates the polynomial at any N, in the shape of `n`. Only a vertex with coefficients has one."""
        return polynomial.polyval(np.log(n) - self.origin, np.asarray(self.coefficient_K))


def parabola(curve: Curve) -> Vertex:
    """Fits a parabola through all points: Approach 2 of Hoffmann et al. 2022 (2203.15556). Needs 4 distinct N.

    The result is biased because the curve is not a parabola. On a centred grid of half-width w in log N, log N* comes
    out too high by about (alpha - beta) w^2 / 10: there the loss's third derivative over its second is beta - alpha.
    On a grid off centre the bias is larger.
    """
    few = _too_few(curve, 4, "a parabola with a point to spare")
    return Vertex(refused=few) if few else _fit(curve, slice(None), degree=2)


def local(curve: Curve) -> Vertex:
    """Fits a cubic through the lowest point and two neighbours on either side. Needs 3 distinct N.

    If the lowest point has a single neighbour on one side, it fits a parabola through three points instead.

    The cubic was chosen on planted laws of unequal exponents (.5 and .25, .8 and .3, ...; steps of .35 and .7 in log
    N). Its bias is below .02 in log N. Parabolas through 3 and 5 points have .03 and .13, the parabola through all 9
    has .4. A spline is less biased, but 1.5 times as noisy.
    """
    few = _too_few(curve, 3, "a minimum between two neighbours")
    if few:
        return Vertex(refused=few)
    lowest = int(np.argmin(curve.loss_G))
    if 2 <= lowest < len(curve.n_G) - 2:
        return _fit(curve, slice(lowest - 2, lowest + 3), degree=3)
    return _fit(curve, slice(max(lowest - 1, 0), lowest + 2), degree=2)


def _too_few(curve: Curve, wanted: int, what: str) -> str | None:
    sizes = len(curve.n_G)
    if sizes >= wanted:
        return None
    came = f"all runs have N = {curve.n_G[0]:.4g}" if sizes == 1 else f"{sizes} distinct N"
    return f"{came}; {what} needs {wanted}. Run more sizes at this budget."


def _fit(curve: Curve, near: slice, degree: int) -> Vertex:
    n_G, loss_G = curve.n_G, curve.loss_G
    lowest = int(np.argmin(loss_G))
    if lowest in (0, len(n_G) - 1):
        side, more = ("smallest", "smaller") if lowest == 0 else ("largest", "larger")
        return Vertex(
            refused=f"the lowest loss is at the {side} N ({n_G[lowest]:.4g}): the minimum is at the edge of the grid "
            f"or beyond. Run {more} N at this budget."
        )
    log_n_G = np.log(n_G[near])
    origin = float(log_n_G.mean())
    powers_GK = polynomial.polyvander(log_n_G - origin, degree)
    root_weight_G = np.sqrt(curve.clusters_G[near])
    solve_KG = np.linalg.pinv(powers_GK * root_weight_G[:, None]) * root_weight_G
    coefficient_K = solve_KG @ loss_G[near]
    place = _minimum(coefficient_K, log_n_G[0] - origin, log_n_G[-1] - origin)
    if place is None:
        return Vertex(refused=_no_minimum(coefficient_K, n_G[near]), coefficient_K=coefficient_K, origin=origin)
    slope_G = np.zeros(len(n_G))
    rising_K = polynomial.polyder(np.eye(degree + 1))  # d(slope of the curve) / d(coefficients), in powers
    curvature = polynomial.polyval(place, polynomial.polyder(coefficient_K, 2))
    slope_G[near] = -(polynomial.polyval(place, rising_K) @ solve_KG) / curvature * loss_G[near]
    return Vertex(
        log_n=origin + place,
        loss=float(polynomial.polyval(place, coefficient_K)),
        slope_G=slope_G,
        coefficient_K=coefficient_K,
        origin=origin,
    )


def _minimum(coefficient_K: np.ndarray, low: float, high: float) -> float | None:
    """Returns the place between the two ends where a parabola or cubic is stationary and bends upwards, if any."""
    slope, bend, twist = [*polynomial.polyder(coefficient_K), 0.0][:3]  # the slope is slope + bend x + twist x^2
    inside = bend**2 - 4 * twist * slope
    if inside <= 0 or (twist == 0 and bend <= 0):
        return None
    root = np.sqrt(inside)
    # the form that does not cancel: up to rounding, a cubic may be a parabola
    place = -2 * slope / (bend + root) if bend > 0 else (root - bend) / (2 * twist)
    return float(place) if low < place < high else None


def _no_minimum(coefficient_K: np.ndarray, n_G: np.ndarray) -> str:
    if len(coefficient_K) == 3 and coefficient_K[2] <= 0:
        return (
            "the parabola is concave: the runs do not show a minimum. "
            "Run a wider grid at this budget, or enough seeds that the loss differences exceed the noise."
        )
    if len(coefficient_K) == 3:
        return (
            f"the vertex of the parabola is outside the sampled N ({n_G[0]:.4g} to {n_G[-1]:.4g}). "
            "Centre the grid on the expected minimum."
        )
    return (
        f"the curve through the lowest points has no minimum between N = {n_G[0]:.4g} and {n_G[-1]:.4g}: "
        "the lowest point may be noise. Run seeds there, or a finer grid."
    )
