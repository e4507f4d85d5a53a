"""What tells the runs of a sweep apart: the settings that are not the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def varying(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each config (as `config.to_dict` writes it) the settings that vary, by dotted name, in the order of Config."""
    flat = [_flat(config) for config in configs]
    names = [name for name in flat[0] if any(of[name] != flat[0][name] for of in flat)] if flat else []
    names = [name for name in names if name != "data.items_per_row"]  # follows from the others
    return [{name: of[name] for name in names} for of in flat]


def told(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= {f"{name}.{field}": of for field, of in value.items()} if isinstance(value, dict) else {name: value}
    return found
