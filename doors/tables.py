"""One door for tables that are read by name: Polars reads the file of exactly that name, whatever letters are in it.

Polars takes `*`, `?` and `[` in a path for a pattern, and so may read another file than the one that was named.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
from pathlib import Path
from typing import Any

import polars as pl

from doors.errors import InputError
from doors.files import check_name, typed_path


def read_csv(path: Path, **options: Any) -> pl.DataFrame:
    """Raises InputError if the header names a column twice."""
    check_name(path)
    _refuse_twins(path, options)
    return pl.read_csv(path, glob=False, **options)


def read_parquet(path: Path, **options: Any) -> pl.DataFrame:
    check_name(path)
    return pl.read_parquet(path, glob=False, **options)


def scan_csv(path: Path, **options: Any) -> pl.LazyFrame:
    """Raises InputError if the header names a column twice."""
    check_name(path)
    _refuse_twins(path, options)
    return pl.scan_csv(path, glob=False, **options)


def scan_parquet(path: Path, **options: Any) -> pl.LazyFrame:
    check_name(path)
    return pl.scan_parquet(path, glob=False, **options)


def scan_ipc(path: Path, **options: Any) -> pl.LazyFrame:
    check_name(path)
    return pl.scan_ipc(path, glob=False, **options)


def scan_ndjson(path: Path, **options: Any) -> pl.LazyFrame:
    check_name(path)
    return pl.scan_ndjson(glob.escape(str(path)), **options)  # it has no option `glob`


def read_ndjson(path: Path, **options: Any) -> pl.DataFrame:
    return scan_ndjson(path, **options).collect()


def matching(pattern: str) -> list[Path]:
    """Returns the file of exactly that name, or else the files that match the pattern, sorted. For the flags whose help
    says that they take a pattern."""
    path = typed_path(pattern)
    if path.exists():
        return [path]
    return [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - takes absolute ones


def _refuse_twins(path: Path, options: dict[str, Any]) -> None:
    """Polars would rename the second of two columns of one name, and a reader could mean either."""
    if not options.get("has_header", True):
        return
    dialect = {name: options[name] for name in ("separator", "quote_char", "encoding") if name in options}
    with contextlib.suppress(pl.exceptions.PolarsError):  # a header that cannot be read is the caller's to report
        header = pl.read_csv(io.BytesIO(_first_line(path)), has_header=False, infer_schema=False, **dialect)
        names = [name for name in header.row(0) if name is not None] if len(header) else []
        if twins := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{path} has the column {twins[0]!r} twice; give each column a name of its own")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        with gzip.open(file) if packed else file as lines:
            try:
                return lines.readline(_LONGEST_HEADER)
            except (OSError, EOFError):
                return b""  # a damaged archive is the caller's to report


_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 1 << 22
