"""What a table must have before a law may be fitted to it: refusals with the reason and the cure, and warnings."""

from __future__ import annotations

import numpy as np

from scaling.errors import InputError, Refusal
from scaling.laws import Law
from scaling.table import RunTable

RECIPE = ("dataset_fingerprint", "paradigm", "session_encoder", "sequence_encoder", "flops_convention")
"""Columns that make another recipe; a law describes one. Tuned settings (learning rate, epochs) are not among them."""
RAY_REFUSED = 0.1
"""Spread (standard deviation, nats) of log N and log D off their common line, below which they are one variable."""
RAY_WARNED = 0.35


def refuse(table: RunTable, law: Law, known_floor: float | None) -> tuple[str, ...]:
    """Warnings about fitting `law` to `table`.

    Raises:
      InputError: the law needs a column that was not named, or the floor does not fit the law.
      Refusal: the table cannot carry the law.
    """
    if "n" in law.axes and table.n is None:
        raise InputError(f"the law {law.name} ({law.formula}) needs N; name its column with --n")
    if known_floor is not None:
        _check_floor(law, known_floor)
    P = len(law.free_params(known_floor))
    _mixed_recipes(table)
    if len(table) < P + 3:
        raise Refusal(
            f"{law.name} has {P} free parameters and wants at least {P + 3} runs; {len(table)} remain"
            f"{_exclusions(table)}. Run more sizes, or fit a law with fewer parameters."
        )
    warnings = list(table.warnings)
    if len(table) < 4 * P:
        warnings.append(
            f"{len(table)} runs for {P} parameters: below {4 * P}, intervals are rough and forms hard to tell apart."
        )
    return (
        *warnings,
        *(_one_axis(table, P) if law.axes == ("d",) else _two_axes(table)),
        *_beaten_floor(table, known_floor),
    )


def _exclusions(table: RunTable) -> str:
    rules = ", ".join(f"{count} {rule}" for rule, count in table.excluded_by_rule().items())
    return f" of {len(table) + len(table.excluded)} ({rules})" if rules else ""


def _check_floor(law: Law, known_floor: float) -> None:
    if not law.has_floor:
        raise InputError(f"the law {law.name} has no floor; with a known floor fit power_floor or chinchilla")
    if not (np.isfinite(known_floor) and known_floor > 0):
        raise InputError(f"the known floor is {known_floor}; wanted a finite loss above 0 (for none: the law power)")


def _mixed_recipes(table: RunTable) -> None:
    for name in RECIPE:
        if name in table.frame.columns and table.frame[name].n_unique() > 1:
            values = ", ".join(str(v) for v in table.frame[name].unique(maintain_order=True).to_list()[:4])
            raise Refusal(
                f"the runs differ in {name!r} ({values}): one law describes one recipe. "
                "Fit a table with the rows of one of them at a time."
            )


def _one_axis(table: RunTable, P: int) -> tuple[str, ...]:
    distinct = len(np.unique(table.d))
    if distinct < P + 1:
        raise Refusal(
            f"{distinct} distinct D for {P} free parameters; at least {P + 1} are needed to see a misfit. "
            "Run more data sizes, over two decades if you can."
        )
    sizes = 0 if table.n is None else len(np.unique(table.n))
    if sizes > 1:
        return (f"The runs have {sizes} different N and the law sees only D: right where N is no bottleneck.",)
    return ()


def _two_axes(table: RunTable) -> tuple[str, ...]:
    for axis, values in (("N", table.n), ("D", table.d)):
        if len(np.unique(values)) < 3:
            raise Refusal(
                f"{len(np.unique(values))} distinct {axis}; a power of {axis} beside a floor needs at least 3. "
                f"Run more values of {axis}, or fit a law without it."
            )
    log_nd = np.log(np.stack([table.n, table.d]))
    spread = np.sqrt(max(np.linalg.eigvalsh(np.cov(log_nd, bias=True))[0], 0.0))
    if spread < RAY_REFUSED:
        slope = np.polyfit(*log_nd, 1)[0]
        raise Refusal(
            f"N and D lie on a single ray (D grows as N^{slope:.3g}; spread off that line {spread:.2g} in log): alpha "
            "and beta cannot be told apart. Add runs of the same N at several D (a grid or IsoFLOP design)."
        )
    if spread < RAY_WARNED:
        return (f"N and D almost lie on one line (spread off it {spread:.2g} in log): alpha and beta trade off.",)
    return ()


def _beaten_floor(table: RunTable, known_floor: float | None) -> tuple[str, ...]:
    below = 0 if known_floor is None else int((table.loss <= known_floor).sum())
    return (f"{below} runs have a loss at or below the known floor: is it the floor of this loss?",) if below else ()
