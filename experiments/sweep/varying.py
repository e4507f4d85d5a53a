"""What tells the runs of a sweep apart: the settings that are not the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_FOLLOW = ("data.items_per_row", "data.fingerprint", "optim.learning_rate_rule")
"""Settings that follow from others."""


def varying(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each config (as `config.to_dict` writes it) the settings that vary, by dotted name, in the order of Config."""
    each = [flat(config) for config in configs]
    names = [name for name in each[0] if any(of[name] != each[0][name] for of in each)] if each else []
    names = [name for name in names if name not in _FOLLOW]
    return [{name: of[name] for name in names} for of in each]


def told(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """{dotted name: value} of a config."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= {f"{name}.{field}": of for field, of in value.items()} if isinstance(value, dict) else {name: value}
    return found
