"""Profile likelihood: each parameter is moved, with all others refitted, until the objective has risen too far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.fitting import progress
from scaling.fitting.minimize import Objective, robust_sigma, row_weights
from scaling.fitting.problem import NEGLIGIBLE_SHARE, Problem
from scaling.laws.registry import natural

HALF_CHI_SQUARE95 = 1.9207294103
"""Half the 95 % point of chi-square with one degree of freedom."""
FIRST_STEP, GROWTH, STEPS = 0.25, 1.3, 36
"""The walk outwards, in standard errors. 36 steps reach 13,000 of them."""
LONGEST_ERROR = 1.0
"""A larger standard error, in logs or exponents, comes from a flat bottom and says nothing."""
SMALLEST_SIZE = 1e-12
"""A size at the centre below this fraction of the smallest response has no effect, unless others have run away."""
LOWER = 1e-6
"""A refit that is lower by this fraction of the threshold has found another minimum."""


@dataclass(frozen=True)
class LikelihoodProfile:
    """The profile of one parameter. Sizes are those at the centre of the data."""

    value_G: np.ndarray
    """Values of the parameter in its natural unit, ascending."""
    rise_G: np.ndarray
    """The rise of the objective, in units in which 1.92 is the 95 % threshold."""
    interval95: tuple[float | None, float | None]
    """The values at which the rise passes the threshold. None: the data do not bound the parameter there."""


@dataclass(frozen=True)
class Profiles:
    by_name: dict[str, LikelihoodProfile]
    lower_P: np.ndarray | None
    """A theta with a lower objective that the walks found, if any."""


def noise_scale(
    objective: Objective, residual_R: np.ndarray, cluster: np.ndarray, P: int, weight_R: np.ndarray | float = 1.0
) -> float:
    """Rise of the objective that is worth one unit of log likelihood.

    E[psi^2] / E[psi'] of the objective's slope psi (Heritier & Ronchetti 1994, for M-estimators; sigma^2 for least
    squares), times the design effect of rows that share a cluster, and G / (G - P) for G clusters.
    """
    R = len(residual_R)
    psi = weight_R * (np.sign(residual_R) if objective.name == "lad" else objective.rho(residual_R)[1])
    # a finite difference, since psi' is a count of few rows under a small delta, and a point mass under LAD
    width = max(1.06 * robust_sigma(residual_R) * R**-0.2, 1e-300)
    if objective.name == "lad":
        slope = (np.sign(residual_R + width) - np.sign(residual_R - width)).mean() / (2 * width)
    else:
        change_R = objective.rho(residual_R + width)[1] - objective.rho(residual_R - width)[1]
        slope = (weight_R * change_R).mean() / (2 * width)
    _, member = np.unique(cluster, return_inverse=True)
    effect = max((np.bincount(member, psi) ** 2).sum() / max((psi**2).sum(), 1e-300), 1.0)
    G = int(member.max()) + 1
    return float((psi**2).mean() / max(slope, 1e-300) * effect * G / max(G - P, 1))


def profile(problem: Problem, objective: Objective, theta_P: np.ndarray, cluster: np.ndarray) -> Profiles:
    """Walks outwards from the minimum `theta_P` with warm starts. Returns the profiles of all P parameters.

    The threshold is Student's t with (clusters - P) degrees of freedom, squared and halved: 1.92 for many runs.
    """
    from scipy.special import stdtrit

    progress.step(f"{problem.law.name}: the profiles of {len(theta_P)} parameters")
    P = len(theta_P)
    scale = noise_scale(
        objective, problem.residual(theta_P), cluster, P, row_weights(objective, np.log(problem.response))
    )
    spare = max(len(np.unique(cluster)) - P, 1)
    unit = scale * stdtrit(spare, 0.975) ** 2 / 2 / HALF_CHI_SQUARE95
    best = float(problem.minimize(objective, theta_P[None]).objective_S[0])
    unit = max(unit, 1e-12 * best, 1e-300)
    error_P, tangent_PP = local_errors(problem, theta_P, scale)
    walks = [(p, side) for p in range(P) for side in (-1.0, 1.0)]
    limit_W = np.array([_limit(problem, p, side) for p, side in walks])
    side_W, param_W = np.array([side for _, side in walks]), np.array([p for p, _ in walks])
    # a size that has run to 0 has its first effect at the border, and walks up from there
    origin_W = np.where(side_W > 0, np.maximum(theta_P, _borders(problem))[param_W], theta_P[param_W])
    theta_WP = np.tile(theta_P, (len(walks), 1))
    fixed_WP = np.arange(P) == param_W[:, None]
    path = [[(origin, 0.0)] for origin in origin_W]
    closed_W, going_W = np.zeros(len(walks), bool), side_W * (limit_W - origin_W) > 0
    lower_P, lowest = None, best - LOWER * unit
    for k in range(STEPS):
        w = np.flatnonzero(going_W)
        if not len(w):
            break
        aim = origin_W[w] + side_W[w] * error_P[param_W[w]] * FIRST_STEP * GROWTH**k
        aim = np.where(side_W[w] > 0, np.minimum(aim, limit_W[w]), np.maximum(aim, limit_W[w]))
        begin = theta_WP[w] + tangent_PP[param_W[w]] * (aim - theta_WP[w, param_W[w]])[:, None]
        begin[np.arange(len(w)), param_W[w]] = aim
        stay = theta_WP[w].copy()
        stay[np.arange(len(w)), param_W[w]] = aim
        both = np.concatenate([begin, stay])
        run = problem.minimize(objective, both, fixed_SP=np.tile(fixed_WP[w], (2, 1)), max_steps=100)
        value = np.where(np.isfinite(run.objective_S), run.objective_S, np.inf).reshape(2, len(w))
        pick = np.argmin(value, axis=0)
        found = run.theta_SP.reshape(2, len(w), P)[pick, np.arange(len(w))]
        value = value.min(axis=0)
        if value.min() < lowest:
            lower_P, lowest = found[np.argmin(value)], value.min()
        theta_WP[w] = np.where(np.isfinite(value)[:, None], found, theta_WP[w])
        rise = (value - best) / unit
        for i, walk in enumerate(w):
            if np.isfinite(rise[i]):
                path[walk].append((aim[i], max(rise[i], 0.0)))
        closed_W[w] = np.where(np.isfinite(rise), rise > HALF_CHI_SQUARE95, closed_W[w])
        ended = (aim == limit_W[w]) | ((side_W[w] < 0) & _vanished(problem, found, param_W[w]))
        going_W[w] = ~((rise > 2 * HALF_CHI_SQUARE95) | ended | ~np.isfinite(rise))
    return Profiles(_collect(problem, path, closed_W), lower_P)


def local_errors(problem: Problem, theta_P: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns standard errors by the curvature at the minimum, [P], and how the others move with each one, [P, P]."""
    J = problem.bound.expand(theta_P[None]).jacobian()[0]
    information = J @ J.T
    covariance = np.linalg.pinv(information + 1e-12 * np.trace(information) * np.eye(len(theta_P)), hermitian=True)
    sigma = max(robust_sigma(problem.residual(theta_P)), np.sqrt(scale), 1e-12)
    variance = np.maximum(np.diag(covariance), 1e-300)
    return np.clip(sigma * np.sqrt(variance), 1e-9, LONGEST_ERROR), covariance / variance[:, None]


def _limit(problem: Problem, p: int, side: float) -> float:
    name = problem.free[p]
    if name in problem.law.sizes:
        return np.log(SMALLEST_SIZE * problem.response.min()) if side < 0 else np.inf
    return problem.law.limits.get(name, (-np.inf, np.inf))[0 if side < 0 else 1]


def _borders(problem: Problem) -> np.ndarray:
    """Returns [P]: a smaller size is negligible in every run. It is -inf for parameters that are not sizes."""
    border = np.log(NEGLIGIBLE_SHARE * problem.response.min())
    return np.array([border if name in problem.law.sizes else -np.inf for name in problem.free])


def _vanished(problem: Problem, theta_SP: np.ndarray, param_S: np.ndarray) -> np.ndarray:
    """Returns [S]: the parameter is a size without any effect on a run, so that walking on changes nothing."""
    jacobian_SPR = problem.bound.expand(theta_SP).jacobian()
    is_size = np.array([problem.free[p] in problem.law.sizes for p in param_S])
    return is_size & (np.abs(jacobian_SPR[np.arange(len(param_S)), param_S]).max(axis=1) < NEGLIGIBLE_SHARE)


def _collect(problem: Problem, path: list, closed_W: np.ndarray) -> dict[str, LikelihoodProfile]:
    profiles = {}
    for p, name in enumerate(problem.free):
        walks, ends = [], []
        for points, closed in zip(path[2 * p : 2 * p + 2], closed_W[2 * p : 2 * p + 2], strict=True):
            theta_G, rise_G = np.array(points).T
            walks.append((_natural(problem, name, theta_G), rise_G))
            ends.append(_crossing(*walks[-1]) if closed else None)
        (down, down_rise), (up, up_rise) = walks
        profiles[name] = LikelihoodProfile(
            value_G=np.r_[down[:0:-1], up],
            rise_G=np.r_[down_rise[:0:-1], up_rise],
            interval95=(ends[0], ends[1]),
        )
    return profiles


def _crossing(value_G: np.ndarray, rise_G: np.ndarray) -> float:
    """Returns the value where the path last passes the threshold. The root of the rise is nearly straight."""
    root_G, threshold = np.sqrt(rise_G), np.sqrt(HALF_CHI_SQUARE95)
    at = int(np.flatnonzero(root_G <= threshold)[-1])  # the widest interval, should the profile have two dips
    part = (threshold - root_G[at]) / (root_G[at + 1] - root_G[at])
    return float(value_G[at] + part * (value_G[at + 1] - value_G[at]))


def _natural(problem: Problem, name: str, theta_G: np.ndarray) -> np.ndarray:
    """Returns values of theta's parameter `name` as the formula writes them, but a size at the centre."""
    if name in problem.law.sizes:
        return np.exp(theta_G)
    theta_GP = np.ones((len(theta_G), len(problem.free)))
    theta_GP[:, problem.free.index(name)] = theta_G
    return natural(problem.law, theta_GP, problem.centre, problem.known_floor)[name]
