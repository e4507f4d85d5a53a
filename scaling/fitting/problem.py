"""A law on a table as a minimisation: its minima from many starts, its bootstrap, the bounds of its parameters.

Letters: S parameter sets, R rows, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from scaling.errors import Refusal
from scaling.fitting import progress
from scaling.fitting.least_absolute import least_absolute
from scaling.fitting.minimize import (
    CLOSE_DAMPING,
    Objective,
    Solution,
    adaptive_delta,
    first_steps,
    minimize,
    row_weights,
)
from scaling.fitting.parallel import in_threads
from scaling.fitting.starts import starts
from scaling.laws import registry
from scaling.laws.fixed import centre_of_fixed
from scaling.laws.registry import Bound, Law
from scaling.laws.terms import Points
from scaling.table.run_table import RunTable

SCREEN = ((5, 2048), (5, 512), (5, 128))
"""(steps, the number of starts with the lowest objectives that go on): half the time of 15 steps on all."""
FEW_ROWS = 96
"""Starts are first screened on this many rows, where there are more: the same minima in a fraction of the time."""
FEW_ROWS_BEGIN = 128
"""The starts of lowest objective on the few rows, before any step."""
FEW_ROWS_SCREEN = ((3, 96), (4, 64), (6, 48))
SOME_ROWS = 512
"""The starts that few rows leave are screened once more on this many, before all rows."""
SOME_ROWS_BEGIN = 16
"""The starts of different curves that go on from the few rows."""
SOME_ROWS_SCREEN = ((6, 8),)
CLOSE_CURVES, SOME_CURVES, SAME_CURVE = 3e-3, 1e-4, 1e-6
"""Starts on few rows, on some rows, and minima are the same if their curves differ by less than this, in nats, at every
row."""
SAME_OBJECTIVE = 1e-6
"""Minima whose objectives differ by less than this fraction are the same."""
BOOTSTRAP_STARTS = 3
DRAWS_AT_ONCE = 64
"""The most bootstrap draws of one task of a thread."""
MOST_NUMBERS = 1 << 21
"""The numbers of an array of draws by rows, 16 MiB, above which draws are taken in blocks."""
NEGLIGIBLE_SHARE = 1e-6
"""A size has run to 0 if it is at most this share of the response at every point."""
FULL_TABLE, HELDOUT, FREE_FLOOR = range(3)
"""Streams of the seed, so that two bootstraps never share their draws."""


@dataclass(frozen=True)
class Problem:
    """Everything that is minimised, without the objective's delta and the weights of the rows."""

    law: Law
    free: tuple[str, ...]
    """The P parameters in theta's order."""
    points: Points
    centre: dict[str, float]
    known_floor: float | None
    bound: Bound
    response: np.ndarray
    """[R]: the loss, a metric, or its error."""

    @classmethod
    def of(
        cls, table: RunTable, law: Law, known_floor: float | None, centre: dict[str, float] | None = None
    ) -> Problem:
        """Returns the problem of `law` on `table`. Default: the centre of the data."""
        points = table.points(law)
        centre = centre_of_fixed(law, centre_of(points)) if centre is None else centre
        bound = registry.bind(law, points, centre, known_floor)
        return cls(law, law.free_params(known_floor), points, centre, known_floor, bound, table.response(law))

    def residual(self, theta_P: np.ndarray) -> np.ndarray:
        """Returns log response - log law, [R]."""
        return np.log(self.response) - self.bound.log(theta_P[None])[0]

    def minimize(self, objective: Objective, theta_SP: np.ndarray, **options) -> Solution:
        return minimize(self.bound, np.log(self.response), objective, theta_SP, **options)

    def minima(self, objective: Objective, *, also_SP: np.ndarray | None = None, usual: bool = False) -> Solution:
        """Returns the distinct minima from many starts, the lowest first.

        Args:
          objective: the function that is minimised.
          also_SP: more starts.
          usual: whether the law's starts from the literature are tried too (chinchilla: 4,500 of Hoffmann et al. 2022).

        Raises Refusal if no start converged.
        """
        progress.step(f"{self.law.name}: the minima of {objective.name} on {len(self.response)} runs")
        screen = Objective("ls") if objective.name == "lad" else objective
        few = self.some_rows(FEW_ROWS)
        begin = few._starts(usual)
        if few is self:
            begin = self._screened(screen, begin, SCREEN)
        else:
            promising = few._lowest_of(screen, begin, FEW_ROWS_BEGIN)
            promising = few._screened(screen, promising, FEW_ROWS_SCREEN, least=CLOSE_CURVES)
            some = self.some_rows(SOME_ROWS)
            begin = some._screened(screen, promising[:SOME_ROWS_BEGIN], SOME_ROWS_SCREEN, least=SOME_CURVES)
        if also_SP is not None:
            begin = np.concatenate([also_SP, begin])
        found = self._converged(objective, begin)
        if not len(found.theta_SP) and few is not self:
            found = self._converged(objective, few._converged(screen, promising).theta_SP)
        if not len(found.theta_SP):
            raise Refusal(
                f"no start of {self.law.name} converged to a minimum: the runs do not determine it. "
                "Fit a law with fewer parameters, or add runs."
            )
        return found

    def _starts(self, usual: bool) -> np.ndarray:
        """Returns the grid of starts [S, P]; with `usual` those of the literature too."""
        begin = starts(self.law, self.points, self.centre, known_floor=self.known_floor, response_R=self.response)
        if usual and self.law.more_starts is not None and self.known_floor is None and not self.law.fixed:
            return np.concatenate([begin, self.law.more_starts(self.centre)])
        return begin

    def some_rows(self, most: int) -> Problem:
        """Returns the problem on `most` random rows, with the extremes of each axis, or itself if it has no more."""
        rows = len(self.response)
        if rows <= most:
            return self
        extremes = [at for x in (*self.points.values(), self.response) for at in (np.argmin(x), np.argmax(x))]
        chosen = list(dict.fromkeys([*extremes, *np.random.default_rng(rows).permutation(rows)]))[:most]
        points = {axis: x[chosen] for axis, x in self.points.items()}
        bound = registry.bind(self.law, points, self.centre, self.known_floor)
        return replace(self, points=points, bound=bound, response=self.response[chosen])

    def _lowest_of(self, objective: Objective, theta_SP: np.ndarray, kept: int) -> np.ndarray:
        """Returns the `kept` starts of lowest objective, the lowest first."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # starts out of the law's domain
            residual_SR = np.log(self.response) - self.bound.log(theta_SP)
            value_S = objective.total(residual_SR, row_weights(objective, np.log(self.response))[None])
        return theta_SP[np.argsort(np.where(np.isfinite(value_S), value_S, np.inf), kind="stable")[:kept]]

    def _screened(
        self, objective: Objective, theta_SP: np.ndarray, screen: tuple[tuple[int, int], ...], least: float = 0.0
    ) -> np.ndarray:
        """Returns the starts that are lowest after a few steps, as SCREEN has them. See `_apart` for `least`."""
        for steps, kept in screen:
            lowest = _lowest(self.minimize(objective, theta_SP, max_steps=steps)).theta_SP
            theta_SP = (lowest[self._apart(lowest, least)] if least else lowest)[:kept]
        return theta_SP

    def _apart(self, theta_SP: np.ndarray, least: float) -> np.ndarray:
        """Returns the places of the parameter sets whose curves differ by `least` from those of all sets before."""
        # by their curves, because parameters of a vanished term differ without meaning
        curve_SR = self.bound.log(theta_SP)
        kept: list[int] = []
        for s in range(len(curve_SR)):
            if not np.any(np.abs(curve_SR[kept] - curve_SR[s]).max(axis=1) <= least):
                kept.append(s)
        return np.array(kept, int)

    def _converged(self, objective: Objective, theta_SP: np.ndarray) -> Solution:
        """Returns the distinct minima that the starts lead to, the lowest first; there may be none."""
        found = self.minimize(objective, theta_SP)
        if objective.name == "lad":
            found = self._to_the_corner(found)
        return self._distinct(found.take(found.converged_S))

    def _to_the_corner(self, found: Solution) -> Solution:
        """Finishes the lowest result by linear programs, if it did not converge and no converged one is as low."""
        value_S = np.where(np.isfinite(found.objective_S), found.objective_S, np.inf)
        at = int(np.argmin(value_S))
        if found.converged_S[at] or not np.isfinite(value_S[at]):
            return found
        theta_P, value, converged = least_absolute(self.bound, np.log(self.response), found.theta_SP[at])
        return Solution(
            np.concatenate([theta_P[None], found.theta_SP]),
            np.append(value, found.objective_S),
            np.append(converged, found.converged_S),
        )

    def _distinct(self, found: Solution) -> Solution:
        found = found.take(np.argsort(found.objective_S, kind="stable"))
        return found.take(self._apart(found.theta_SP, SAME_CURVE))

    def adaptive(self) -> tuple[Objective, bool]:
        """Iterates Huber's delta to the fixed point of its residuals. Returns the objective, and True if it settled."""
        objective = Objective("ls")
        minima = self.minima(objective)
        for _ in range(50):
            delta = adaptive_delta(self.residual(minima.theta_SP[0]))
            settled = abs(delta - objective.delta) <= 1e-9 * delta
            objective = Objective("huber", delta)
            if settled:
                return objective, True
            minima = self._distinct(self.minimize(objective, minima.theta_SP))
        return objective, False

    def bootstrap(
        self, objective: Objective, minima: Solution, cluster: np.ndarray, *, draws: int, seed: int, stream: int
    ) -> np.ndarray:
        """Returns [S, P] minima of `draws` resamplings of whole clusters, each the lowest from a few starts.

        The starts are the lowest minima of the full table. Draws that did not converge are dropped, so S may be less
        than `draws`.
        """
        if not draws:
            return np.empty((0, len(self.free)))
        weight_SR = resamplings(cluster, draws, seed, stream)
        start_SP, together = minima.theta_SP[:BOOTSTRAP_STARTS], at_once(len(self.response))

        def some(first: int) -> np.ndarray:
            progress.step(f"{self.law.name}: {first} of {draws} bootstrap draws")
            return self._lowest_minima(objective, start_SP, weight_SR[first : first + together])

        return np.concatenate(in_threads([partial(some, first) for first in range(0, draws, together)]))

    def _lowest_minima(self, objective: Objective, start_SP: np.ndarray, weight_DR: np.ndarray) -> np.ndarray:
        """Returns the lowest minimum under each of D weightings, [D, P], without those that did not converge."""
        draws, log_response_R = len(weight_DR), np.log(self.response)
        begin = [first_steps(self.bound, log_response_R, objective, theta_P, weight_DR) for theta_P in start_SP]
        runs = [self.minimize(objective, begin_DP, weight_SR=weight_DR, damping=CLOSE_DAMPING) for begin_DP in begin]
        value = np.array([np.where(run.converged_S, run.objective_S, np.inf) for run in runs])
        theta_DP = np.array([run.theta_SP for run in runs])[np.argmin(value, axis=0), np.arange(draws)]
        return theta_DP[np.isfinite(value.min(axis=0))]

    def _largest_shares(self, theta_SP: np.ndarray) -> np.ndarray:
        """Returns [S, P] the largest share of each size in any run, exact only below NEGLIGIBLE_SHARE."""
        few = self.some_rows(FEW_ROWS)
        # d log L / d log size is the size's share of L
        share_SP = np.abs(few.bound.expand(theta_SP).jacobian()).max(axis=2)
        sizes = [self.free.index(size) for size in self.law.sizes if size in self.free]
        small_S = np.flatnonzero((share_SP[:, sizes] < NEGLIGIBLE_SHARE).any(axis=1)) if few is not self else []
        for some_S in in_blocks(np.asarray(small_S, int), len(self.response)):
            share_SP[some_S] = np.abs(self.bound.expand(theta_SP[some_S]).jacobian()).max(axis=2)
        return share_SP

    def at_bound(self, theta_SP: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns {free parameter: ([S] it ran to its lower end, [S] it ran to its upper end)}."""
        S, limits = len(theta_SP), self.law.limits
        ends = {name: (np.zeros(S, bool), np.zeros(S, bool)) for name in self.free}
        if not S:
            return ends
        share_SP = self._largest_shares(theta_SP)
        for name, (low, high) in limits.items():
            if name not in ends:
                continue
            value = theta_SP[:, self.free.index(name)]
            ends[name] = value <= low, value >= high
        for size, others in self.law.sizes.items():
            if size not in self.free:
                continue
            others = [name for name in others if name in ends]
            gone = share_SP[:, self.free.index(size)] < NEGLIGIBLE_SHARE
            steep = np.any([ends[name][1] for name in others], axis=0) if others else np.zeros(S, bool)
            ends[size] = gone, steep
            for name in others:
                ends[name] = ends[name][0] | gone, ends[name][1] | gone
        return ends


def _lowest(screened: Solution) -> Solution:
    """Returns the starts, the lowest first, but only one of those that converged to the same minimum.

    Otherwise they would crowd out another minimum, a little higher now, that may be lower under another objective.
    """
    value_S = np.where(np.isfinite(screened.objective_S), screened.objective_S, np.inf)
    order = np.argsort(value_S, kind="stable")
    value_S, done_S = value_S[order], screened.converged_S[order]
    again = done_S[1:] & done_S[:-1] & (value_S[1:] <= value_S[:-1] * (1 + SAME_OBJECTIVE))
    return screened.take(order[np.append(True, ~again)])


def at_once(rows: int) -> int:
    """Returns how many draws are computed together: their arrays of draws by rows are small in memory."""
    return min(DRAWS_AT_ONCE, max(1, MOST_NUMBERS // rows))


def in_blocks(values_S: np.ndarray, rows: int) -> list[np.ndarray]:
    """Splits [S, ...] into blocks whose arrays of [block, rows] are small in memory."""
    return np.array_split(values_S, max(1, min(len(values_S), len(values_S) * rows // MOST_NUMBERS)))


def centre_of(points: Points) -> dict[str, float]:
    """Returns the middle of the data on each axis: geometric for sizes and data, arithmetic for an upstream loss."""
    return {a: float(x.mean() if a == "l" else np.exp(np.log(x).mean())) for a, x in points.items()}


def resamplings(cluster: np.ndarray, draws: int, seed: int, stream: int = FULL_TABLE) -> np.ndarray:
    """Returns [draws, R] weights: the number of times that each row's cluster was drawn, with replacement.

    The full table's draws come from numpy's frozen legacy generator, index by index. With one row in each cluster and
    seed 42 they are the draws of Besiroglu et al. 2024 (2404.10102), so that their standard errors come out to the
    digit. Other draws would not do: with tails as heavy as those of A and B, 4,000 other draws move the errors by a
    tenth.
    """
    _, member = np.unique(cluster, return_inverse=True)
    clusters = int(member.max()) + 1
    entropy = seed if stream == FULL_TABLE else np.random.SeedSequence((seed, stream)).generate_state(4)
    generator = np.random.RandomState(entropy)
    weight_SR = np.empty((draws, len(member)), np.uint16)  # small, because draws by rows are the most that a fit holds
    for weight_R in weight_SR:
        weight_R[:] = np.bincount(generator.choice(clusters, clusters), minlength=clusters)[member]
    return weight_SR
