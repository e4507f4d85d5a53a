"""Writes results as JSON with all digits; a file is complete or does not appear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from doors.files import write_text


def write_json(values: dict[str, Any], path: Path) -> None:
    """Writes `values` to `path`. Raises what `doors.files.writing` raises."""
    cloud = values.get("cloud")
    text = json.dumps(values | {"cloud": "@"} if cloud is not None else values, indent=1, allow_nan=False)
    if cloud is not None:  # one draw in each line, not one number
        draws = ",\n  ".join(json.dumps(draw) for draw in cloud)
        text = text.replace('"cloud": "@"', f'"cloud": [{draws}]', 1)
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """Returns `value` in JSON's types, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else value
