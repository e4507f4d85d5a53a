"""The settings that are not the same in all runs of a sweep: runs are labelled by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DERIVED = (
    "data.items_per_row", "data.fingerprint", "data.rows_auto", "data.eval_users_auto", "optim.learning_rate_rule",
    "train.checkpoints_at", "train.begins_from",
)  # fmt: skip
"""Settings that follow from others, so that no label needs them."""


def varying(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each config (as `config.to_dict` writes it) the settings that vary, by dotted name, in the order of
    Config."""
    each = [flat(config) for config in configs]
    names = [name for name in each[0] if any(other[name] != each[0][name] for other in each)] if each else []
    return [{name: settings[name] for name in names if name not in _DERIVED} for settings in each]


def label(settings: Mapping[str, Any]) -> str:
    """Returns settings as text, each by its last name: `users 500, seed 1`."""
    return ", ".join(f"{name.rpartition('.')[2]} {short(value)}" for name, value in settings.items())


def short(value: Any) -> str:
    """Returns the value of a setting in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Returns {dotted name: value} of a config."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        fields = value.items() if isinstance(value, dict) else None
        found |= {name: value} if fields is None else {f"{name}.{field}": each for field, each in fields}
    return found
