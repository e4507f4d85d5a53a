"""Content vectors: columns of the item table that hold a list of floats of one width, such as the vector of a caption.

They are read and never trained. A prepared folder has each as DATA/vector_NAME.npy, a matrix that is mapped into
memory.

Letters: V dense items, F width of a content vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from doors.state import Damaged
from sessionrec_jax.errors import InputError, near_miss

_NAMED = 5
"""The number of items that a message or the card names."""


class ContentVectors(NamedTuple):
    """A column of content vectors."""

    vector_VF: Float[np.ndarray, "V F"]
    """By dense item; zero for padding (row 0) and for items without a vector."""
    summary: dict[str, Any]
    """The manifest's entry: name, width (F), type, and the items without a vector: how many, and the first of them."""


def check(items: pl.DataFrame | None, names: Sequence[str]) -> None:
    """Raises InputError unless each of `names` is a column of lists of floats whose name can be a file's."""
    if items is None and names:
        raise InputError(f"--vector {' '.join(names)}: the log has no item table; leave it out")
    for name in names:
        assert items is not None
        known = [column for column in items.columns if column != "item_id"]
        if name not in known:
            raise InputError(f"--vector {name}: the item table has no such column; {near_miss(name, known)}")
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"the item table's column {name!r} cannot name a file; rename it, letters and digits only")
        dtype = items[name].dtype
        if not (isinstance(dtype, pl.List | pl.Array) and dtype.inner is not None and dtype.inner.is_float()):
            raise InputError(
                f"--vector {name}: the item table's column has the type {dtype}; wanted a list of floats an item. "
                "Cast it to pl.List(pl.Float32) and write the table as parquet"
            )


def read(items: pl.DataFrame, names: Sequence[str], kind: str) -> dict[str, ContentVectors]:
    """Returns the vectors of the columns `names` as numbers of the type `kind`; row k of `items` is dense item k + 1.

    A missing or empty list is an item without a vector. Raises InputError if vectors have several lengths, or a number
    that is missing, not finite, or too large for `kind`.
    """
    return {name: _read_one(items["item_id"], items[name], kind) for name in names}


def _read_one(item_ids: pl.Series, column: pl.Series, kind: str) -> ContentVectors:
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    length_N = lists.list.len().fill_null(0).to_numpy()
    there_N = np.flatnonzero(length_N)
    if not len(there_N):
        raise InputError(f"--vector {column.name}: no item of the table has a vector; leave the column out")
    width = int(length_N[there_N[0]])
    if len(others := there_N[length_N[there_N] != width]):
        other, first = item_ids[int(others[0])], item_ids[int(there_N[0])]
        raise InputError(
            f"--vector {column.name}: the vector of item {other!r} has {length_N[others[0]]} numbers, and that of item "
            f"{first!r} has {width}; wanted vectors of one length"
        )
    values = lists.filter(pl.Series(length_N > 0)).explode().cast(pl.Float64).to_numpy().reshape(-1, width)
    with np.errstate(over="ignore"):
        kept_NF = values.astype(kind)
    for wrong_NF, what, cure in (
        (~np.isfinite(values), "holds NaN, an infinity or a null", "leave the whole vector null where it is not known"),
        (
            ~np.isfinite(kept_NF),
            f"has a number too large for {kind}",
            "use --vector-type float32, or scale the vectors",
        ),
    ):
        if len(rows := np.flatnonzero(wrong_NF.any(axis=1))):
            item = item_ids[int(there_N[rows[0]])]
            raise InputError(
                f"--vector {column.name}: the vector of item {item!r} {what} ({len(rows):,} items in all); {cure}"
            )
    vector_VF = np.zeros((len(column) + 1, width), kind)
    vector_VF[there_N + 1] = kept_NF
    without = np.flatnonzero(length_N == 0)
    first = [str(item_ids[int(n)]) for n in without[:_NAMED]]
    summary = {"name": column.name, "width": width, "type": kind, "missing": len(without), "missing_first": first}
    return ContentVectors(vector_VF, summary)


def file_of(name: str) -> str:
    """Returns the name of the file with the vectors of a column."""
    return f"vector_{name}.npy"


def write(folder: Path, vectors: dict[str, ContentVectors]) -> None:
    """Writes the file of each column."""
    for name, column in vectors.items():
        np.save(folder / file_of(name), column.vector_VF, allow_pickle=False)


def mapped(folder: Path, manifest: dict[str, Any]) -> dict[str, Float[np.ndarray, "V F"]]:
    """Maps the file of each column. Raises Damaged if one has another shape or type than the manifest says."""
    found = {}
    for column in manifest.get("vectors", []):  # a log without vectors has no entry
        name = column["name"]
        array = np.load(folder / file_of(name), mmap_mode="r", allow_pickle=False)
        wanted = (manifest["items"] + 1, column["width"]), np.dtype(column["type"])
        if (array.shape, array.dtype) != wanted:
            raise Damaged(
                f"{file_of(name)} has {array.shape} numbers of the type {array.dtype}, and prepared.json counts "
                f"{wanted[0]} of the type {wanted[1]}"
            )
        found[name] = array.view(np.ndarray)
    return found


def sentence(summary: dict[str, Any]) -> str:
    """Returns the part of the card about a column."""
    missing, first = summary["missing"], summary["missing_first"]
    dots = ", ..." if missing > len(first) else ""
    without = f", {missing:,} items without one ({', '.join(first)}{dots})" if missing else ""
    return f"{summary['name']} ({summary['width']:,} numbers, {summary['type']}{without})"
