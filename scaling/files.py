"""A table of runs as it stands in its file: CSV, parquet, JSON lines, or a sweep folder of `row.json` files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from scaling.errors import InputError, near_miss
from scaling.rules import Excluded

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema_length=None, null_values=[""]),
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
}


def load(path: str | Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The table as it stands, and the runs of a sweep folder that have no row yet. Raises InputError."""
    path = Path(path)
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


def _load_folder(folder: Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    runs = folder / "runs" if (folder / "runs").is_dir() else folder
    files = sorted(runs.glob("*/row.json"))
    if not files:
        raise InputError(f"{folder} holds no runs/*/row.json and no */row.json; give a sweep folder or a table file")
    rows = []
    for file in files:
        try:
            row = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is not valid JSON ({error}); remove the folder and run it again") from error
        if not isinstance(row, dict):
            raise InputError(f"{file} holds a {type(row).__name__}; wanted one JSON object, a run's row")
        rows.append({name: json.dumps(v) if isinstance(v, dict | list) else v for name, v in row.items()})
    unfinished = tuple(
        Excluded(config.parent.name, "not done", "it has a config.json but no row.json: under way, or died")
        for config in sorted(runs.glob("*/config.json"))
        if not (config.parent / "row.json").exists()
    )
    names = list(dict.fromkeys(name for row in rows for name in row))
    series = [pl.Series(name, [row.get(name) for row in rows], strict=False) for name in names]
    return pl.DataFrame(series), unfinished
