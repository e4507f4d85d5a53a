"""Which runs of a pool to pay for: a set of candidates within a budget that shows most about a law.

    choice = choose(assumption, {"n": n, "d": d}, 1e21, Criterion("v"))
    choice.rows, choice.flops

No law is exact. If one were, a crowd of the cheapest runs would be the best buy; in fact the crowd bends the fit to
itself, and away from the large runs that matter. So a design is judged by the mean squared error of the least-squares
fit where the truth is the law plus a smooth misfit: a Gaussian process over log N and log D with standard deviation
MISFIT and length REACH, which runs close to one another share (Blight and Ott 1975, 10.1093/biomet/62.1.79).

Letters as in information.py; M candidates, K targets, C choices that are tried together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from scaling.design.assumption import Assumption
from scaling.design.information import KNOWN_BEFORE, Expected, expect, jacobian, quantity, slope
from scaling.errors import InputError
from scaling.fitting.fitted import FittedLaw
from scaling.laws.terms import Points

MISFIT = 0.01
"""The standard deviation of what a law misses, in nats of log loss."""
REACH = 1.5
"""The distance in log N or log D over which the misfit is alike: a factor of 4.5. It and MISFIT were chosen on one
table, the runs of Farseer (benchmarks/pool.py)."""
LEAST_GAIN = 1e-3
"""A run that lowers the log of the error by less is not chosen, even if the budget would pay for it."""
RUNS_PER_PARAMETER = 2
"""A fit wants about this many runs for each parameter, or it is refused."""
Kind = Literal["quantity", "d", "v"]


class Criterion(NamedTuple):
    """The aim of the chosen runs."""

    kind: Kind = "d"
    """d: all parameters together (D-optimal, the determinant of their squared error). v: the law at the targets
    (V-optimal, the mean squared error of its log there). quantity: one number."""
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
    assumption: Assumption,
    pool: Points,
    flops_limit: float,
    criterion: Criterion,
    *,
    made: Points | None = None,
    misfit: float = MISFIT,
) -> PoolChoice:
    """Chooses candidates, each at most once, that cost `flops_limit` FLOPs or less together.

    Two greedy orders are tried, by gain and by gain per FLOP, and the better set is taken: by gain per FLOP alone, many
    cheap runs can crowd out the one that matters (Leskovec et al. 2007, 10.1145/1281192.1281239). Budget that no run
    would use well is left over.

    Args:
      assumption: the law that is taken for true, and the noise of a run.
      pool: M candidates {axis: [M]}, with n and d.
      flops_limit: the budget.
      criterion: what the runs are to show.
      made: runs that exist already, {axis: [R]}.
      misfit: see MISFIT; 0 takes the law for exact.

    Raises:
      InputError: no candidate is within the budget, or no such quantity.
    """
    fitted = assumption.law
    flops_M = fitted.flops_per_nd * pool["n"] * pool["d"]
    if not (flops_M <= flops_limit).any():
        cheapest = f"the cheapest costs {flops_M.min():.3g}. Raise the budget"
        raise InputError(f"no candidate costs {flops_limit:.3g} FLOPs or less; {cheapest}")
    search = _Search.start(assumption, pool, flops_M, misfit, _aim(fitted, pool, criterion))
    state = search.empty()
    if made is not None:
        state = search.with_made(state, made)
    greedy = [search.greedy(state, flops_limit, per_flop) for per_flop in (True, False)]
    rows, after = min(greedy, key=lambda found: search.rank(*found))
    names = [name for name in fitted.free if name not in fitted.law.sizes]
    names += [criterion.quantity] if criterion.kind == "quantity" and criterion.quantity not in names else []
    error_PP = search.error_of_theta(after)
    expected = tuple(expect(fitted, quantity(name or "", fitted), error_PP) for name in names)
    return PoolChoice(criterion.kind, tuple(rows), float(flops_M[rows].sum()), float(flops_M.sum()), expected)


class _Aim(NamedTuple):
    """The aim in numbers: slopes [K, P] of log values at points {axis: [K]}, which share the misfit if given."""

    slope_KP: np.ndarray
    points: Points | None


def _aim(fitted: FittedLaw, pool: Points, criterion: Criterion) -> _Aim | None:
    """Returns what is to be known; None means all parameters together."""
    if criterion.kind == "d":
        return None
    if criterion.kind == "v":
        points = pool if criterion.targets is None else criterion.targets
        return _Aim(jacobian(fitted, points), points)
    if criterion.quantity is None:
        raise InputError("the criterion is quantity and no quantity is named; give --quantity")
    asked = quantity(criterion.quantity, fitted)
    return _Aim(slope(lambda theta_SP: asked.evaluate(fitted, theta_SP), fitted.theta_P)[None], None)


def _alike(one: Points, other: Points) -> np.ndarray:
    """Returns the correlation of the misfit at points {axis: [A]} with that at points {axis: [B]}, [A, B]."""
    square = sum((np.log(one[axis])[:, None] - np.log(other[axis])[None]) ** 2 for axis in ("n", "d"))
    return np.exp(-0.5 * np.asarray(square) / REACH**2)


class _State(NamedTuple):
    """The sums over the chosen runs that the error of their fit is made of. A leading axis C tries several choices."""

    normal_PP: np.ndarray
    """J'J / sigma^2, and what is known before any run."""
    noise_PP: np.ndarray
    """J' (the covariance of the runs: noise and misfit) J / sigma^4, and what is known before any run."""
    shared_PK: np.ndarray
    """J' (the covariance of the runs with the targets) / sigma^2."""
    near_MP: np.ndarray
    """J' (the correlation of the runs with each candidate)."""


