"""The output of a plan: the runs of a sweep, and the JSON files that say how to read their rows."""

from __future__ import annotations

from typing import Any, NamedTuple

from sessionrec_jax.config.settings import Config


class Layout(NamedTuple):
    """Everything that a plan puts into a sweep folder."""

    configs: list[Config]
    """Resolved, each once."""
    files: dict[str, Any]
    """Contents of JSON files by name: report.json, comparison.json, theory.json."""
