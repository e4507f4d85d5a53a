"""The columns of a table of runs: named by flags, else by a sweep's report.json, else the default names of a row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import polars as pl

import scaling
from doors.address import shown
from doors.storage import copies
from scaling.errors import InputError, near_miss
from scaling.table import run_table
from sessionrec_jax.row_columns import RECIPE, SCHEDULE_FRACTION, SESSIONS, SESSIONS_SEEN, with_defaults

_FIELDS = tuple(field.name for field in dataclasses.fields(scaling.Columns))
_KEYS = (*_FIELDS, "law")


def named_by(columns: scaling.Columns, law: str | None) -> dict[str, Any]:
    """Returns what the flags name, as in report.json."""
    values = {name: getattr(columns, name) for name in _FIELDS} | {"law": law}
    return {name: value for name, value in values.items() if value}


def completed(named: dict[str, Any], sweep: Path, present: list[str]) -> dict[str, Any]:
    """Adds to `named` what SWEEP/report.json names, then the default names of a row as far as they are `present`.

    In a sweep folder the loss and the data have their default names even where no row has them, so that an error names
    them. Raises InputError if report.json cannot be read.
    """
    sweep = copies.opened(sweep, copies.for_readers)
    chosen = _report_json(sweep / "report.json") | named
    if {"n", "d", "flops", "n_from_flops"} & named.keys() and not sweep.is_dir():
        return chosen  # who names the axes of a file has named all that count
    found = with_defaults(chosen, present)
    return {key: name for key, name in found.items() if key in chosen or sweep.is_dir() or name in present}


def columns_of(named: dict[str, Any]) -> scaling.Columns:
    """Returns the columns among `named`."""
    return scaling.Columns(**{name: value for name, value in named.items() if name in _FIELDS and value is not None})


def laws_of(named: dict[str, Any]) -> list[str]:
    """Returns the laws among `named`, which has them as "A,B" or as a list."""
    law = named.get("law") or []
    return law.split(",") if isinstance(law, str) else law


def table_of(
    source: Path, frame: pl.DataFrame, columns: scaling.Columns, unfinished: tuple[scaling.Excluded, ...], **options
) -> scaling.RunTable:
    """Returns the RunTable of a loaded table, with the default names of a row for columns that are not named."""
    unique = SESSIONS if columns.d == SESSIONS_SEEN else None
    defaults = scaling.Columns(unique=unique, progress=SCHEDULE_FRACTION, recipe=RECIPE)
    return run_table.from_frame(
        frame, columns, source=shown(source), unfinished=unfinished, defaults=defaults, **options
    )


def _report_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f'{path} has a {type(values).__name__}; expected an object such as {{"loss": "COLUMN"}}')
    for key in values:
        if key not in _KEYS:
            raise InputError(f"{path} has the unknown key {key!r}; {near_miss(key, _KEYS)}")
    return values
