"""Laws of size and data together: Chinchilla's sum, and how else the two limits may meet."""

from __future__ import annotations

import numpy as np

from scaling.laws.registry import FLOOR, Law, register_law
from scaling.laws.terms import Points, Power, SoftSum

A_N, B_D = Power("A", "alpha", "n"), Power("B", "beta", "d")
HOFFMANN = "Hoffmann et al. 2022 (2203.15556), eq. 2"
ADDS = "The limits of size and of data add; one epoch, or D counts unique data and epochs are tuned."
GAMMAS = np.array([0.3, 0.6, 1.0, 1.6])


def hoffmann_starts(centre: dict[str, float]) -> np.ndarray:
    """Returns the 4,500 starts of Hoffmann et al. 2022 (2203.15556, D.3), in theta of the law chinchilla: [4500, 5]."""
    size, exponent = np.arange(0, 30, 5.0), np.arange(0, 2.5, 0.5)
    grid = np.stack(np.meshgrid(size, size, np.arange(-1, 1.5, 0.5), exponent, exponent, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, 5)
    grid[:, 0] -= grid[:, 3] * np.log(centre["n"])
    grid[:, 1] -= grid[:, 4] * np.log(centre["d"])
    return grid


def _gammas(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    return {"gamma": GAMMAS}


for law in (
    Law(
        name="chinchilla",
        formula="L = E + A / N^alpha + B / D^beta",
        terms=(A_N, B_D, FLOOR),
        source=HOFFMANN,
        assumptions=ADDS,
        family="size and data",
        more_starts=hoffmann_starts,
    ),
    Law(
        name="chinchilla_no_floor",
        formula="L = A / N^alpha + B / D^beta",
        terms=(A_N, B_D),
        source=HOFFMANN + " with E = 0",
        assumptions="No irreducible loss within reach. " + ADDS,
        family="size and data",
    ),
    Law(
        name="tied",
        formula="L = E + A / N^alpha + B / D^alpha",
        terms=(A_N, Power("B", "alpha", "d"), FLOOR),
        source=HOFFMANN + " with beta = alpha",
        assumptions="Size and data are best grown alike. " + ADDS,
        family="size and data",
    ),
    Law(
        name="kaplan",
        formula="L = ((A / N^alpha)^(1/beta) + B^(1/beta) / D)^beta",
        terms=(SoftSum(A_N, B_D, "beta"),),
        source="Kaplan et al. 2020 (2001.08361), eq. 1.5: A = N_c^alpha_N, B = D_c^alpha_D",
        assumptions="No irreducible loss; the loss is analytic in 1 / D.",
        family="size and data",
        simpler="chinchilla_no_floor",
    ),
    Law(
        name="gamma",
        formula="L = E + ((A / N^alpha)^(1/gamma) + (B / D^beta)^(1/gamma))^gamma",
        terms=(SoftSum(A_N, B_D, "gamma"), FLOOR),
        source="Kaplan et al. 2020 (2001.08361), eq. 1.5, with a floor and a free outer exponent",
        assumptions=(
            "Between the limits of size and of data the loss bends as gamma says; one epoch, or D counts unique data."
        ),
        family="size and data",
        simpler="chinchilla",
        shapes=_gammas,
    ),
):
    register_law(law)
