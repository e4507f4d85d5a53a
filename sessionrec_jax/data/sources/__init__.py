"""Sources of session logs, one file each. A source maps a published layout to the two tables of contract 1.

A source is a module with NAME, TITLE, LICENCE, SIZE, WHERE (to download it), CITATION, FILES (the files it expects),
`Options` (a dataclass: its flags on the command line) and `read(options) -> RawLog`. It checks its files and scans them
lazily. Cleaning, sessions and roles are the same for all sources (preparation/). `sessionrec_jax.registry.SOURCES`
finds a source by name: a file of this folder, or one that a plugin registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from sessionrec_jax.data.session_log import Split, TimeUnit


@dataclass(frozen=True)
class RawLog:
    """A log as a source reads it, before any check."""

    source: str
    """Name of the source."""
    exposures: pl.LazyFrame | pl.DataFrame
    """Columns of contract 1, and any others, of any type. It is scanned twice if rows are rejected."""
    items: pl.DataFrame | None = None
    """item_id and columns of side information. None: the catalogue is the items seen."""
    time_unit: TimeUnit = "ms"
    """Unit of times that are numbers."""
    times: str | None = None
    """The published file and column that hold the times, for messages. None: --time-unit gives their unit."""
    session_rule: str = "gap_minutes=30"
    """Default rule that cuts sessions, if the exposures have no session_id."""
    split: Split = "leave_one_session_out"
    """Default rule that gives sessions their roles."""
    note: str = ""
    """A remark for readers of the log: what was left out, and why."""
    truth: dict[str, Any] | None = None
    """Settings of the process that made the log, if it is synthetic."""
