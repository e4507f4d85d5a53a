"""What the bootstrap and the profiles together say of each parameter: a value with an interval, or only a bound."""

from __future__ import annotations

import numpy as np

from scaling import laws
from scaling.problem import Problem
from scaling.profile import Profile

OPEN_SHARE = 0.025
"""Share of bootstrap draws at a bound above which a 95 % interval has no end on that side."""

Interval = tuple[float | None, float | None]
"""A 95 % interval; None is an end that the data do not give."""


def intervals(
    problem: Problem, theta_P: np.ndarray, cloud_SP: np.ndarray, profiles: dict[str, Profile]
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None], dict[str, Interval]]:
    """(params, interval95, bounds), each by the parameter's name.

    A parameter is open on a side where the point or over 2.5 % of the draws ran to its bound, or where its profile
    never passes the threshold. It then has no value and no interval, only a bound on the other side: the draws', or
    the profile's where there are none.
    """
    at_centre = {size for term in problem.law.terms if term.axes for size in term.sizes}
    point = {
        name: float(values[0])
        for name, values in laws.natural(problem.law, theta_P[None], problem.centre, problem.known_floor).items()
    }
    draws = laws.natural(problem.law, cloud_SP, problem.centre, problem.known_floor)
    params, interval95, bounds = dict(point), dict.fromkeys(point), {}
    of_point, of_draws = problem.at_bound(theta_P[None]), problem.at_bound(cloud_SP)
    for name in problem.free:
        walked = (False, False) if name not in profiles else [end is None for end in profiles[name].interval95]
        open_ends = [
            bool(point_at[0]) or (len(cloud_SP) > 0 and bool(draws_at.mean() > OPEN_SHARE)) or by_profile
            for point_at, draws_at, by_profile in zip(of_point[name], of_draws[name], walked, strict=True)
        ]
        ends = [None, None]
        if len(cloud_SP):
            ends = [float(x) for x in np.percentile(draws[name], [2.5, 97.5])]
        elif name in profiles and name not in at_centre:
            ends = profiles[name].interval95
        if any(open_ends):
            params[name] = None
            # with all draws at one end the other percentile lies there too, and bounds nothing
            useless = [len(cloud_SP) > 0 and at.mean() >= 1 - OPEN_SHARE for at in reversed(of_draws[name])]
            bounds[name] = tuple(None if o or u else e for o, u, e in zip(open_ends, useless, ends, strict=True))
        elif len(cloud_SP):
            interval95[name] = tuple(ends)
    return params, interval95, bounds


def sizes_at_centre(
    problem: Problem, theta_P: np.ndarray, cloud_SP: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float] | None]]:
    """Each fitted size at the centre of the data, 0 where it ran to 0, and its 95 % interval."""
    sizes = [name for name in problem.free if name in problem.law.sizes]
    gone = problem.at_bound(theta_P[None])
    value = {name: 0.0 if gone[name][0][0] else float(np.exp(theta_P[problem.free.index(name)])) for name in sizes}
    if not len(cloud_SP):
        return value, dict.fromkeys(sizes)
    cloud = np.percentile(np.exp(cloud_SP), [2.5, 97.5], axis=0)
    return value, {name: tuple(float(x) for x in cloud[:, problem.free.index(name)]) for name in sizes}
