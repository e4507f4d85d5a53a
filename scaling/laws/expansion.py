"""A law to second order around parameter sets, and the sums over rows that a Newton step needs.

log L is the logsumexp of its terms' logs, so its derivatives are those of the terms, weighted by their shares of L.
Where the terms are linear, every sum over rows is a matrix product of shares and covariates: no Jacobian is formed.

Letters: S parameter sets, T terms, R rows, P parameters, k a term's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.laws.terms import Derivatives


@dataclass(frozen=True)
class Expansion:
    """A law f = log L around S parameter sets."""

    log_SR: np.ndarray
    share_T: tuple[np.ndarray, ...]
    """[S, R] each."""
    parts: tuple[Derivatives, ...]
    index_T: tuple[tuple[int, ...], ...]
    """The places in theta of each term's parameters. A parameter may be in two terms, or twice in one."""
    params: int
    stacked: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    """{terms: the slopes of one, or the products of two terms' slopes, [R, values]}, where they are the same for all
    parameter sets. Expansions of one law at the same points share it."""

    @classmethod
    def of(
        cls,
        parts: Sequence[Derivatives],
        index_T: tuple[tuple[int, ...], ...],
        params: int,
        stacked: dict[tuple[int, ...], np.ndarray] | None = None,
    ) -> Expansion:
        log_SR, share_T = log_sum([part.log_SR for part in parts])
        return cls(log_SR, tuple(share_T), tuple(parts), index_T, params, {} if stacked is None else stacked)

    def jacobian(self) -> np.ndarray:
        """Returns J = df / dtheta, [S, P, R]."""
        jacobian_PSR = np.zeros((self.params, *self.log_SR.shape))
        for index, share_SR, part in zip(self.index_T, self.share_T, self.parts, strict=True):
            for p, slope in zip(index, part.slope_k, strict=True):
                jacobian_PSR[p] += share_SR * slope
        return jacobian_PSR.transpose(1, 0, 2)

    def gradient(self, weight_SR: np.ndarray) -> np.ndarray:
        """Returns sum_r w_r J_r, [S, P]."""
        total_SP = np.zeros((len(self.log_SR), self.params))
        for t, (index, share_SR) in enumerate(zip(self.index_T, self.share_T, strict=True)):
            if not index:
                continue
            for p, value_S in zip(index, self._sums((t,), weight_SR * share_SR), strict=True):
                total_SP[:, p] += value_S
        return total_SP

    def hessian(self, outer_SR: np.ndarray | None, bend_SR: np.ndarray | None = None) -> np.ndarray:
        """Returns sum_r o_r J_r J_r' + b_r (d2 f_r + J_r J_r'), [S, P, P]: the Hessian of any sum of functions of f."""
        total_SPP = np.zeros((len(self.log_SR), self.params, self.params))
        free = [t for t, index in enumerate(self.index_T) if index]
        for n, t in enumerate(free):
            weight_SR = 0.0 if outer_SR is None else outer_SR * self.share_T[t]
            for u in free[n + 1 :] if outer_SR is not None else ():
                self._add_outer(total_SPP, t, u, weight_SR * self.share_T[u])
            if bend_SR is not None:
                weight_SR = weight_SR + bend_SR
            self._add_outer(total_SPP, t, t, weight_SR * self.share_T[t])
            if bend_SR is not None and self.parts[t].curvature:
                self._add_curvature(total_SPP, t, bend_SR * self.share_T[t])
        return total_SPP

    def _add_outer(self, total_SPP: np.ndarray, t: int, u: int, weight_SR: np.ndarray) -> None:
        """Adds sum_r w_r slope_r slope_r' of the terms t and u, and its mirror image where they differ."""
        for (i, j), value_S in zip(self._pairs(t, u), self._sums((t, u), weight_SR), strict=True):
            _add_symmetric(total_SPP, self.index_T[t][i], self.index_T[u][j], value_S, once=t == u and i == j)

    def _add_curvature(self, total_SPP: np.ndarray, t: int, weight_SR: np.ndarray) -> None:
        curvature = self.parts[t].curvature
        for (i, j), value in curvature.items():
            _add_symmetric(total_SPP, self.index_T[t][i], self.index_T[t][j], _sum(weight_SR, value), once=i == j)

    def _pairs(self, t: int, u: int) -> list[tuple[int, int]]:
        first, second = len(self.parts[t].slope_k), len(self.parts[u].slope_k)
        return [(i, j) for i in range(first) for j in range(i if t == u else 0, second)]

    def _sums(self, terms: tuple[int, ...], weight_SR: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Returns sum_r w_r value_r, [S] for each slope of a term, or for each product of two terms' slopes."""
        if terms not in self.stacked:
            slopes = [self.parts[t].slope_k for t in terms]
            values = slopes[0] if len(terms) == 1 else [slopes[0][i] * slopes[1][j] for i, j in self._pairs(*terms)]
            if any(value.ndim > 1 for value in values):  # they differ between parameter sets
                return [_sum(weight_SR, value) for value in values]
            self.stacked[terms] = np.stack(values, axis=1)
        return (weight_SR @ self.stacked[terms]).T


def _sum(weight_SR: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.einsum("SR,SR->S", weight_SR, np.broadcast_to(value, weight_SR.shape))


def _add_symmetric(total_SPP: np.ndarray, p: int, q: int, value_S: np.ndarray, once: bool) -> None:
    total_SPP[:, p, q] += value_S
    if not once:
        total_SPP[:, q, p] += value_S


def log_sum(log_terms: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the log of the sum of the terms [S, R], and each term's share of it [S, R]."""
    if len(log_terms) == 1:
        return log_terms[0], [np.ones_like(log_terms[0])]
    highest = np.maximum(log_terms[0], log_terms[1])
    for term in log_terms[2:]:
        np.maximum(highest, term, out=highest)
    shares = [np.subtract(term, highest) for term in log_terms]
    for share_SR in shares:
        np.exp(share_SR, out=share_SR)
    total = sum(shares[1:], shares[0])
    scale = 1 / total
    for share_SR in shares:
        share_SR *= scale
    np.log(total, out=total)
    total += highest
    return total, shares
