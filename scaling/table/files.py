"""Reads a table of runs: CSV, parquet, JSON lines, a sweep folder of `row.json` files, or a data frame."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from doors import tables
from doors.state import Damaged, read_object
from doors.storage import copies
from scaling.errors import InputError, near_miss
from scaling.table.rules import NO_ROW, Excluded

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: tables.read_csv(path, infer_schema_length=None, null_values=[""]),
    ".parquet": tables.read_parquet,
    ".jsonl": lambda path: tables.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: tables.read_ndjson(path, infer_schema_length=None),
}


def load(path: str | Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """Reads a file, or a sweep in a folder or a bucket. Returns its table, and the runs of a sweep without a row yet.

    Raises InputError where there is no such file, or it cannot be read.
    """
    path = copies.for_reading(path, copies.for_readers)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if p.suffix in _READERS] if path.parent.is_dir() else []
        hint = near_miss(path.name, siblings) if siblings else f"there is no table in {path.parent.resolve()} either"
        raise InputError(f"no file or folder {path}; {hint}")
    if path.suffix not in _READERS:
        raise InputError(f"{path} ends in {path.suffix!r}; wanted {', '.join(_READERS)}, or a sweep folder")
    try:
        return _READERS[path.suffix](path), ()
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty; a fit needs one row a run") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def to_polars(frame: Any) -> pl.DataFrame:
    """Returns a Polars or pandas frame, or a list of dicts, as a Polars frame. Raises InputError for anything else."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, list) and all(isinstance(row, dict) for row in frame):
        names = list(dict.fromkeys(str(name) for row in frame for name in row))
        return pl.DataFrame([pl.Series(name, [row.get(name) for row in frame], strict=False) for name in names])
    if not (hasattr(frame, "columns") and hasattr(frame, "isna")):
        kind = type(frame).__name__
        raise InputError(f"the table is a {kind}; expected a path, a Polars or pandas frame, or a list of dicts")
    pandas: Any = frame
    # column by column through numpy: polars.from_pandas needs pyarrow
    return pl.DataFrame([pl.Series(str(name), _values(pandas[name]), strict=False) for name in pandas.columns])


def _values(series: Any) -> Any:
    """A pandas series as an array, or as a list with None for each missing value where it does not hold numbers."""
    array = np.asarray(series)
    if array.dtype != object:
        return array
    return [None if missing else value for value, missing in zip(array.tolist(), series.isna(), strict=True)]


def _load_folder(folder: Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """Reads a sweep, which may be under way: rows appear meanwhile, and a failed one disappears on a retry."""
    runs = folder / "runs" if (folder / "runs").is_dir() else folder
    planned, started = _planned(folder), {path.parent.name for path in runs.glob("*/config.json")}
    rows = {path.parent.name: row for path in sorted(runs.glob("*/row.json")) if (row := _row(path)) is not None}
    if not (rows or planned or started):
        raise InputError(f"{folder} holds no runs/*/row.json and no */row.json; give a sweep folder or a table file")
    under_way = sorted(started - rows.keys())
    waiting = [name for name in planned if name not in started and name not in rows]
    if not any(row.get("status", "done") == "done" for row in rows.values()):
        counts = Counter(row["status"] for row in rows.values())
        counts |= {"under way or dead": len(under_way), "waiting": len(waiting)}
        shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        raise InputError(f"{folder}: no run is done yet ({shown}); wanted at least one. Come back when it has a row")
    unfinished = [
        Excluded(name, NO_ROW, "under way, or died: it has a config.json but no row.json") for name in under_way
    ]
    unfinished += [Excluded(name, NO_ROW, "planned, and not started") for name in waiting]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    series = [pl.Series(name, [row.get(name) for row in rows.values()], strict=False) for name in names]
    return pl.DataFrame(series), tuple(unfinished)


def _planned(folder: Path) -> list[str]:
    """Returns the names of the runs in sweep.json: an empty list where there is no such file."""
    try:
        return list(read_object(folder / "sweep.json", {"runs": dict})["runs"])
    except FileNotFoundError:
        return []


def _row(path: Path) -> dict[str, Any] | None:
    """Reads a row, or returns None where the file is gone by now."""
    try:
        row = read_object(path, {})
    except FileNotFoundError:
        return None
    if not row:
        raise Damaged(f"{path} is damaged: it is an empty object. Delete it, and run it again")
    return {name: json.dumps(v) if isinstance(v, dict | list) else v for name, v in row.items()}
