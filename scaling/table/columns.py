"""The columns of a table: completed, checked, and read as numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from scaling.errors import InputError, near_miss
from scaling.table.names import Columns

ONE_MEANING = (
    "loss", "metric", "n", "d", "unique", "flops", "n_from_flops", "density", "baseline", "floor_column", "progress",
)  # fmt: skip
"""Fields of Columns that must name different columns."""
CSV_COPY = "_duplicated_0"
"""Polars adds this to the second of two columns of a csv that have one name."""


def columns_from(names: Mapping[str, Any], base: Columns) -> Columns:
    """Returns `base` with its fields replaced by `names`. Raises InputError for a key that is not a field."""
    known = [field.name for field in dataclasses.fields(Columns)]
    for name in names:
        if name not in known:
            raise InputError(f"unknown argument {name!r}; {near_miss(name, known)}")
    return dataclasses.replace(base, **names)


def flag(field: str) -> str:
    """The command line's name of a field of Columns."""
    return f"--{field.replace('_', '-')}"


def resolve(frame: pl.DataFrame, columns: Columns, defaults: Columns, source: str) -> Columns:
    """Returns `columns` completed by the names in `defaults` that the frame has.

    Raises InputError for columns that are not in the frame, or that do not suffice for a fit.
    """
    for field in dataclasses.fields(columns):
        for name in _named(columns, field.name):
            if name not in frame.columns:
                raise InputError(
                    f"{source} has no column {name!r} ({flag(field.name)}); {near_miss(name, frame.columns)}"
                )
    _refuse_twice(frame, columns, source)
    if columns.loss is None and columns.metric is None:
        raise InputError("nothing to fit is named; name the loss column with --loss, or a metric with --metric")
    if columns.d is None and columns.flops is None and (columns.loss is None or columns.metric is None):
        raise InputError(
            "name the data column with --d, or training FLOPs with --flops; only a metric against the loss "
            "(--metric and --loss) needs neither"
        )
    if columns.flops is not None and columns.n is None:
        raise InputError("--flops is read as D = C / (6 N), or with --d as C / (N D), and so needs --n")
    if columns.n_from_flops is not None and (columns.n is not None or columns.flops is not None or columns.d is None):
        raise InputError("--n-from-flops is read as N = C / (6 D): it needs --d, and goes with neither --n nor --flops")
    if columns.unique is not None and columns.d is None:
        raise InputError("--unique is the distinct part of D, and so needs --d")
    if (columns.select_by is None) != (not columns.select_within):
        raise InputError("--select-by and --select-within go together: what is tuned, and within which cells")
    return _completed(columns, defaults, frame.columns)


def _refuse_twice(frame: pl.DataFrame, columns: Columns, source: str) -> None:
    """Raises InputError where one column has two meanings, or two columns of a csv have one name."""
    meaning: dict[str, str] = {}
    for field in ONE_MEANING:
        name = getattr(columns, field)
        if name is None:
            continue
        if name in meaning and (meaning[name], field) != ("d", "unique"):  # all data of one epoch are distinct
            raise InputError(f"column {name!r} is named by both {flag(meaning[name])} and {flag(field)}; give one each")
        if name + CSV_COPY in frame.columns:
            raise InputError(f"{source} has two columns named {name!r} ({flag(field)}); rename one of them")
        meaning[name] = field


def _completed(columns: Columns, defaults: Columns, present: Sequence[str]) -> Columns:
    generic = Columns(run_id="run_id", seed_column="seed")
    found: dict[str, str | tuple[str, ...]] = {}
    for field in (field.name for field in dataclasses.fields(columns)):
        usual = [name for name in (*_named(defaults, field), *_named(generic, field)) if name in present]
        if field == "recipe":
            found[field] = tuple(dict.fromkeys((*columns.recipe, *usual)))
        elif usual and not getattr(columns, field):
            found[field] = usual[0]
    return dataclasses.replace(columns, **found)


def _named(columns: Columns, field: str) -> tuple[str, ...]:
    value = getattr(columns, field)
    return (value,) if isinstance(value, str) else value or ()


def row_ids(frame: pl.DataFrame, columns: Columns) -> list[str]:
    """Returns the name of each row in messages."""
    if columns.run_id is None:
        return [f"row {i + 1}" for i in range(len(frame))]
    return [f"row {i + 1}" if name is None else str(name) for i, name in enumerate(frame[columns.run_id])]


def numbered(values: Iterable[Hashable]) -> np.ndarray:
    """Returns an integer for each value, [R]: the same for equal values, in the order in which they first appear."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values])


def numbers(frame: pl.DataFrame, name: str, row_id: Sequence[str]) -> np.ndarray:
    """Returns a column as float64 [R], with NaN for null.

    Raises InputError that names the row and the value where there is anything but a number.
    """
    column = frame[name]
    if column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null):
        values = column.cast(pl.Float64, strict=False)
        bad = values.is_null() & column.is_not_null()
    else:
        bad = column.is_not_null()
        values = pl.repeat(None, len(frame), dtype=pl.Float64, eager=True)
    if bad.any():
        at = int(bad.to_numpy().argmax())
        raise InputError(f"column {name!r} needs numbers; {row_id[at]} has {column[at]!r}")
    return values.fill_null(np.nan).to_numpy().astype(np.float64)
