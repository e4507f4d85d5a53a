"""Which runs of a pool to pay for: a set of candidates within a budget that shows most about a law.

    choice = choose(assumption, {"n": n, "d": d}, 1e21, Criterion("v"))
    choice.rows, choice.flops

Letters as in information.py; M candidates, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from scaling.design.assumption import Assumption
from scaling.design.information import Expected, covariance, expect, information, jacobian, quantity, slope
from scaling.errors import InputError
from scaling.laws.terms import Points

Kind = Literal["quantity", "d", "v"]


class Criterion(NamedTuple):
    """What the chosen runs are to show."""

    kind: Kind = "d"
    """d: all parameters together (D-optimal, the determinant of their covariance). v: the law at the targets (V-optimal,
    the mean variance of its log there). quantity: one number."""
    quantity: str | None = None
    """The number, see `information.quantity`; of the kind `quantity` alone."""
    targets: Points | None = None
    """K points {axis: [K]} of the kind v. None: the pool's own."""


@dataclass(frozen=True)
class PoolChoice:
    """The runs that were chosen."""

    criterion: Kind
    rows: tuple[int, ...]
    """Their places in the pool, the most informative per FLOP first."""
    flops: float
    flops_pool: float
    """The FLOPs of the chosen runs, and of the whole pool."""
    expected: tuple[Expected, ...]
    """Every exponent, and the quantity if one was asked for, with the interval that the runs will give."""


def choose(
    assumption: Assumption, pool: Points, flops_limit: float, criterion: Criterion, *, made: Points | None = None
) -> PoolChoice:
    """Chooses candidates, each at most once, that cost `flops_limit` FLOPs or less together.

    Two greedy orders are tried, by gain and by gain per FLOP, and the better set is taken: by gain per FLOP alone, a
    crowd of cheap runs can crowd out the one that matters (Leskovec et al. 2007, 10.1145/1281192.1281239). A run is a
    rank-one update of the covariance (Fedorov 1972).

    Args:
      assumption: the law that is taken for true, and the noise of a run.
      pool: M candidates {axis: [M]}, with n and d.
      flops_limit: the budget.
      criterion: what the runs are to show.
      made: runs that exist already, {axis: [R]}.

    Raises:
      InputError: no candidate is within the budget, or no such quantity.
    """
    fitted, sigma = assumption.law, assumption.sigma
    flops_M = fitted.flops_per_nd * pool["n"] * pool["d"]
    if not (flops_M <= flops_limit).any():
        raise InputError(
            f"no candidate costs {flops_limit:.3g} FLOPs or less; the cheapest costs {flops_M.min():.3g}. Raise --budget"
        )
    P = len(fitted.theta_P)
    known_PP = np.zeros((P, P)) if made is None else information(fitted, made, sigma)
    search = _Search(
        jacobian(fitted, pool) / sigma, flops_M, covariance(known_PP), _wanted(assumption, pool, criterion)
    )
    rows = min((search.greedy(flops_limit, per_flop) for per_flop in (True, False)), key=search.loss_after)
    names = [name for name in fitted.free if name not in fitted.law.sizes]
    names += [criterion.quantity] if criterion.kind == "quantity" and criterion.quantity not in names else []
    after_PP = search.covariance_after(rows)
    expected = tuple(expect(fitted, quantity(name or "", fitted), after_PP) for name in names)
    return PoolChoice(criterion.kind, tuple(rows), float(flops_M[rows].sum()), float(flops_M.sum()), expected)


def _wanted(assumption: Assumption, pool: Points, criterion: Criterion) -> np.ndarray | None:
    """Returns the slopes [K, P] of what is to be known, or None for all parameters together."""
    fitted = assumption.law
    if criterion.kind == "d":
        return None
    if criterion.kind == "v":
        return jacobian(fitted, pool if criterion.targets is None else criterion.targets)
    if criterion.quantity is None:
        raise InputError("the criterion is quantity and no quantity is named; give --quantity")
    asked = quantity(criterion.quantity, fitted)
    return slope(lambda theta_SP: asked.evaluate(fitted, theta_SP), fitted.theta_P)[None]


@dataclass(frozen=True)
class _Search:
    jacobian_MP: np.ndarray
    """The slopes of the candidates' log loss, in standard deviations of the noise."""
    flops_M: np.ndarray
    known_PP: np.ndarray
    """The covariance before any of them."""
    wanted_KP: np.ndarray | None

    def greedy(self, flops_limit: float, per_flop: bool) -> list[int]:
        """Takes the candidate with the largest gain (per FLOP) that the rest of the budget pays, again and again."""
        covariance_PP, left, chosen = self.known_PP, flops_limit, []
        can_M = np.ones(len(self.flops_M), bool)
        while (affordable_M := can_M & (self.flops_M <= left)).any():
            gain_M = self.gain(covariance_PP) / (self.flops_M if per_flop else 1.0)
            m = int(np.argmax(np.where(affordable_M, gain_M, -np.inf)))
            covariance_PP, can_M[m], left = _with_run(covariance_PP, self.jacobian_MP[m]), False, left - self.flops_M[m]
            chosen.append(m)
        return chosen

    def gain(self, covariance_PP: np.ndarray) -> np.ndarray:
        """Returns the log of what each candidate divides the determinant, or the mean variance of the wanted, by; [M]."""
        seen_MP = self.jacobian_MP @ covariance_PP
        own_M = 1 + np.einsum("MP,MP->M", seen_MP, self.jacobian_MP)
        if self.wanted_KP is None:
            return np.log(own_M)
        less_M = ((seen_MP @ self.wanted_KP.T) ** 2).sum(axis=1) / own_M
        total = np.einsum("KP,PQ,KQ->", self.wanted_KP, covariance_PP, self.wanted_KP)
        return -np.log1p(-np.minimum(less_M / total, 1 - 1e-15))  # a run takes all of it only by rounding

    def covariance_after(self, rows: list[int]) -> np.ndarray:
        """Returns the covariance of theta with these candidates, [P, P]."""
        return np.linalg.inv(np.linalg.inv(self.known_PP) + self.jacobian_MP[rows].T @ self.jacobian_MP[rows])

    def loss_after(self, rows: list[int]) -> float:
        """Returns what the criterion makes small: the log determinant, or the summed variance of the wanted."""
        covariance_PP = self.covariance_after(rows)
        if self.wanted_KP is None:
            return float(np.linalg.slogdet(covariance_PP)[1])
        return float(np.einsum("KP,PQ,KQ->", self.wanted_KP, covariance_PP, self.wanted_KP))


def _with_run(covariance_PP: np.ndarray, jacobian_P: np.ndarray) -> np.ndarray:
    """Returns the covariance after one more run (Sherman and Morrison 1950)."""
    seen_P = covariance_PP @ jacobian_P
    return covariance_PP - np.outer(seen_P, seen_P) / (1 + jacobian_P @ seen_P)
