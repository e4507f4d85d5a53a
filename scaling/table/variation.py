"""Checks that the axes of a law vary enough, and not together, and that the response falls along them.

Letters: R rows.
"""

from __future__ import annotations

import numpy as np

from scaling.errors import Refusal
from scaling.laws.registry import Law
from scaling.table.run_table import RunTable

AXIS = {"n": "N", "d": "D", "u": "unique D", "l": "loss", "s": "density"}
LEAST_SPREAD = 0.1
"""An axis hardly varies if its log has a smaller standard deviation, in nats."""
RAY_REFUSED = 0.1
"""N and D are one variable if log N and log D spread less off their line (standard deviation, nats)."""
RAY_WARNED = 0.35
METRIC_SPAN_WARNED = 0.1
"""A law of the loss is only a tangent if the highest loss over the lowest, minus 1, is less than this."""
RISES = 0.8
"""The response rises along an axis if it does so in this part of the pairs of runs that the axis alone separates."""
LEAST_PAIRS = 10
SAME = 0.01
"""Values of an axis that differ by less than this part are the same."""
MOST_ROWS = 400
"""Pairs are formed among this many random rows at most."""


def refuse_constant_axes(table: RunTable, law: Law, P: int) -> tuple[str, ...]:
    """Returns warnings about the axes of `law`, which has P free parameters on this table.

    Raises Refusal, which names the axis that varies too little, or says that N and D vary together.
    """
    points = table.points(law)
    return _two_axes(points) if "n" in points else _one_axis(table, law, points, P)


def refuse_rising(table: RunTable, law: Law) -> None:
    """Raises Refusal where the response rises along an axis of `law`: no law of this package can describe that."""
    points, response_R = table.points(law), table.response(law)
    some = np.random.default_rng(len(table)).permutation(len(table))[:MOST_ROWS]
    log_AR = {axis: np.log(x[some]) for axis, x in points.items()}
    for axis, log_R in log_AR.items():
        alone = log_R[None] - log_R[:, None] > SAME
        for other, other_R in log_AR.items():
            if other != axis:
                alone &= np.abs(other_R[None] - other_R[:, None]) <= SAME
        rising = response_R[some][None] > response_R[some][:, None]
        pairs = int(alone.sum())
        if axis in ("n", "d", "l") and pairs >= LEAST_PAIRS and (rising & alone).sum() >= RISES * pairs:
            raise Refusal(_rises(table, law, axis, float((rising & alone).sum() / pairs), len(log_AR) > 1))


def _rises(table: RunTable, law: Law, axis: str, share: float, has_others: bool) -> str:
    is_metric = law.response == "metric"
    name = table.columns.metric if is_metric else table.columns.response
    at = " with all else equal" if has_others else ""
    cure = (
        "Is it an error, which falls as the metric grows? Take 1 minus it."
        if is_metric
        else "Is it a metric, for which more is better? Name it with --metric. If it is a loss, the runs overfit or "
        "their learning rate does not suit their size: tune them before you fit a law."
    )
    return (
        f"{name} rises with {AXIS[axis]}{at} in {share:.0%} of the pairs of runs, and {law.name} can only fall. {cure}"
    )


def _distinct(values: np.ndarray) -> int:
    """Returns how many values differ by more than rounding."""
    return len(np.unique(np.round(np.log(values), 6)))


def _refuse_narrow(axis: str, values: np.ndarray, cure: str) -> None:
    if float(np.log(values).std()) < LEAST_SPREAD:
        raise Refusal(
            f"{AXIS[axis]} hardly varies, from {values.min():.4g} to {values.max():.4g}: its exponent cannot be "
            f"measured. {cure}"
        )


def _one_axis(table: RunTable, law: Law, points: dict[str, np.ndarray], P: int) -> tuple[str, ...]:
    (axis, values), *_ = points.items()
    distinct = _distinct(values)
    wanted = P + law.distinct_to_spare
    if distinct < wanted:
        cure = "Run more data sizes, over two decades if you can." if axis == "d" else "Add runs of other losses."
        raise Refusal(
            f"{distinct} distinct {AXIS[axis]} for {P} free parameters; at least {wanted} are needed to see a misfit. "
            f"{cure}"
        )
    if axis == "l":
        span = values.max() / values.min() - 1
        if span < METRIC_SPAN_WARNED:
            return (f"The loss spans only {span:.1%}: the law can hardly be distinguished from a straight line.",)
        return ()
    _refuse_narrow(axis, values, f"Run other values of {AXIS[axis]}, over two decades if you can.")
    sizes = 0 if table.n is None else _distinct(table.n)
    if sizes > 1:
        return (f"The runs have {sizes} different N and the law sees only D: right where N is no bottleneck.",)
    return ()


def _two_axes(points: dict[str, np.ndarray]) -> tuple[str, ...]:
    for axis, values in points.items():
        if axis not in ("n", "d"):
            continue
        cure = f"Run more values of {AXIS[axis]}, or fit a law without it."
        if _distinct(values) < 3:
            raise Refusal(
                f"{_distinct(values)} distinct {AXIS[axis]}; a power of {AXIS[axis]} with a floor needs at least 3. "
                f"{cure}"
            )
        _refuse_narrow(axis, values, cure)
    if "s" in points and _distinct(points["s"]) < 3:
        raise Refusal(
            f"{_distinct(points['s'])} distinct density; its power and the part that does not depend on it need at "
            "least 3. Run other densities, or fit chinchilla to the runs of one."
        )
    # repeated data may be on a ray of N and D, if its distinct part is not
    spread, slope = max(_off_line(points["n"], points[axis]) for axis in points if axis in ("d", "u"))
    if spread < RAY_REFUSED:
        raise Refusal(
            f"N and D are on a single ray (D grows as N^{slope:.3g}; spread off that line {spread:.2g} in log): alpha "
            "and beta cannot be separated. Add runs of the same N at several D (a grid or IsoFLOP design)."
        )
    if spread < RAY_WARNED:
        return (f"N and D are almost on one line (spread off it {spread:.2g} in log): alpha and beta trade off.",)
    return ()


def _off_line(n: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Returns the standard deviation of log N and log D off their common line, and the line's slope."""
    covariance = np.cov(np.log(n), np.log(d), bias=True)
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance)[0], 0.0))), float(covariance[0, 1] / covariance[0, 0])
