"""What commands over tables of runs share: narrow tables on the terminal, JSON files written whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from scaling.errors import InputError


def columns(*heads: str) -> Table:
    """An empty table whose columns take no more room than their text."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def write(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON whole or not at all; what JSON has no number for is null. Raises InputError without a folder."""
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(_plain(values), indent=1, allow_nan=False) + "\n")
    part.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value
