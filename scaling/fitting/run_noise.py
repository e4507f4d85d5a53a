"""The band of a single run: that of the law, widened by the scatter of the runs around it."""

from __future__ import annotations

import numpy as np

from scaling.fitting.minimize import robust_sigma


def run_noise95(residual_R: np.ndarray, clusters: int, P: int) -> float:
    """Returns half the 95 % range of one run's log response around a law of P parameters, in nats of log response.

    It is the robust standard deviation of the residuals, corrected for the parameters, times Student's t.
    """
    from scipy.special import stdtrit

    spare = max(clusters - P, 1)
    return float(robust_sigma(residual_R) * np.sqrt(clusters / spare) * stdtrit(spare, 0.975))


def run_band(value: float, low: float, high: float, noise95: float) -> tuple[float, float]:
    """Returns the ends of a run's 95 % band around `value`, whose own band is `low` to `high`. The distances add as
    squares in log response."""
    below, above = (np.hypot(np.log(value / end), noise95) for end in (low, high))
    return float(value * np.exp(-below)), float(value * np.exp(above))
