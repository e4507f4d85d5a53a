"""Which two runs make a table fit for its law, where the table alone is refused: the cheapest ones.

Letters as in information.py; M candidates, K pairs of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.design.assumption import Assumption
from scaling.design.identify import WANTED_WIDTH, expectations, exponents, refusal
from scaling.design.information import Z95, Expected, covariance, information, jacobian
from scaling.design.propose import Run, candidate_grid
from scaling.fitting.fitted import FittedLaw
from scaling.laws.terms import Points
from scaling.table import checks

MOST_RUNS = 12
PAIRS_AT_ONCE = 20_000

Chosen = tuple[int, ...]
"""Places among the candidates."""


@dataclass(frozen=True)
class Cure:
    """Runs that make a table fit for its law."""

    cures: bool
    """False: these runs are the best that the candidates give, and they do not do it."""
    runs: tuple[Run, ...]
    chosen: Chosen
    """Which of the candidates these are."""
    flops: float
    expected: tuple[Expected, ...]
    """Of the table together with these runs."""
    note: str
    """Where two runs do not do it: how near they come."""
    sensitivity: tuple[tuple[str, tuple[Expected, ...]], ...]
    """(another assumption, what the same runs would tell under it)."""


def cure(
    assumptions: tuple[Assumption, ...],
    points: Points,
    *,
    candidates: Points | None = None,
    flops_limit: float | None = None,
) -> Cure:
    """The two cheapest runs with which the law is not refused and its exponents are expected to be identified.

    Where no two do, a short list that does: run by run the one that helps the worst exponent most.

    Args:
      assumptions: the first is reckoned with; the others show what hangs on it.
      points: where runs exist already, [R] each.
      candidates: where a run may be made, [M] each; default `candidate_grid` of the points. Of N and D, whatever the
        law's axes, since they tell what a run costs.
      flops_limit: of the new runs together.
    """
    fitted, sigma = assumptions[0].law, assumptions[0].sigma
    candidates = candidate_grid(points["n"], points["d"]) if candidates is None else candidates
    flops_M = fitted.flops_per_nd * candidates["n"] * candidates["d"]
    limit = np.inf if flops_limit is None else flops_limit
    search = _Search(
        fitted=fitted,
        points=points,
        candidates=candidates,
        flops_M=flops_M,
        flops_limit=limit,
        known_PP=information(fitted, points, sigma),
        row_MP=jacobian(fitted, candidates) / sigma,
    )
    chosen, note = search.pair()
    cures = bool(chosen)
    if not cures:
        chosen, cures = search.greedy()
        note += "" if cures else f" Nor do {len(chosen)} runs: allow larger ones, or more FLOPs."
    expected = [
        expectations(a.law, covariance(information(a.law, search.with_runs(chosen), a.sigma))) for a in assumptions
    ]
    return Cure(
        cures=cures,
        runs=tuple(Run(*(float(x[m]) for x in (candidates["n"], candidates["d"], flops_M))) for m in chosen),
        chosen=tuple(int(m) for m in chosen),
        flops=float(flops_M[list(chosen)].sum()),
        expected=expected[0],
        note=note,
        sensitivity=tuple((a.told, e) for a, e in zip(assumptions[1:], expected[1:], strict=True)),
    )


@dataclass(frozen=True)
class _Search:
    fitted: FittedLaw
    points: Points
    candidates: Points
    flops_M: np.ndarray
    flops_limit: float
    known_PP: np.ndarray
    row_MP: np.ndarray
    """Slope of log loss over sigma: a run at m adds the information row row'."""

    def with_runs(self, chosen: Chosen) -> Points:
        return {axis: np.append(x, self.candidates[axis][list(chosen)]) for axis, x in self.points.items()}

    def ready(self, chosen: Chosen) -> bool:
        return refusal(self.fitted, self.with_runs(chosen))[0] is None

    def worst_width(self, information_KPP: np.ndarray) -> np.ndarray:
        """Of the exponents' expected intervals, over what is wanted: identified below 1, [K]."""
        at = [self.fitted.free.index(name) for name in exponents(self.fitted)]
        error_KP = np.sqrt(np.diagonal(covariance(information_KPP), axis1=-2, axis2=-1))
        return (Z95 * error_KP[:, at] / (WANTED_WIDTH * np.abs(self.fitted.theta_P[at]))).max(axis=1)

    def added(self, known_PP: np.ndarray, chosen_KC: np.ndarray) -> np.ndarray:
        """Information with the runs `chosen_KC` added to what is known, [K, P, P]."""
        rows_KCP = self.row_MP[chosen_KC]
        return known_PP + np.swapaxes(rows_KCP, 1, 2) @ rows_KCP

    def pair(self) -> tuple[Chosen, str]:
        """The cheapest two that do, or none and how near the best two come."""
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
            promising &= self._off_ray(pairs_K2) >= checks.RAY_REFUSED
        for pair in pairs_K2[promising]:
            if self.ready(tuple(pair)):
                return tuple(pair), ""
        best = pairs_K2[np.argmin(width_K)]
        places = " and ".join(f"N {self.candidates['n'][m]:.3g} D {self.candidates['d'][m]:.3g}" for m in best)
        near = (
            "leave an exponent known to "
            f"{WANTED_WIDTH * width_K.min():.0%} of its value (95 %), and {WANTED_WIDTH:.0%} is wanted"
            if width_K.min() >= 1
            else f"tell enough, but the table is still refused: {refusal(self.fitted, self.with_runs(tuple(best)))[0]}"
        )
        return (), f"No two runs do it: the best two ({places}) {near}."

    def _off_ray(self, pairs_K2: np.ndarray) -> np.ndarray:
        """Spread of log N and log D off their common line with each pair added, as `checks` reckons it, [K]."""

        def moments(points: Points) -> np.ndarray:
            u, v = np.log(points["n"]), np.log(points["d"])
            return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])

        total_6K = moments(self.points).sum(axis=1)[:, None] + moments(self.candidates)[:, pairs_K2].sum(axis=2)
        one, u, v, uu, uv, vv = total_6K
        uu, uv, vv = uu / one - (u / one) ** 2, uv / one - u * v / one**2, vv / one - (v / one) ** 2
        return np.sqrt(np.maximum((uu + vv) / 2 - np.hypot((uu - vv) / 2, uv), 0.0))

    def greedy(self) -> tuple[Chosen, bool]:
        """The runs, and whether they do it."""
        chosen: Chosen = ()
        known_PP, left = self.known_PP, self.flops_limit
        each_M1 = np.arange(len(self.flops_M))[:, None]
        while len(chosen) < MOST_RUNS and (self.flops_M <= left).any():
            width_M = self.worst_width(self.added(known_PP, each_M1))
            m = int(np.argmin(np.where(self.flops_M <= left, width_M, np.inf)))
            chosen, left = (*chosen, m), left - self.flops_M[m]
            known_PP = self.added(known_PP, each_M1[m : m + 1])[0]
            if width_M[m] < 1 and self.ready(chosen):
                return chosen, True
        return chosen, False
