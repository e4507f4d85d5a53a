"""Side information: the columns of the item table as codes; vocabularies and bounds come from seen items alone.

A seen item is one that training sessions show. Code 0 is missing or the padding of a list. Codes 1 to n are the values
of the seen items, or buckets of their numbers. Code n + 1 is out of the vocabulary: no seen item has the value. The
model treats it as missing.

Letters: V dense items, W values of an item, B bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int32

from sessionrec_jax.errors import InputError, near_miss

LONGEST_LIST = 8
"""The number of values that are kept of a list."""
_CATEGORIES, _BUCKETS = "categories", "buckets"
_EXACT = 2**53  # whole floats below it are integers


class SideColumn(NamedTuple):
    """A column of side information, coded."""

    codes_VW: Int32[np.ndarray, "V W"]
    """By dense item; row 0 is padding."""
    table: pl.DataFrame
    """Categories: code, value. Buckets: code, above, up_to (the bounds; the upper one is inside; null: no bound)."""
    summary: dict[str, Any]
    """The manifest's entry: name, kind, values (n), width (W), and three counts of items: without a value (missing),
    with a value out of the vocabulary, and with a list that was shortened (lists_cut)."""


def code_side(
    items: pl.DataFrame, is_seen_V: Bool[np.ndarray, " V"], numeric: Sequence[str], buckets: int
) -> dict[str, SideColumn]:
    """Codes all columns of `items` but item_id.

    Columns with fractions, and those that `numeric` names, go into `buckets` buckets, or fewer if values repeat. The
    bounds are quantiles of the values of the seen items, each item once. All other columns are categories. Raises
    InputError as `check` does.
    """
    coded = {}
    for name, kind, column in _columns(items, numeric):
        is_list = isinstance(column.dtype, pl.List)
        width = min(int(column.list.len().drop_nulls().to_numpy().max(initial=1)), LONGEST_LIST) if is_list else 1
        long = pl.DataFrame({"row": pl.int_range(1, len(items) + 1, dtype=pl.Int64, eager=True), "value": column})
        if is_list:
            long = long.explode("value", empty_as_null=True, keep_nulls=True)
        long = long.drop_nulls("value")
        long = long.with_columns(place=pl.int_range(pl.len()).over("row") if is_list else pl.lit(0, pl.Int64))
        long = long.filter(pl.col("place") < width)
        row, place, value = (long[part] for part in ("row", "place", "value"))
        seen = value.filter(pl.Series(is_seen_V[row.to_numpy()], dtype=pl.Boolean))
        code, table = _by_bounds(value, seen, buckets) if kind == _BUCKETS else by_vocabulary(value, seen)
        codes_VW = np.zeros((len(items) + 1, width), np.int32)
        codes_VW[row.to_numpy(), place.to_numpy()] = code
        summary = {
            "name": name,
            "kind": kind,
            "values": len(table),
            "width": width,
            "missing": int(np.sum(codes_VW[1:, 0] == 0)),
            "out_of_vocabulary": int(np.sum(np.any(codes_VW > len(table), axis=1))),
            "lists_cut": int((column.list.len() > width).sum()) if is_list else 0,
        }
        coded[name] = SideColumn(codes_VW, table, summary)
    return coded


def check(items: pl.DataFrame | None, numeric: Sequence[str]) -> None:
    """Raises InputError on a column of an unknown type or whose name cannot be a file's, on a column of `numeric` that
    is missing or holds no numbers."""
    if items is None and numeric:
        raise InputError(f"--numeric {' '.join(numeric)}: the log has no item table; leave it out")
    for _ in () if items is None else _columns(items, numeric):
        pass


def _columns(items: pl.DataFrame, numeric: Sequence[str]) -> Iterator[tuple[str, str, pl.Series]]:
    """Yields (name, kind, values). Values are integers, text, booleans or (buckets) floats, or lists of them."""
    names = [name for name in items.columns if name != "item_id"]
    for name in numeric:
        if name not in names:
            raise InputError(f"--numeric {name}: the item table has no such column; {near_miss(name, names)}")
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"the item table's column {name!r} cannot name a file; rename it, letters and digits only")
        yield name, *_plain(items[name], is_numeric=name in numeric)


def _plain(column: pl.Series, *, is_numeric: bool) -> tuple[str, pl.Series]:
    dtype = column.dtype
    is_list = isinstance(dtype, pl.List)
    inner = dtype.inner if is_list else dtype
    if inner.is_float():  # NaN is missing, as null is
        column = column.list.eval(pl.element().fill_nan(None)) if is_list else column.fill_nan(None)
    if inner.is_numeric() and (is_numeric or not (inner.is_integer() or _is_whole(column))):
        kind, inner = _BUCKETS, pl.Float64()
    elif is_numeric:
        raise InputError(f"--numeric {column.name}: the item table's column has the type {dtype}; wanted numbers")
    elif inner.is_numeric():
        kind, inner = _CATEGORIES, inner if inner.is_integer() else pl.Int64()
    elif inner in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null):
        kind, inner = _CATEGORIES, pl.Boolean() if inner == pl.Boolean else pl.String()
    else:
        raise InputError(
            f"the item table's column {column.name!r} has the type {dtype}; side information is numbers, text, "
            "booleans or lists of them. Convert it first, or name the columns to use (--side)"
        )
    return kind, column.cast(pl.List(inner)).list.drop_nulls() if is_list else column.cast(inner)


def _is_whole(column: pl.Series) -> bool:
    # pandas stores integers with gaps as floats
    value = column.explode() if isinstance(column.dtype, pl.List) else column
    value = value.drop_nulls().cast(pl.Float64)
    return bool(((value % 1 == 0) & (value.abs() < _EXACT)).all())


def by_vocabulary(value: pl.Series, seen: pl.Series) -> tuple[np.ndarray, pl.DataFrame]:
    """Returns the codes of `value` and the vocabulary (code, value), which holds the values in `seen`."""
    values = seen.unique().sort()
    table = pl.DataFrame({"code": _codes(len(values)), "value": values})
    found = value.to_frame("value").join(table, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(len(values) + 1).to_numpy(), table


def _by_bounds(value: pl.Series, seen: pl.Series, buckets: int) -> tuple[np.ndarray, pl.DataFrame]:
    bound = quantile_bounds(seen.to_numpy(), buckets)
    values = len(bound) + 1 if len(seen) else 0  # without seen values all are out of the vocabulary
    inner = pl.Series(bound, dtype=pl.Float64)
    open_end = pl.Series([None] if values else [], dtype=pl.Float64)
    table = pl.DataFrame(
        {"code": _codes(values), "above": pl.concat([open_end, inner]), "up_to": pl.concat([inner, open_end])}
    )
    return np.searchsorted(bound, value.to_numpy(), side="left") + 1, table


def quantile_bounds(value_N: Float64[np.ndarray, " N"], buckets: int) -> Float64[np.ndarray, " B"]:
    """Returns the upper bounds of all buckets but the last, as distinct values of `value_N`: no bucket is empty."""
    if not len(value_N):
        return value_N
    ordered_N = np.sort(value_N)
    rank_B = -(-np.arange(1, buckets) * len(ordered_N) // buckets)  # rounded up: a bucket has at least its share
    bound_B = np.unique(ordered_N[rank_B - 1])
    return bound_B[bound_B < ordered_N[-1]]


def _codes(values: int) -> pl.Series:
    return pl.int_range(1, values + 1, dtype=pl.Int32, eager=True)
