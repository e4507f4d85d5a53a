"""Starts of the minimisation: shapes on a grid with the sizes in closed form (variable projection).

Letters: S starts, T terms, R rows, P parameters, G grid points.
"""

from __future__ import annotations

import itertools

import numpy as np

from scaling.laws.fixed import fixed_where_it_has
from scaling.laws.registry import LAWS, Bound, Law, bind
from scaling.laws.terms import Points

KEPT = 48
"""The number of a simpler law's starts that a law with more shapes begins from."""


def starts(
    law: Law, points: Points, centre: dict[str, float], *, known_floor: float | None, response_R: np.ndarray
) -> np.ndarray:
    """Returns [S, P] starts of `law` for the response at `points`."""
    free = law.free_params(known_floor)
    if law.simpler is not None:
        simple = fixed_where_it_has(LAWS[law.simpler], dict(law.fixed))
        bound = bind(simple, points, centre, known_floor)
        begin_SP = starts(simple, points, centre, known_floor=known_floor, response_R=response_R)
        miss_S = np.abs(np.log(response_R) - bound.log(begin_SP)).sum(axis=1)
        begin_SP = begin_SP[np.argsort(miss_S)[:KEPT]]
        names = simple.free_params(known_floor)
        shapes = law.shapes(points, centre) if law.shapes else {}
        more = _grid({name: grid for name, grid in shapes.items() if name in free})
        return np.concatenate([_extended(begin_SP, names, free, added) for added in more])
    grids = {name: grid for name, grid in _shapes(law, points, centre).items() if name in free}
    shape_GP = np.array([[shape.get(name, 0.0) for name in free] for shape in _grid(grids)])
    sizes = [free.index(size) for size in law.sizes if size in free]
    if not sizes:
        return shape_GP
    return _projected(bind(law, points, centre, known_floor), shape_GP, sizes, response_R)


def _shapes(law: Law, points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    """Returns {parameter that is not a size: its grid}."""
    if law.shapes is not None:
        return law.shapes(points, centre)
    exponents = [name for name in law.params if name not in law.sizes]
    return dict.fromkeys(exponents, np.geomspace(0.03, 2.5, 24 if len(exponents) == 1 else 12))


def _grid(values: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Returns every combination of one value for each name; the last name's value changes fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _projected(bound: Bound, shape_GP: np.ndarray, sizes: list[int], response_R: np.ndarray) -> np.ndarray:
    """Returns starts with the grid's shapes and three kinds of sizes.

    The sizes come from weighted least squares (those below 0 are set small), are equal, or are mostly the last one's.
    So there is a start on either side of a floor near zero.
    """
    free = [t for t, index in enumerate(bound.index_T) if set(index) & set(sizes)]
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


def _extended(
    theta_SP: np.ndarray, names: tuple[str, ...], free: tuple[str, ...], more: dict[str, float]
) -> np.ndarray:
    """Turns theta of the parameters `names` into theta of the parameters `free`; `more` gives the values that lack."""
    return np.stack(
        [theta_SP[:, names.index(name)] if name in names else np.full(len(theta_SP), more[name]) for name in free],
        axis=1,
    )
