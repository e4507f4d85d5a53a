"""The cheapest runs that make a table fit for its law, if the table alone is refused.

Letters as in information.py; M candidates, K pairs of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.design.assumption import Assumption
from scaling.design.identify import WANTED_WIDTH, expectations, exponents, refusal
from scaling.design.information import Z95, Expected, covariance, information, jacobian
from scaling.design.propose import NewRun, candidate_grid
from scaling.fitting.fitted import FittedLaw
from scaling.laws.terms import Points
from scaling.table import variation

MOST_RUNS = 12
PAIRS_AT_ONCE = 20_000

Chosen = tuple[int, ...]
"""Indices of candidates."""


@dataclass(frozen=True)
class Cure:
    """Runs that make a table fit for its law."""

    cures: bool
    """False: these are the best runs among the candidates, and they do not suffice."""
    runs: tuple[NewRun, ...]
    chosen: Chosen
    """The indices of these runs among the candidates."""
    flops: float
    expected: tuple[Expected, ...]
    """The expectations from the table together with these runs."""
    note: str
    """Says how near two runs come, if two do not suffice."""
    sensitivity: tuple[tuple[str, tuple[Expected, ...]], ...]
    """(another assumption, what the same runs would show under it)."""


def cure(
    assumptions: tuple[Assumption, ...],
    points: Points,
    *,
    candidates: Points | None = None,
    flops_limit: float | None = None,
) -> Cure:
    """Finds the two cheapest runs with which the law is not refused and its exponents are expected to be identified.

    If no two runs suffice, it builds a short list: run by run the one that helps the worst exponent most.

    Args:
      assumptions: the first is taken for true; the others show what depends on it.
      points: the runs that exist already, [R] each.
      candidates: the runs that may be made, [M] each; both N and D, whatever the law's axes, because both make the
        cost of a run. Default: `candidate_grid` of the points.
      flops_limit: the FLOPs of the new runs together.
    """
    candidates = candidate_grid(points["n"], points["d"]) if candidates is None else candidates
    search = _Search.start(assumptions[0], points, candidates, np.inf if flops_limit is None else flops_limit)
    chosen, note = search.pair()
    cures = bool(chosen)
    if not cures:
        chosen, cures = search.greedy()
        note += "" if cures else f" Nor do {len(chosen)} runs: allow larger ones, or more FLOPs."
    expected = [
        expectations(a.law, covariance(information(a.law, search.with_runs(chosen), a.sigma))) for a in assumptions
    ]
    columns = (candidates["n"], candidates["d"], search.flops_M)
    return Cure(
        cures=cures,
        runs=tuple(NewRun(*(float(x[m]) for x in columns)) for m in chosen),
        chosen=tuple(int(m) for m in chosen),
        flops=float(search.flops_M[list(chosen)].sum()),
        expected=expected[0],
        note=note,
        sensitivity=tuple((a.source, e) for a, e in zip(assumptions[1:], expected[1:], strict=True)),
    )


@dataclass(frozen=True)
class _Search:
    fitted: FittedLaw
    points: Points
    candidates: Points
    flops_M: np.ndarray
    flops_limit: float
    known_PP: np.ndarray
    """The information of the existing runs."""
    row_MP: np.ndarray
    """The slope of log loss over sigma: a run at m adds the information row row'."""

    @classmethod
    def start(cls, assumption: Assumption, points: Points, candidates: Points, flops_limit: float) -> _Search:
        fitted, sigma = assumption.law, assumption.sigma
        return cls(
            fitted=fitted,
            points=points,
            candidates=candidates,
            flops_M=fitted.flops_per_nd * candidates["n"] * candidates["d"],
            flops_limit=flops_limit,
            known_PP=information(fitted, points, sigma),
            row_MP=jacobian(fitted, candidates) / sigma,
        )

    def with_runs(self, chosen: Chosen) -> Points:
        return {axis: np.append(x, self.candidates[axis][list(chosen)]) for axis, x in self.points.items()}

    def worst_width(self, information_KPP: np.ndarray) -> np.ndarray:
        """Returns the widest expected interval of an exponent over the wanted one, [K]. Below 1 all are identified."""
        at = [self.fitted.free.index(name) for name in exponents(self.fitted)]
        error_KP = np.sqrt(np.diagonal(covariance(information_KPP), axis1=-2, axis2=-1))
        return (Z95 * error_KP[:, at] / (WANTED_WIDTH * np.abs(self.fitted.theta_P[at]))).max(axis=1)

    def added(self, known_PP: np.ndarray, chosen_KC: np.ndarray) -> np.ndarray:
        """Returns the information with the runs `chosen_KC` added to what is known, [K, P, P]."""
        rows_KCP = self.row_MP[chosen_KC]
        return known_PP + np.swapaxes(rows_KCP, 1, 2) @ rows_KCP

    def pair(self) -> tuple[Chosen, str]:
        """Returns the cheapest two runs that suffice, or no run and how near the best two come."""
        pairs_K2 = np.stack(np.triu_indices(len(self.flops_M), 1), axis=1)
        flops_K = self.flops_M[pairs_K2].sum(axis=1)
        in_order = np.argsort(flops_K, kind="stable")
        pairs_K2 = pairs_K2[in_order[flops_K[in_order] <= self.flops_limit]]
        if not len(pairs_K2):
            return (), "No two candidates together are within the FLOPs limit."
        parts = np.split(pairs_K2, range(PAIRS_AT_ONCE, len(pairs_K2), PAIRS_AT_ONCE))
        width_K = np.concatenate([self.worst_width(self.added(self.known_PP, part)) for part in parts])
        promising = width_K < 1
        if set(self.fitted.law.axes) == {"n", "d"}:
            promising &= self._off_ray(pairs_K2) >= variation.RAY_REFUSED
        for pair in pairs_K2[promising]:
            if refusal(self.fitted, self.with_runs(tuple(pair)))[0] is None:
                return tuple(pair), ""
        return (), self._how_near(pairs_K2[np.argmin(width_K)], float(width_K.min()))

    def _how_near(self, pair_2: np.ndarray, width: float) -> str:
        places = " and ".join(f"N {self.candidates['n'][m]:.3g} D {self.candidates['d'][m]:.3g}" for m in pair_2)
        if width >= 1:
            near = f"leave an exponent uncertain by {WANTED_WIDTH * width:.0%} of its value (95 %); wanted is "
            near += f"{WANTED_WIDTH:.0%} or less"
        else:
            refused = refusal(self.fitted, self.with_runs(tuple(pair_2)))[0]
            near = f"identify the exponents, but the table is still refused: {refused}"
        return f"No two runs do it: the best two ({places}) {near}."

    def _off_ray(self, pairs_K2: np.ndarray) -> np.ndarray:
        """Returns [K] the spread of log N and log D off their line with each pair added, as in `variation`."""

        def moments(points: Points) -> np.ndarray:
            u, v = np.log(points["n"]), np.log(points["d"])
            return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])

        total_6K = moments(self.points).sum(axis=1)[:, None] + moments(self.candidates)[:, pairs_K2].sum(axis=2)
        one, u, v, uu, uv, vv = total_6K
        uu, uv, vv = uu / one - (u / one) ** 2, uv / one - u * v / one**2, vv / one - (v / one) ** 2
        return np.sqrt(np.maximum((uu + vv) / 2 - np.hypot((uu - vv) / 2, uv), 0.0))

    def greedy(self) -> tuple[Chosen, bool]:
        """Returns the runs of a short list, and True if they suffice."""
        chosen: Chosen = ()
        known_PP, left = self.known_PP, self.flops_limit
        each_M1 = np.arange(len(self.flops_M))[:, None]
        while len(chosen) < MOST_RUNS and (self.flops_M <= left).any():
            width_M = self.worst_width(self.added(known_PP, each_M1))
            m = int(np.argmin(np.where(self.flops_M <= left, width_M, np.inf)))
            chosen, left = (*chosen, m), left - self.flops_M[m]
            known_PP = self.added(known_PP, each_M1[m : m + 1])[0]
            if width_M[m] < 1 and refusal(self.fitted, self.with_runs(chosen))[0] is None:
                return chosen, True
        return chosen, False
