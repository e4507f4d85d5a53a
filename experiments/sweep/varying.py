"""The settings that are not the same in all runs of a sweep: runs are labelled by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessionrec_jax.config.values import flat, short

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
