"""A law with some parameters at given values, which are then not fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scaling.errors import InputError, near_miss
from scaling.laws.registry import FLOOR, Law, fixed_theta

ORIGIN = {"l": 1e-300}
"""The centre at which a size is what the formula writes, on axes that are not logarithmic. On others it is 1."""


def with_fixed(law: Law, values: Mapping[str, float]) -> Law:
    """Returns `law` with the parameters in `values` {name: value as the formula writes it} at these values.

    Raises InputError for a parameter that the law does not have, for the floor (which is given as the known floor), for
    a value that the parameter cannot have, and where nothing would be left to fit.
    """
    for name, value in values.items():
        if name not in law.params:
            raise InputError(f"{law.name} ({law.formula}) has no parameter {name!r}; {near_miss(name, law.params)}")
        if name == FLOOR.size:
            raise InputError(f"the floor {name} is fixed as the known floor: --floor {value:g}")
        unit = "a number above 0" if name in law.logs else "a number"
        if name in law.logits:
            unit = "a number above 0 and below 1"
        highest = 1.0 if name in law.logits else np.inf
        if not np.isfinite(value) or ((name in law.logs | law.logits) and not 0 < value < highest):
            raise InputError(f"{name} is fixed to {value}; {law.name} wants {unit}")
    if set(law.params) <= {*values, FLOOR.size}:
        raise InputError(f"all parameters of {law.name} are fixed; leave at least one of {', '.join(law.params)} free")
    fixed = replace(law, fixed=tuple(sorted({**dict(law.fixed), **values}.items())))
    theta = fixed_theta(fixed, dict.fromkeys(law.axes, 1.0))
    for name in values:
        low, high = law.limits.get(name, (-np.inf, np.inf))
        if not low <= theta[name] <= high:
            raise InputError(f"{name} is fixed to {values[name]:g}, where {law.name} has no such power or shape")
    return fixed


def fixed_where_it_has(law: Law, values: Mapping[str, float]) -> Law:
    """Returns `law` with those parameters in `values` fixed that it has."""
    return with_fixed(law, {name: value for name, value in values.items() if name in law.params})


def centre_of_fixed(law: Law, centre: dict[str, float]) -> dict[str, float]:
    """Returns the centre at which the theta of the fixed parameters depends on no other parameter.

    A size in theta is taken at the centre, where it depends on its exponent. So its axes get the origin as the centre.
    """
    zero, one = (fixed_theta(law, centre, others) for others in (0.0, 0.5))
    bent = {name for name in zero if abs(zero[name] - one[name]) > 1e-12 * max(abs(zero[name]), 1.0)}
    moved = {axis for term in law.terms if bent & set(term.params) for axis in term.axes}
    return {axis: ORIGIN.get(axis, 1.0) if axis in moved else x for axis, x in centre.items()}
