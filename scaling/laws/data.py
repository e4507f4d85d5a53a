"""Laws of the data alone: a power of D, the same above a floor, and one whose exponent changes once."""

from __future__ import annotations

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.terms import BrokenPower, Points, Power


def _broken_shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    return {
        "beta": np.geomspace(0.03, 2.0, 10),
        "c": np.array([-0.4, -0.15, 0.15, 0.4, 1.0]),
        "D_b": np.unique(np.log(np.quantile(points["d"], [0.25, 0.5, 0.75]) / centre["d"])),
        "f": np.array([0.1, 0.7]),
    }


for law in (
    Law(
        name="power",
        formula="L = A / D^beta",
        terms=(Power("A", "beta", "d"),),
        source="Hestness et al. 2017 (1712.00409)",
        assumptions="No irreducible loss within reach: the log-log plot is straight to the end.",
        family="data",
    ),
    Law(
        name="power_floor",
        formula="L = E + A / D^beta",
        terms=(Power("A", "beta", "d"), FLOOR),
        source="Hestness et al. 2017 (1712.00409); Henighan et al. 2020 (2010.14701)",
        assumptions="Body size is no bottleneck at any D of the table.",
        family="data",
    ),
    Law(
        name="broken",
        formula="L = E + A / D^beta * (1 + (D / D_b)^(1/f))^(-c f)",
        terms=(BrokenPower("A", "beta", "c", "D_b", "f", "d"), FLOOR),
        source="Caballero et al. 2022 (2210.14891), eq. 1 with one break",
        assumptions="The exponent turns once, from beta to beta + c around D_b; nothing says that it is the last turn.",
        family="data",
        shapes=_broken_shapes,
        distinct_to_spare=3,  # there must be points on both sides of the break
    ),
):
    register_law(law)
