"""Laws of a metric as a function of the loss."""

from __future__ import annotations

import numpy as np

from scaling.laws.registry import Law, register_law
from scaling.laws.terms import Constant, Points, Power, Sigmoid


def _shapes(points: Points, centre: dict[str, float]) -> dict[str, np.ndarray]:
    loss_R = points["l"]
    reach = np.ptp(loss_R)
    return {
        "k": np.geomspace(0.1, 30, 16) / reach,
        "L_0": np.linspace(loss_R.min() - reach, loss_R.max() + reach, 9) - centre["l"],
    }


for law in (
    Law(
        name="metric_sigmoid",
        formula="M = M_max / (1 + exp(k (L - L_0)))",
        terms=(Sigmoid("M_max", "k", "L_0", "l"),),
        source="Grattafiori et al. 2024 (2407.21783), section 3.2.1; Bhagia et al. 2024 (2412.04403)",
        assumptions="The metric is a function of the loss alone, whatever N and D made it.",
        response="metric",
        family="metric",
        shapes=_shapes,
    ),
    Law(
        name="metric_exponential",
        formula="M = M_0 + M_1 exp(-k L)",
        terms=(Power("M_1", "k", "l", of_log=False), Constant("M_0")),
        source="Gadre et al. 2024 (2403.08540), eq. 5",
        assumptions="The metric is a function of the loss alone; M_0 is its value without any skill.",
        response="metric",
        family="metric",
        shapes=_shapes,
    ),
):
    register_law(law)
