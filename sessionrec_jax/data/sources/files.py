"""The files of a published log: the expected ones, the missing ones, and lazy scans of the needed columns."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from doors import tables
from sessionrec_jax.data.session_log import OF_SESSION
from sessionrec_jax.errors import InputError, near_miss, no_room

ALWAYS = "always"
IF_THERE = "if there"


class File(NamedTuple):
    """A file, or several of one pattern, that a source expects in its folder."""

    pattern: str
    """Path below the folder, or a glob."""
    holds: str
    """Its content, in words."""
    needed: str = ALWAYS
    """ALWAYS, IF_THERE, or the flag that asks for it."""


Types = dict[str, Any]  # column -> polars type


def layout(files: Sequence[File]) -> list[str]:
    """Returns a line for each file: pattern, content, when it is needed."""
    width = max((len(file.pattern) for file in files), default=0)
    when = {file: "" if file.needed == ALWAYS else f" ({file.needed})" for file in files}
    return [f"{file.pattern:<{width}}  {file.holds}{when[file]}" for file in files]


def locate(folder: Path, files: Sequence[File], flags: Collection[str] = ()) -> dict[str, list[Path]]:
    """Returns the paths of each pattern, sorted; an empty list for an optional file that is missing.

    Raises InputError, which names every missing file, the expected layout, and a folder just below that has the files.
    """
    wanted = [file.pattern for file in files if file.needed in (ALWAYS, *flags)]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted one that holds\n" + _indented(files))
    missing = [pattern for pattern in wanted if not any(folder.glob(pattern))]
    if missing:
        below = [child for child in sorted(folder.iterdir()) if child.is_dir() and _holds(child, wanted)]
        hint = f" They are in {below[0]}: give that folder." if below else ""
        raise InputError(
            f"{folder} has no {' and no '.join(missing)}.{hint} Wanted a folder that holds\n{_indented(files)}"
        )
    return {file.pattern: sorted(folder.glob(file.pattern)) for file in files}


def _holds(folder: Path, patterns: Sequence[str]) -> bool:
    return all(any(folder.glob(pattern)) for pattern in patterns)


def _indented(files: Sequence[File]) -> str:
    return "\n".join(f"  {line}" for line in layout(files))


@contextlib.contextmanager
def readable(problem: str, cure: str) -> Iterator[None]:
    """Guards a block that scans files. Raises InputError, which begins with `problem`, if a file is damaged.

    Errors about a file without data and about a full disk pass through.
    """
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    except pl.exceptions.NoDataError:
        raise
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        if no_room(error):
            raise
        raise InputError(f"{problem}: {str(error).splitlines()[0]}. {cure}") from error
    malformed = [str(warning.message) for warning in warned if "malformed" in str(warning.message)]
    if malformed:  # polars only warns, and skips the rows between two quotes
        raise InputError(f"{problem}: {malformed[0]}; is a quote never closed? {cure}")


def reading(source: str) -> contextlib.AbstractContextManager[None]:
    """Guards a block that scans the files of a published log, as `readable` does."""
    return readable(
        f"the files of {source} cannot be read to the end",
        "Is the download complete? Compare its size or checksum with the publisher's",
    )


def scanned(frame: pl.LazyFrame, source: str, rows: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of a source in tables of `rows` rows. Raises InputError if a file is damaged."""
    with reading(source):
        yield from frame.collect_batches(chunk_size=rows, engine="streaming")


def collected(frame: pl.LazyFrame, source: str) -> pl.DataFrame:
    """Reads the rows of a source into memory. Raises InputError if a file is damaged."""
    with reading(source):
        return frame.collect(engine="streaming")


def scan_csv(paths: Sequence[Path], types: Types, *, quoted: bool = False) -> pl.LazyFrame:
    """Scans the columns of `types` in all files. A value that is not of its type is null.

    Without `quoted` (the layout has quoted fields) a quote is a letter, so that a stray one spoils only its own row.
    Raises InputError on an empty file and on a missing column, with the nearest name.
    """
    frames = []
    for path in paths:
        try:
            frame = tables.scan_csv(
                path,
                quote_char='"' if quoted else None,
                infer_schema=False,
                schema_overrides=types,
                ignore_errors=True,
                encoding="utf8-lossy",
            )
            _need(path, frame.collect_schema().names(), types)
        except pl.exceptions.NoDataError as error:
            raise InputError(f"{path} is empty: it has not even a header") from error
        frames.append(frame.select(*types))
    return pl.concat(frames)


def scan_headless(paths: Sequence[Path], columns: Sequence[str]) -> pl.LazyFrame:
    """Scans tab-separated files without a header as text; a quote is a letter like any other."""
    schema = dict.fromkeys(columns, pl.String)
    options = {"separator": "\t", "has_header": False, "schema": schema, "quote_char": None, "encoding": "utf8-lossy"}
    return pl.concat([tables.scan_csv(path, **options) for path in paths] or [pl.LazyFrame(schema=schema)])


def scan_typed(paths: Sequence[Path], types: Types) -> pl.LazyFrame:
    """Scans the columns of `types` in parquet or feather files, cast to those types.

    Raises InputError on a file that cannot be read and on a missing column.
    """
    frames = []
    for path in paths:
        try:
            frame = tables.scan_parquet(path) if path.suffix == ".parquet" else tables.scan_ipc(path)
            _need(path, frame.collect_schema().names(), types)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        frames.append(frame.select(pl.col(name).cast(kind, strict=False) for name, kind in types.items()))
    return pl.concat(frames)


def _need(path: Path, columns: list[str], types: Types) -> None:
    for name in types:
        if name not in columns:
            raise InputError(f"{path} lacks the published column {name!r}; {near_miss(name, columns)}")


def session_context(names: Iterable[str]) -> list[pl.Expr]:
    """Returns the columns under the names that make them context of the session."""
    return [pl.col(name).alias(OF_SESSION + name) for name in names]


def label(column: str | pl.Expr) -> pl.Expr:
    """Returns a column of true/false or 0/1 as text. A missing value is "missing", so that the row breaks the contract
    and does not count as context."""
    column = pl.col(column) if isinstance(column, str) else column
    return column.cast(pl.String).str.strip_chars().replace("", None).fill_null("missing")
