"""What a plan lays out: the runs of a sweep, and the files that say how their rows are read."""

from __future__ import annotations

from typing import Any, NamedTuple

from sessionrec_jax.config.settings import Config


class Layout(NamedTuple):
    """What a plan puts into a sweep folder."""

    configs: list[Config]
    """Resolved, each once."""
    files: dict[str, Any]
    """JSON files by name, for those who read the sweep."""