@dataclass(frozen=True)
class _Search:
    fitted: FittedLaw
    pool: Points
    jacobian_MP: np.ndarray
    flops_M: np.ndarray
    noise: float
    """The variance of a run's log loss."""
    misfit: float
    """The variance of the misfit."""
    alike_MM: np.ndarray
    alike_MK: np.ndarray
    aim: _Aim | None

    @classmethod
    def start(
        cls, assumption: Assumption, pool: Points, flops_M: np.ndarray, misfit: float, aim: _Aim | None
    ) -> _Search:
        fitted = assumption.law
        alike_MK = np.zeros((len(flops_M), 0 if aim is None else len(aim.slope_KP)))
        if aim is not None and aim.points is not None:
            alike_MK = _alike(pool, aim.points)
        return cls(
            fitted,
            pool,
            jacobian(fitted, pool),
            flops_M,
            assumption.sigma**2,
            misfit**2,
            _alike(pool, pool),
            alike_MK,
            aim,
        )

    def empty(self) -> _State:
        M, P = self.jacobian_MP.shape
        known_PP = np.eye(P) / KNOWN_BEFORE**2
        return _State(known_PP, known_PP, np.zeros((P, self.alike_MK.shape[1])), np.zeros((M, P)))

    def with_made(self, state: _State, made: Points) -> _State:
        """Adds runs that exist."""
        jacobian_RP = jacobian(self.fitted, made)
        covariance_RR = self.misfit * _alike(made, made) + self.noise * np.eye(len(jacobian_RP))
        shared_PK = state.shared_PK
        if self.aim is not None and self.aim.points is not None:
            shared_PK = self.misfit * jacobian_RP.T @ _alike(made, self.aim.points) / self.noise
        return _State(
            state.normal_PP + jacobian_RP.T @ jacobian_RP / self.noise,
            state.noise_PP + jacobian_RP.T @ covariance_RR @ jacobian_RP / self.noise**2,
            shared_PK,
            _alike(self.pool, made) @ jacobian_RP,
        )

    def with_each(self, state: _State) -> _State:
        """Returns the sums with each of the candidates added, one at a time; C = M. `near_MP` stays as it is."""
        j_MP, noise = self.jacobian_MP, self.noise
        own_MPP = j_MP[:, :, None] * j_MP[:, None, :]
        cross_MPP = j_MP[:, :, None] * state.near_MP[:, None, :]
        noise_MPP = self.misfit * (cross_MPP + cross_MPP.transpose(0, 2, 1)) + (noise + self.misfit) * own_MPP
        return _State(
            state.normal_PP + own_MPP / noise,
            state.noise_PP + noise_MPP / noise**2,
            state.shared_PK + self.misfit * j_MP[:, :, None] * self.alike_MK[:, None, :] / noise,
            state.near_MP,
        )

    def log_error(self, state: _State) -> np.ndarray:
        """Returns the log of the summed squared error at the aim, or the log determinant of theta's; [C]."""
        if self.aim is None:
            return np.linalg.slogdet(state.noise_PP)[1] - 2 * np.linalg.slogdet(state.normal_PP)[1]
        weight_PK = np.linalg.solve(state.normal_PP, self.aim.slope_KP.T)
        error = np.einsum("...pk,...pq,...qk->...", weight_PK, state.noise_PP, weight_PK)
        if self.aim.points is not None:
            error = error - 2 * np.einsum("...pk,...pk->...", weight_PK, state.shared_PK)
            error = error + self.misfit * len(self.aim.slope_KP)
        return np.log(error)

    def error_of_theta(self, state: _State) -> np.ndarray:
        """Returns the mean squared error of theta, [P, P]."""
        inverse_PP = np.linalg.inv(state.normal_PP)
        return inverse_PP @ state.noise_PP @ inverse_PP

    def greedy(self, state: _State, flops_limit: float, per_flop: bool) -> tuple[list[int], _State]:
        """Takes the candidate with the largest gain (per FLOP) that the rest of the budget pays, while one gains."""
        left, chosen = flops_limit, []
        free_M = np.ones(len(self.flops_M), bool)
        while (can_M := free_M & (self.flops_M <= left)).any():
            tried = self.with_each(state)
            gain_M = self.log_error(state) - self.log_error(tried)
            if len(chosen) >= self.least:
                can_M &= gain_M > LEAST_GAIN
                if not can_M.any():
                    break
            m = int(np.argmax(np.where(can_M, gain_M / (self.flops_M if per_flop else 1.0), -np.inf)))
            near_MP = state.near_MP + self.alike_MM[:, [m]] * self.jacobian_MP[m]
            state = _State(tried.normal_PP[m], tried.noise_PP[m], tried.shared_PK[m], near_MP)
            free_M[m], left = False, left - self.flops_M[m]
            chosen.append(m)
        return chosen, state

    @property
    def least(self) -> int:
        return RUNS_PER_PARAMETER * self.jacobian_MP.shape[1]

    def rank(self, rows: list[int], state: _State) -> tuple[bool, float]:
        """Orders sets: first those that a fit takes, then by their error."""
        return len(rows) < self.least, float(self.log_error(state))
