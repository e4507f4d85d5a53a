"""The flags that say what the columns of a table of runs are called: the same for every command that reads one."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

import scaling
from scaling.errors import InputError, near_miss
from scaling.table import run_table
from sessionrec_jax.row_columns import RECIPE, SCHEDULE_FRACTION, SESSIONS, SESSIONS_SEEN, with_defaults


@dataclass(frozen=True, kw_only=True)
class ColumnArgs:
    """To be inherited by a command's Args."""

    loss: str | None = None
    """Column of the held-out loss."""
    metric: str | None = None
    """Column of a metric above 0 and below 1 (recall_at_500): 1 - M is fitted, or M itself by a metric law."""
    n: str | None = None
    """Column of the parameter count N."""
    d: str | None = None
    """Column of the data size D."""
    unique: str | None = None
    """Column of the distinct data within D, for runs of several epochs."""
    flops: str | None = None
    """Column of the training FLOPs C; in a table without D, D = C / (6 N)."""
    baseline: str | None = None
    """Column of a trivial predictor's loss: runs that do not beat it are left out."""
    floor_column: str | None = None
    """Column that holds the known irreducible loss, the same in all rows."""
    select_by: str | None = None
    """Column (a validation loss) by which tuned runs were chosen: the lowest of each cell stays."""
    select_within: str | None = None
    """The columns that make a cell, as A,B."""
    progress: str | None = None
    """Column of the fraction of its schedule that a row has done; rows before the end are left out."""
    recipe: str | None = None
    """Columns that must not vary in one fit, as A,B, and are checked with the known ones (data set, losses)."""
    cluster: str | None = None
    """Column that names the run where a run has several rows: they are resampled together."""
    run_id: str | None = None
    """Column that names a row in messages. Default: run_id, if there is one."""

    def columns(self) -> scaling.Columns:
        return columns_of({field: getattr(self, field) for field in COLUMNS})


COLUMNS = tuple(field.name for field in fields(ColumnArgs))
FROM_SWEEP = (*COLUMNS, "law")
"""Keys of report.json."""


def columns_of(chosen: dict[str, Any]) -> scaling.Columns:
    """What `chosen` calls the columns; other keys say nothing."""
    found = {field: chosen.get(field) for field in COLUMNS}
    return scaling.Columns(**{field: value for field, value in found.items() if value is not None})


def table_of(
    source: Path, frame: pl.DataFrame, columns: scaling.Columns, unfinished: tuple[scaling.Excluded, ...], **options
) -> scaling.RunTable:
    """The RunTable of a loaded table, with contract 3's names for the columns that are not named."""
    unique = SESSIONS if columns.d == SESSIONS_SEEN else None
    defaults = scaling.Columns(unique=unique, progress=SCHEDULE_FRACTION, recipe=RECIPE)
    return run_table.from_frame(frame, columns, source=str(source), unfinished=unfinished, defaults=defaults, **options)


def chosen_for(args: ColumnArgs, path: Path, present: list[str]) -> dict[str, Any]:
    """The flags that were given; for the rest what PATH/report.json says, and then contract 3's names as far as the
    table has them. Raises InputError where that file cannot be read."""
    given = {name: getattr(args, name) for name in FROM_SWEEP if getattr(args, name, None) is not None}
    return with_defaults(_from_sweep(path / "report.json") | given, present)


def names(text: str | None) -> tuple[str, ...]:
    """The names in "A,B"."""
    return tuple(text.split(",")) if text else ()


def _from_sweep(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f'{path} holds a {type(values).__name__}; wanted an object such as {{"loss": "COLUMN"}}')
    for key in values:
        if key not in FROM_SWEEP:
            raise InputError(f"{path} has the unknown key {key!r}; {near_miss(key, FROM_SWEEP)}")
    return {key: ",".join(v) if isinstance(v, list) else v for key, v in values.items()}
