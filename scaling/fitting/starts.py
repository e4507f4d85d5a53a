"""Where minimisation begins: shapes on a grid with the sizes in closed form (variable projection), and the usual grid.

Letters: S starts, T terms, R rows, P parameters, G grid points.
"""

from __future__ import annotations

import itertools

import numpy as np

from scaling.laws.registry import LAWS, Bound, Law, bind
from scaling.laws.terms import Points

GAMMAS = (0.3, 0.6, 1.0, 1.6)
REPEATS = (1.0, 5.0, 20.0)
KEPT = 48
"""Starts of a simpler law that a law with a shape more begins from."""


def starts(
    law: Law, points: Points, centre: dict[str, float], known_floor: float | None, response_R: np.ndarray
) -> np.ndarray:
    """[S, P] starts of `law` for the response at `points`."""
    free = law.free_params(known_floor)
    if law.name in ("gamma", "kaplan"):
        simple = LAWS["chinchilla" if law.has_floor else "chinchilla_no_floor"]
        begin = _best(simple, points, centre, known_floor, response_R)
        if law.name == "kaplan":
            return begin
        names = simple.free_params(known_floor)
        return np.concatenate([_extended(begin, names, free, {"gamma": gamma}) for gamma in GAMMAS])
    if law.name == "repeated":
        simple = LAWS["chinchilla"]
        begin = _best(simple, points, centre, known_floor, response_R)
        names = simple.free_params(known_floor)
        decays = [{"R_D": np.log(d), "R_N": np.log(n)} for d, n in itertools.product(REPEATS, REPEATS)]
        return np.concatenate([_extended(begin, names, free, decay) for decay in decays])
    grids = {name: grid for name, grid in _shapes(law, points, centre).items() if name in free}
    grid_GK = np.stack(np.meshgrid(*grids.values(), indexing="ij"), axis=-1).reshape(-1, len(grids))
    shape_GP = np.zeros((len(grid_GK), len(free)))
    shape_GP[:, [free.index(name) for name in grids]] = grid_GK
    return _projected(
        bind(law, points, centre, known_floor), shape_GP, [free.index(s) for s in law.sizes if s in free], response_R
    )


def usual_grid(centre: dict[str, float]) -> np.ndarray:
    """The 4,500 starts of Hoffmann et al. 2022 (2203.15556, D.3) for the law chinchilla, in its theta: [4500, 5]."""
    size, exponent = np.arange(0, 30, 5.0), np.arange(0, 2.5, 0.5)
    grid = np.stack(np.meshgrid(size, size, np.arange(-1, 1.5, 0.5), exponent, exponent, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, 5)
    grid[:, 0] -= grid[:, 3] * np.log(centre["n"])
    grid[:, 1] -= grid[:, 4] * np.log(centre["d"])
    return grid


def _shapes(law: Law, points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    """{parameter that is no size: its grid}."""
    if law.name == "broken":
        places = np.log(np.quantile(points["d"], [0.25, 0.5, 0.75]) / centre["d"])
        return {
            "beta": np.geomspace(0.03, 2.0, 10),
            "c": np.array([-0.4, -0.15, 0.15, 0.4, 1.0]),
            "D_b": np.unique(places),
            "f": np.array([0.1, 0.7]),
        }
    if law.axes == ("l",):
        reach = np.ptp(points["l"])
        steepness = np.geomspace(0.1, 30, 16) / reach
        middle = np.linspace(points["l"].min() - reach, points["l"].max() + reach, 9) - centre["l"]
        return {"k": steepness, "L_0": middle}
    exponents = [name for name in law.params if name not in law.sizes]
    return dict.fromkeys(exponents, np.geomspace(0.03, 2.5, 24 if len(exponents) == 1 else 12))


def _projected(bound: Bound, shape_GP: np.ndarray, sizes: list[int], response_R: np.ndarray) -> np.ndarray:
    """Starts with the grid's shapes: all sizes from weighted least squares (those below 0 set small), and some with the
    sizes split evenly, so that a start exists on either side of a floor near zero."""
    free = [t for t, index in enumerate(bound.index_T) if index]
    unit_TGR = np.stack([np.broadcast_to(x, (len(shape_GP), len(response_R))) for x in bound.log_terms(shape_GP)])
    unit_TGR = np.exp(np.minimum(unit_TGR, 300)) / response_R
    known_GR = sum((unit_TGR[t] for t in range(len(unit_TGR)) if t not in free), np.zeros_like(unit_TGR[0]))
    term_GTR = unit_TGR[free].transpose(1, 0, 2)
    scale_GT = np.maximum(term_GTR.mean(axis=2), 1e-300)  # steep shapes differ by many orders
    term_GTR = term_GTR / scale_GT[..., None]
    gram = np.einsum("GTR,GUR->GTU", term_GTR, term_GTR)
    gram += 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(len(free))
    size = np.linalg.solve(gram, np.einsum("GTR,GR->GT", term_GTR, 1 - known_GR)[..., None])[..., 0]
    even = np.full_like(size, 1 / len(free))
    variants = [np.maximum(size, 1e-3), even]
    if len(free) > 1:
        mostly_last = np.where(np.arange(len(free)) == len(free) - 1, 0.8, 0.2 / (len(free) - 1))
        variants.append(np.broadcast_to(mostly_last, size.shape))
    found = []
    for variant in variants:
        theta_GP = shape_GP.copy()
        theta_GP[:, sizes] = np.log(variant / scale_GT)
        found.append(theta_GP)
    return np.concatenate(found)


def _best(law, points, centre, known_floor, response_R) -> np.ndarray:
    """The starts of `law` that are nearest to the response already."""
    begin = starts(law, points, centre, known_floor, response_R)
    miss = np.abs(np.log(response_R) - bind(law, points, centre, known_floor).log(begin)).sum(axis=1)
    return begin[np.argsort(miss)[:KEPT]]


def _extended(
    theta_SP: np.ndarray, names: tuple[str, ...], free: tuple[str, ...], more: dict[str, float]
) -> np.ndarray:
    """`theta_SP` of the parameters `names` as one of the parameters `free`, those in `more` set."""
    return np.stack(
        [theta_SP[:, names.index(name)] if name in names else np.full(len(theta_SP), more[name]) for name in free],
        axis=1,
    )
