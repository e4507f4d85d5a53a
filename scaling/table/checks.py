"""Checks that a table can carry a law: refusals with the reason and the cure, and warnings."""

from __future__ import annotations

import numpy as np

from scaling.errors import InputError, Refusal
from scaling.laws.registry import Law
from scaling.table.rules import LOST
from scaling.table.run_table import RunTable
from scaling.table.variation import refuse_constant_axes

SPARE = 3
"""A fit needs this many runs more than it has parameters, or it says nothing about its own error."""
REPEATED_ABOVE = 1.05
"""A run has repeated data if its D is more than this many times its distinct data."""


def refuse(table: RunTable, law: Law, known_floor: float | None) -> tuple[str, ...]:
    """Returns warnings about a fit of `law` to `table`.

    Raises:
      InputError: the law needs a column that was not named, or the floor does not fit the law.
      Refusal: the table cannot carry the law.
    """
    table.points(law)  # names the axis that has no column
    response = table.response(law)
    if known_floor is not None:
        _check_floor(law, known_floor)
    P = len(law.free_params(known_floor))
    _mixed_recipes(table)
    _rows_of_one_run(table)
    if len(table) < P + SPARE:
        raise Refusal(
            f"{law.name} has {P} free parameters and wants at least {P + SPARE} runs; {len(table)} remain"
            f"{_exclusions(table)}. {_cure(table)}"
        )
    _constant(table, law, response)
    _epochs(table, law)
    return (
        *table.warnings,
        *_few(table, P),
        *refuse_constant_axes(table, law, P),
        *_beaten_floor(table, response, known_floor),
    )


def _exclusions(table: RunTable) -> str:
    rules = ", ".join(f"{count} {rule}" for rule, count in table.excluded_by_rule().items())
    return f" of {len(table) + len(table.excluded)} ({rules})" if rules else ""


def _cure(table: RunTable) -> str:
    """A sentence with what to change where too few runs remain."""
    if LOST not in table.excluded_by_rule():
        return "Run more sizes, or fit a law with fewer parameters."
    return (
        "Train the lost runs better before running more sizes: a run loses to its baseline where its learning rate is "
        "too high or too low, where it has too few epochs or so large a batch that an epoch is one optimizer step, or "
        "where its loss is not calibrated (such as other_clicks=masked of sessionrec)."
    )


def _check_floor(law: Law, known_floor: float) -> None:
    if not law.has_floor:
        raise InputError(
            f"the law {law.name} has no floor; with a known floor fit a form with E, such as power_floor or chinchilla"
        )
    if not (np.isfinite(known_floor) and known_floor > 0):
        raise InputError(f"the known floor is {known_floor}; wanted a finite loss above 0 (for none: the law power)")


def _mixed_recipes(table: RunTable) -> None:
    columns = table.columns
    fitted = (columns.loss, columns.metric, columns.d, columns.n, columns.unique, columns.flops)
    for name in columns.recipe:
        if name in fitted:
            continue
        values = list(dict.fromkeys("(none)" if value is None else str(value) for value in table.frame[name]))
        if len(values) > 1:
            shown = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
            raise Refusal(
                f"the runs differ in {name!r} ({shown}): one law describes one recipe. "
                "Fit a table with the rows of one of them at a time."
            )


def _rows_of_one_run(table: RunTable) -> None:
    name = table.columns.run_id
    if name is None or table.columns.cluster is not None:
        return
    ids = table.frame[name].drop_nulls()
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise Refusal(
            f"{len(repeated)} rows are of {repeated.n_unique()} runs ({name} {repeated[0]} and its like): rows of one "
            f"run share its luck, and counted as separate runs they make every interval too narrow. Name the run with "
            f"--cluster {name}, or keep one row a run."
        )


def _constant(table: RunTable, law: Law, response: np.ndarray) -> None:
    if np.ptp(response) <= 1e-12 * response.max():
        name = table.columns.metric if law.response == "metric" else table.columns.response
        raise Refusal(
            f"column {name!r} is {response[0]:g} in all {len(table)} rows: there is nothing to explain. "
            "Is it the column that was meant?"
        )


def _epochs(table: RunTable, law: Law) -> None:
    """Refuses repeated data under a law that counts all data as new, and the other way round."""
    if table.unique is None or "d" not in law.axes:
        return
    epochs = table.d / table.unique
    repeats = int((epochs > REPEATED_ABOVE).sum())
    d, unique = table.columns.d, table.columns.unique
    if repeats and "u" not in law.axes:
        raise Refusal(
            f"{repeats} runs repeat their data ({d} is up to {epochs.max():.3g} times {unique}), and {law.name} counts "
            f"all of D as new. Fit the law repeated (of N, {d} and {unique}), or take the distinct data as D: "
            f"--d {unique}."
        )
    if not repeats and "u" in law.axes:
        raise Refusal(
            f"no run repeats its data ({d} is at most {epochs.max():.3g} times {unique}): what a repetition is worth "
            f"cannot be known. Fit chinchilla, or add runs of several epochs."
        )


def _few(table: RunTable, P: int) -> tuple[str, ...]:
    warnings = []
    if len(table) < 4 * P:
        warnings.append(
            f"{len(table)} runs for {P} parameters: below {4 * P}, intervals are rough and forms hard to distinguish."
        )
    clusters = len(np.unique(table.cluster))
    if table.columns.cluster is not None and clusters < P + SPARE:
        warnings.append(
            f"{clusters} clusters for {P} parameters: whole clusters are resampled, and so few give intervals that are "
            "too narrow."
        )
    return tuple(warnings)


def _beaten_floor(table: RunTable, response: np.ndarray, known_floor: float | None) -> tuple[str, ...]:
    below = 0 if known_floor is None else int((response <= known_floor).sum())
    if known_floor is not None and below == len(response):
        raise Refusal(
            f"the known floor {known_floor:g} is not below any {table.columns.response}, which is at most "
            f"{response.max():.6g}: is it in another unit, or of another loss?"
        )
    return (f"{below} runs have a loss at or below the known floor: is it the floor of this loss?",) if below else ()
